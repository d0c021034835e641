"""The backbone's tokenizer, or LlamaIndex's own without a backbone, and what a message's tokens are."""

from __future__ import annotations

import json
from array import array
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from hashlib import sha256
from typing import Any

from llama_index.core.base.llms.types import ChatMessage, CitableBlock, ThinkingBlock, ToolCallBlock
from llama_index.core.utils import get_tokenizer

from deltamem_agents.memory import DeltaMem
from deltamem_agents.memory.sanitizing import plain_json, plain_text
from deltamem_agents.processes import ProcessLock

Tokenizer = Callable[[str], list[int]]
REMEMBERED = 1 << 20  # cached tokens; a memory counts its whole buffer at every `get` and `put`, in the event loop
PER_TEXT = 16  # tokens counted for each cached text in addition to its own


def tokenizer_of(mem: DeltaMem) -> Tokenizer:
    """A function from a text to its token ids, with a cache of recent texts."""
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
    """A cache of token ids by a text's hash; the least recently used are dropped. Safe to share among threads.

    Its size is limited in tokens rather than texts. With a limit in texts, a buffer with more texts than that would be
    encoded again each time.
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


def counted(message: ChatMessage, stock: Callable[[Any], int], tokens: Callable[[str], Sequence[Any]]) -> int:
    """Tokens of a message, by ``stock`` and with the blocks that only later versions of `Memory` count.

    Those are tool calls, thoughts and citable blocks.

    Args:
        stock: Counts a message as `Memory` does.
    """
    apart = [block for block in message.blocks if isinstance(block, CitableBlock | ThinkingBlock | ToolCallBlock)]
    if not apart:
        return stock(message)
    others = message.model_copy(update={"blocks": [block for block in message.blocks if block not in apart]})
    within = [
        ChatMessage(role=message.role, blocks=block.content) for block in apart if isinstance(block, CitableBlock)
    ]
    own = sum(len(tokens(text)) for text in map(_text, apart) if text)
    return stock(others) + own + sum(counted(each, stock, tokens) for each in within)


def _text(block: Any) -> str:
    """The text to count for such a block, apart from the blocks inside it."""
    if isinstance(block, ToolCallBlock):
        return json.dumps(plain_json(block.model_dump()), ensure_ascii=False, separators=(",", ":"))
    return (block.content or "") if isinstance(block, ThinkingBlock) else ""
