"""The journal: appends, supersedes and reads messages. Works on an open connection; `store` owns the transaction."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, bindparam, func, insert, select, update

from deltamem_agents import arguments
from deltamem_agents.messages import Entry, NewMessage
from deltamem_agents.store import records, revisions
from deltamem_agents.store.dialects import insert_missing, rows_among
from deltamem_agents.store.schema import AgentRow, MessageRow, chunked

EPOCH_BITS = 48  # bits of a first epoch; a JSON number holds 53

# Built once: building a statement takes longer than running it.
_TAKE = (
    update(AgentRow)
    .where(AgentRow.id == bindparam("agent"))
    .values(head=AgentRow.head + bindparam("count"))
    .returning(AgentRow.key, AgentRow.head)
)
_ADD_MESSAGES = insert(MessageRow)
_BY_ID = select(MessageRow.id, MessageRow.position, MessageRow.role, MessageRow.text, MessageRow.blocks).where(
    MessageRow.agent_key == bindparam("key"),
    MessageRow.session == bindparam("session"),
    MessageRow.left_at.is_(None),
)
_AGENT = select(AgentRow.key, AgentRow.epoch, AgentRow.head, AgentRow.origin, AgentRow.agent_ids_until).where(
    AgentRow.id == bindparam("agent")
)
_LOCKED_AGENT = _AGENT.with_for_update()
_DESCRIBE = update(MessageRow).where(
    MessageRow.agent_key == bindparam("key"), MessageRow.position == bindparam("at"), MessageRow.left_at.is_(None)
)


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentInfo:
    """An agent: its epoch, the number of its live messages, and the last position of its journal.

    Each erasure, rollback and supersession changes the epoch. No earlier agent of the same id had the same epoch.
    """

    id: str
    epoch: int
    messages: int
    position: int
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Agent:
    """An agent's row, see `AgentRow`: its key in other tables, and where its journal ends."""

    key: int
    epoch: int
    head: int
    origin: int | None = None
    agent_ids_until: int | None = None


def agents(
    connection: Connection, agent: str | None = None, *, after: str = "", limit: int | None = None
) -> list[AgentInfo]:
    """All agents ordered by id, or only the one named; those whose id comes after ``after``, at most ``limit``."""
    live = select(func.count()).where(MessageRow.agent_key == AgentRow.key, MessageRow.left_at.is_(None))
    query = select(AgentRow.id, AgentRow.epoch, live.scalar_subquery(), AgentRow.head, AgentRow.created_at).order_by(
        AgentRow.id
    )
    if agent is not None:
        query = query.where(AgentRow.id == agent)
    if after:
        query = query.where(AgentRow.id > after)
    if limit is not None:
        query = query.limit(arguments.whole(limit, "limit"))
    return [
        AgentInfo(id=row[0], epoch=row[1], messages=row[2] or 0, position=row[3], created_at=row[4])
        for row in connection.execute(query)
    ]


def agent_row(connection: Connection, agent: str, *, lock: bool = False) -> Agent | None:
    """An agent's row; ``lock`` keeps other writers out until the transaction ends."""
    row = connection.execute(_LOCKED_AGENT if lock else _AGENT, {"agent": agent}).first()
    return None if row is None else Agent(*row)


def locked(connection: Connection, agent: str) -> Agent:
    """An agent's row, created if missing, and locked against other writers until the transaction ends."""
    found = agent_row(connection, agent, lock=True)
    if found is None:
        create(connection, agent)
        found = agent_row(connection, agent, lock=True)
        assert found is not None  # just created
    return found


def live(connection: Connection, agent: str, after: int, session: str | None, limit: int | None = None) -> list[Entry]:
    """Live messages of an agent after position ``after``, in order, at most ``limit``."""
    query = (
        select(MessageRow)
        .join(AgentRow, AgentRow.key == MessageRow.agent_key)
        .where(AgentRow.id == agent, MessageRow.position > after, MessageRow.left_at.is_(None))
        .order_by(MessageRow.position)
    )
    if session is not None:
        query = query.where(MessageRow.session == session)
    if limit is not None:
        query = query.limit(arguments.whole(limit, "limit"))
    return [entry(row) for row in connection.execute(query)]


def at_positions(connection: Connection, key: int, positions: Sequence[int]) -> list[Entry]:
    """The messages at these positions, in order."""
    found: list[Entry] = []
    for chunk in chunked(positions):
        query = select(MessageRow).where(MessageRow.agent_key == key, MessageRow.position.in_(chunk))
        found += [entry(row) for row in connection.execute(query)]
    return sorted(found, key=lambda each: each.position)


def entry(row: Any) -> Entry:
    """Convert a row of the messages table to an `Entry`."""
    return Entry(
        id=row.id,
        position=row.position,
        session=row.session,
        role=row.role,
        content=row.text if row.blocks is None else row.blocks,
        text=row.text,
        metadata=row.metadata or {},
        created_at=row.created_at,
        folded=row.folded,
    )


def sessions(connection: Connection, agent: str) -> list[str]:
    """An agent's sessions that have live messages, in the order they began."""
    query = (
        select(MessageRow.session)
        .join(AgentRow, AgentRow.key == MessageRow.agent_key)
        .where(AgentRow.id == agent, MessageRow.left_at.is_(None))
        .group_by(MessageRow.session)
        .order_by(func.min(MessageRow.position))
    )
    return list(connection.scalars(query))


def append(
    connection: Connection,
    words: records.Words,
    agent: str,
    messages: Sequence[NewMessage],
    session: str,
    *,
    again: bool = False,
) -> list[str]:
    """Journal checked messages in order and return their ids; the caller has begun a write.

    A message whose id the session already has is skipped if it says the same. Otherwise it replaces the old message:
    the old one leaves the live journal, the new one goes to the end, and the epoch rises.

    Args:
        again: Whether an earlier try may have been stored.
    """
    if not messages:
        return []
    if again or any(message.named for message in messages):
        _append_named(connection, words, agent, messages, session, again=again)
    else:
        # Nothing to look up: one statement reserves the positions and locks the agent until they are filled.
        taken = _take(connection, agent, len(messages))
        if taken is None:
            create(connection, agent)
            taken = _take(connection, agent, len(messages))
            assert taken is not None  # just created
        key, last = taken
        first = last - len(messages) + 1
        rows = {first + i: message_row(key, first + i, session, message) for i, message in enumerate(messages)}
        store(connection, words, key, rows)
    return [message.id for message in messages]


def describe(connection: Connection, agent: str, metadata: Mapping[int, Mapping[str, Any]]) -> None:
    """Replace the metadata of the live messages at these positions; see `Store.describe`."""
    found = agent_row(connection, agent)
    if found is None:
        return
    for position, details in sorted(metadata.items()):
        values = {MessageRow.details: dict(details) or None}
        connection.execute(_DESCRIBE.values(values), {"key": found.key, "at": position})


def create(
    connection: Connection,
    agent: str,
    *,
    head: int = 0,
    origin: int | None = None,
    agent_ids_until: int | None = None,
) -> bool:
    """Create an agent; False if it exists already."""
    made = insert_missing(connection, AgentRow).values(
        id=agent,
        epoch=secrets.randbits(EPOCH_BITS),
        head=head,
        created_at=datetime.now(UTC),
        origin=origin,
        agent_ids_until=agent_ids_until,
    )
    return bool(connection.execute(made).rowcount)


def secret(connection: Connection, agent: str) -> bytes | None:
    """The HMAC key for hashes about an agent that leave the database; None for an unknown agent."""
    return connection.scalar(select(AgentRow.secret).where(AgentRow.id == agent))


def _append_named(
    connection: Connection,
    words: records.Words,
    agent: str,
    messages: Sequence[NewMessage],
    session: str,
    *,
    again: bool,
) -> None:
    """Append messages whose ids the session may already have; see `append`."""
    found = locked(connection, agent)
    key, epoch, head = found.key, found.epoch, found.head
    known = _live_by_id(connection, key, session, [message.id for message in messages])
    if again and _came_through(messages, known):
        return
    added: dict[int, dict[str, Any]] = {}
    left: dict[int, int] = {}  # position of a stored message -> position of the one that replaced it
    for message in messages:
        old = known.get(message.id)
        if _is_said(message, known):
            continue
        head += 1
        if old is not None:
            old["left_at"] = head
            if old["position"] not in added:
                left[old["position"]] = head
        known[message.id] = added[head] = message_row(key, head, session, message)
    if not added:
        return
    if left:
        records.delete_of(connection, key, left)
        for position, by in left.items():
            this = (MessageRow.agent_key == key) & (MessageRow.position == position)
            connection.execute(update(MessageRow).where(this).values(left_at=by))
        epoch += 1
        revisions.forget(connection, key, since=min(left), epoch=epoch)
    store(connection, words, key, added)
    connection.execute(update(AgentRow).where(AgentRow.key == key).values(head=head, epoch=epoch))


def came_through(connection: Connection, key: int, session: str, messages: Sequence[NewMessage]) -> bool:
    """Whether an earlier try to write these messages was stored."""
    return _came_through(messages, _live_by_id(connection, key, session, [message.id for message in messages]))


def _came_through(messages: Sequence[NewMessage], known: Mapping[str, dict[str, Any]]) -> bool:
    """Whether every message that a write of these would leave live is there."""
    return all(_is_said(message, known) for message in {each.id: each for each in messages}.values())


def _is_said(message: NewMessage, known: Mapping[str, dict[str, Any]]) -> bool:
    """Whether the session's live message of this id says the same."""
    old = known.get(message.id)
    return old is not None and message.says_the_same(old["role"], old["text"], old["blocks"])


def _take(connection: Connection, agent: str, count: int) -> tuple[int, int] | None:
    """Reserve ``count`` positions; returns the agent's key and the last position, or None for an unknown agent."""
    row = connection.execute(_TAKE, {"agent": agent, "count": count}).first()
    return None if row is None else (row[0], row[1])


def store(connection: Connection, words: records.Words, key: int, rows: dict[int, dict[str, Any]]) -> None:
    """Store message rows, given by position, and the records of the live ones."""
    connection.execute(_ADD_MESSAGES, list(rows.values()))
    live = [(position, row["text"]) for position, row in rows.items() if row["left_at"] is None]
    records.add(connection, words, key, live)


def _live_by_id(connection: Connection, key: int, session: str, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    rows = rows_among(connection, _BY_ID, MessageRow.id, ids, {"key": key, "session": session})
    return {row.id: dict(row._mapping) for row in rows}


def message_row(key: int, position: int, session: str, message: NewMessage) -> dict[str, Any]:
    """The columns of a live message."""
    return {
        "agent_key": key,
        "position": position,
        "id": message.id,
        "session": session,
        "role": message.role,
        "text": message.text,
        "blocks": message.blocks,
        "metadata": message.metadata or None,
        "created_at": message.created_at,
        "left_at": None,
        "folded": message.folded,
    }
