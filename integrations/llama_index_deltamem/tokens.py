"""The backbone's tokenizer, as LlamaIndex takes one."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from deltamem_agents.frameworks.sanitizing import plain_text
from deltamem_agents.memory import DeltaMem

Tokenizer = Callable[[str], list[int]]
REMEMBERED = 1024  # texts; a memory counts its whole buffer at every `get`, twice, in the event loop


def tokenizer_of(mem: DeltaMem) -> Tokenizer:
    """A function from a text to its token ids, which remembers what it was lately asked."""
    tokenizer = mem.engine.tokenizer

    @lru_cache(maxsize=REMEMBERED)
    def tokens(text: str) -> tuple[int, ...]:
        return tuple(tokenizer.encode(plain_text(text), add_special_tokens=False))

    return lambda text: list(tokens(text))
