"""Records by where they stand: how many there are, some of all, and what stands beside others in their session."""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping, Sequence
from itertools import islice
from typing import Any

from sqlalchemy import Connection, Select, bindparam, func, select

from deltamem_agents.store import journal, records
from deltamem_agents.store.dialects import rows_each
from deltamem_agents.store.records import StoredRecord
from deltamem_agents.store.schema import MessageRow, RecordRow

LOOKED_AT = 8  # positions on either side of a record: one whose session has paused for longer stands alone

# Made once, as making a statement takes longer than to run it.
_KEYS_AT = select(RecordRow.key).where(RecordRow.agent_key == bindparam("agent"))
_PLACES = select(RecordRow.position).where(RecordRow.agent_key + 0 == bindparam("agent"))  # + 0: by key, not all of it
# What is live is told apart afterwards, lest PostgreSQL read all live messages of the agent.
_SESSIONS = select(MessageRow.position, MessageRow.session, MessageRow.left_at).where(
    MessageRow.agent_key == bindparam("agent")
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
    rows = rows_each(connection, _KEYS_AT, RecordRow.position, positions, {"agent": found.key}, plain=True)
    return sorted(row[0] for row in rows)


def around(connection: Connection, agent: str, keys: Sequence[int], reach: int) -> list[StoredRecord]:
    """Records with the given keys and those of ``reach`` live messages of their session on either side, in order.

    Neighbours are looked for among the next `LOOKED_AT` positions.
    """
    found = journal.agent_row(connection, agent)
    if found is None or not keys:
        return []
    parameters = {"agent": found.key}
    places = {row[0] for row in rows_each(connection, _PLACES, RecordRow.key, keys, parameters, plain=True)}
    looked_at = sorted({at + off for at in places for off in range(-LOOKED_AT, LOOKED_AT + 1)})
    seen = rows_each(connection, _SESSIONS, MessageRow.position, looked_at, parameters, plain=True)
    positions = _near(places, {row[0]: row[1] for row in seen if row[2] is None}, reach)
    near = rows_each(connection, _KEYS_AT, RecordRow.position, positions, parameters, plain=True)
    return records.read(connection, agent, [row[0] for row in near])


def _near(places: Collection[int], sessions: Mapping[int, str], reach: int) -> list[int]:
    """Positions [n], and those nearest to each on either side that are of its session; each position's is given."""
    kept: set[int] = set()
    for at in places:
        if at not in sessions:
            continue
        for step in (-1, 1):
            beside = range(at + step, at + step * (LOOKED_AT + 1), step)
            kept.update(islice((each for each in beside if sessions.get(each) == sessions[at]), reach))
        kept.add(at)
    return sorted(kept)
