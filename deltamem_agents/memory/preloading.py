"""Records handed over through the state: written into a scratch copy of it, which answers once and is dropped."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from deltamem_agents.engine.segments import cut
from deltamem_agents.recall import Record

if TYPE_CHECKING:
    from deltamem_agents.core import State
    from deltamem_agents.engine.engine import Engine


def preload(engine: Engine, state: State | None, records: Sequence[Record]) -> State:
    """A copy of a state with records written into it, oldest first; the state itself stays as it is.

    Args:
        state: None is the zero state.
    """
    before = engine.zero_state() if state is None else state
    oldest_first = sorted(records, key=lambda record: (record.position, record.chunk))
    segments = list(cut(oldest_first, engine.rendering, engine.config.write_length))
    states = engine.fold(before, segments).result()
    return states[-1] if states else before
