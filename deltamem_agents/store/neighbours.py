"""Records by where they stand: how many there are, some of all, and what stands beside others in their session."""

from __future__ import annotations

import random
from bisect import bisect_left
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Select, bindparam, func, select
from sqlalchemy.orm import aliased

from deltamem_agents.store import journal
from deltamem_agents.store.dialects import plain_rows_among, rows_among
from deltamem_agents.store.records import StoredRecord, reading_at
from deltamem_agents.store.schema import MessageRow, RecordRow

LOOKED_AT = 16  # positions on either side of a record: one whose session has paused for longer stands alone

# Made once, as making a statement takes longer than to run it.
_beside = aliased(MessageRow)
_OWN = RecordRow.agent_key == bindparam("agent")
_KEYS_AT: Select[Any] = select(RecordRow.key).where(_OWN)
_BESIDE = (
    select(RecordRow.position, _beside.position)
    .join(MessageRow, (MessageRow.agent_key == RecordRow.agent_key) & (MessageRow.position == RecordRow.position))
    .join(
        _beside,
        (_beside.agent_key == MessageRow.agent_key)
        & _beside.position.between(MessageRow.position - LOOKED_AT, MessageRow.position + LOOKED_AT)
        & (_beside.session == MessageRow.session)
        & _beside.left_at.is_(None),
    )
    .where(RecordRow.agent_key + 0 == bindparam("agent"))  # + 0: by key, not all of the agent's
)


def size(connection: Connection, agent: str, limit: int | None) -> int:
    """How many records an agent has; ``limit`` where it has more, as counting all of them takes longer."""
    found = journal.agent_row(connection, agent)
    if found is None:
        return 0
    of_agent: Select[Any] = select(RecordRow.position).where(RecordRow.agent_key == found.key)
    counted = (of_agent if limit is None else of_agent.limit(limit)).subquery()
    return connection.scalar(select(func.count()).select_from(counted)) or 0


def sample(connection: Connection, agent: str, count: int) -> list[int]:
    """Keys of the records of ``count`` messages, or of all there are; the same until the journal grows."""
    found = journal.agent_row(connection, agent)
    if found is None:
        return []
    everything = range(1, found.head + 1)
    positions = random.Random(found.epoch).sample(everything, min(count, len(everything)))
    rows = plain_rows_among(connection, _KEYS_AT, RecordRow.position, positions, {"agent": found.key})
    return sorted(row[0] for row in rows)


def around(connection: Connection, agent: str, keys: Sequence[int], reach: int) -> list[StoredRecord]:
    """Records with the given keys and those of ``reach`` live messages of their session on either side, in order.

    Neighbours are looked for among the next `LOOKED_AT` positions.
    """
    found = journal.agent_row(connection, agent)
    if found is None or not keys:
        return []
    parameters = {"agent": found.key}
    pairs = plain_rows_among(connection, _BESIDE, RecordRow.key, keys, parameters)
    positions = _near(pairs, reach)
    rows = rows_among(connection, reading_at(), RecordRow.position, positions, parameters)
    return sorted((StoredRecord(*tuple(row)) for row in rows), key=lambda record: (record.position, record.chunk))


def _near(pairs: Any, reach: int) -> list[int]:
    """The positions nearest to each on either side, and itself."""
    beside: dict[int, set[int]] = {}
    for position, other in pairs:
        beside.setdefault(position, set()).add(other)
    kept: set[int] = set()
    for position, others in beside.items():
        ordered = sorted(others)
        at = bisect_left(ordered, position)
        kept.update(ordered[max(at - reach, 0) : at + reach + 1])
    return sorted(kept)
