"""The backbone's tokenizer, as LlamaIndex takes one (its own where there is no backbone), and what else it counts."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any

from llama_index.core.base.llms.types import CitableBlock, ThinkingBlock, ToolCallBlock
from llama_index.core.utils import get_tokenizer

from deltamem_agents.frameworks.sanitizing import plain_json, plain_text
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


def counted_apart(blocks: Sequence[Any]) -> list[Any]:
    """The blocks that `Memory` counts in later versions only: calls of tools, thoughts, and what can be cited."""
    return [block for block in blocks if isinstance(block, CitableBlock | ThinkingBlock | ToolCallBlock)]


def counted_text(block: Any) -> str:
    """What is counted of such a block, besides the blocks within it."""
    if isinstance(block, ToolCallBlock):
        return json.dumps(plain_json(block.model_dump()), ensure_ascii=False, separators=(",", ":"))
    return (block.content or "") if isinstance(block, ThinkingBlock) else ""
