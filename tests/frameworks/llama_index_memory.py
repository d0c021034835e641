"""A pytest plugin that runs LlamaIndex's own memory tests, unchanged, on `DeltaMemory`.

It puts a stand-in in place of LlamaIndex's `Memory` before the tests import it. The stand-in has the constructors of
that class: each memory is one over an agent of its own, of a `DeltaMem` that stays open. See `run.py` beside this file.
"""

from __future__ import annotations

from typing import Any, Self
from uuid import uuid4

import llama_index.core.memory
import llama_index.core.memory.memory
from llama_index.core.memory import Memory
from llama_index.core.utils import get_tokenizer

from deltamem_agents import DeltaMem
from llama_index_deltamem import DeltaMemory

KEPT: list[DeltaMem] = []


def opened() -> DeltaMem:
    """The one that all memories are over."""
    if not KEPT:
        KEPT.append(DeltaMem.open("tiny", url="sqlite://", embedder=False))
    return KEPT[0]


class StandIn(DeltaMemory):
    """`DeltaMemory` with the constructors of `Memory`, and its tokenizer, as the tests have numbers of its tokens."""

    def __init__(self, *given: Any, **fields: Any) -> None:
        super().__init__(*(given or (opened(), uuid4().hex)), **fields)

    @classmethod
    def from_defaults(cls, session_id: str | None = None, **options: Any) -> Self:  # type: ignore[override]
        """As of `Memory`."""
        options.setdefault("tokenizer_fn", get_tokenizer())
        return super().from_defaults(opened(), uuid4().hex, session_id, **options)


def pytest_configure(config: Any) -> None:
    """Put the stand-in in place."""
    assert issubclass(StandIn, Memory)
    llama_index.core.memory.Memory = llama_index.core.memory.memory.Memory = StandIn  # type: ignore[misc]


def pytest_unconfigure(config: Any) -> None:
    """Close what was kept open."""
    while KEPT:
        KEPT.pop().close()
