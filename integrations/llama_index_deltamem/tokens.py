"""The backbone's tokenizer, as LlamaIndex takes one; LlamaIndex's own where there is no backbone."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial

from llama_index.core.utils import get_tokenizer

from deltamem_agents.frameworks.sanitizing import plain_text
from deltamem_agents.memory import DeltaMem

Tokenizer = Callable[[str], list[int]]
REMEMBERED = 1024  # texts; a memory counts its whole buffer at every `get`, twice, in the event loop


def tokenizer_of(mem: DeltaMem) -> Tokenizer:
    """A function from a text to its token ids, which remembers what it was lately asked."""
    encode = partial(mem.engine.tokenizer.encode, add_special_tokens=False) if mem.backbone.present else get_tokenizer()

    @lru_cache(maxsize=REMEMBERED)
    def tokens(text: str) -> tuple[int, ...]:
        return tuple(encode(plain_text(text)))

    return lambda text: list(tokens(text))
