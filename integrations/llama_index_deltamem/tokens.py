"""The backbone's tokenizer, as LlamaIndex takes one (its own where there is no backbone), and what else it counts."""

from __future__ import annotations

import json
from array import array
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from hashlib import sha256
from typing import Any

from llama_index.core.base.llms.types import CitableBlock, ThinkingBlock, ToolCallBlock
from llama_index.core.utils import get_tokenizer

from deltamem_agents.frameworks.sanitizing import plain_json, plain_text
from deltamem_agents.memory import DeltaMem
from deltamem_agents.processes import ProcessLock

Tokenizer = Callable[[str], list[int]]
REMEMBERED = 1 << 20  # tokens; a memory counts its whole buffer at every `get` and `put`, in the event loop
PER_TEXT = 16  # tokens that a text takes, however short


def tokenizer_of(mem: DeltaMem) -> Tokenizer:
    """A function from a text to its token ids, which remembers what it was lately asked."""
    encode = partial(mem.engine.tokenizer.encode, add_special_tokens=False) if mem.backbone.present else get_tokenizer()

    known = _Known()

    def tokens(text: str) -> list[int]:
        name = sha256(text.encode("utf-8", "surrogatepass")).digest()
        found = known.get(name)
        if found is None:
            known.put(name, found := array("q", encode(plain_text(text))))
        return list(found)

    return tokens


class _Known:
    """Token ids of texts by their hash; the least recently used go. Safe to share among threads.

    It is bounded by tokens, and not by texts: a buffer of more texts than are remembered would be encoded anew each
    time, from its first text to its last.
    """

    def __init__(self) -> None:
        self._lock = ProcessLock()
        self._ids: OrderedDict[bytes, array[int]] = OrderedDict()
        self._size = 0

    def get(self, name: bytes) -> array[int] | None:
        with self._lock:
            if name in self._ids:
                self._ids.move_to_end(name)
            return self._ids.get(name)

    def put(self, name: bytes, ids: array[int]) -> None:
        with self._lock:
            if name in self._ids:
                return
            self._ids[name] = ids
            self._size += len(ids) + PER_TEXT
            while self._size > REMEMBERED:
                self._size -= len(self._ids.popitem(last=False)[1]) + PER_TEXT


def counted_apart(blocks: Sequence[Any]) -> list[Any]:
    """The blocks that `Memory` counts in later versions only: calls of tools, thoughts, and what can be cited."""
    return [block for block in blocks if isinstance(block, CitableBlock | ThinkingBlock | ToolCallBlock)]


def counted_text(block: Any) -> str:
    """What is counted of such a block, besides the blocks within it."""
    if isinstance(block, ToolCallBlock):
        return json.dumps(plain_json(block.model_dump()), ensure_ascii=False, separators=(",", ":"))
    return (block.content or "") if isinstance(block, ThinkingBlock) else ""
