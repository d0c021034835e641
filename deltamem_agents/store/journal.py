"""The journal: append, supersede, read. Works on an open connection; `store` owns the transaction."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, delete, func, insert, select, update

from deltamem_agents.store import revisions
from deltamem_agents.store.fulltext import spelled_out
from deltamem_agents.store.messages import Entry, NewMessage
from deltamem_agents.store.schema import AgentRow, EmbeddingRow, MessageRow, RecordRow

LOOKUP = 500  # ids in one statement; SQLite allows no more than 999 parameters in old builds

Splitter = Callable[[str], Sequence[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentInfo:
    """An agent: its epoch, how many live messages it has, and the last position of its journal."""

    id: str
    epoch: int
    messages: int
    position: int
    created_at: datetime


def agents(connection: Connection, agent: str | None = None) -> list[AgentInfo]:
    """All agents by id, or the one asked for."""
    counted = (
        select(MessageRow.agent_key, func.count().label("messages"))
        .where(MessageRow.left_at.is_(None))
        .group_by(MessageRow.agent_key)
        .subquery()
    )
    query = (
        select(AgentRow.id, AgentRow.epoch, counted.c.messages, AgentRow.head, AgentRow.created_at)
        .join(counted, counted.c.agent_key == AgentRow.key, isouter=True)
        .order_by(AgentRow.id)
    )
    if agent is not None:
        query = query.where(AgentRow.id == agent)
    return [
        AgentInfo(id=row[0], epoch=row[1], messages=row[2] or 0, position=row[3], created_at=row[4])
        for row in connection.execute(query)
    ]


def agent_row(connection: Connection, agent: str) -> tuple[int, int, int] | None:
    """Key, epoch and head of an agent."""
    row = connection.execute(select(AgentRow.key, AgentRow.epoch, AgentRow.head).where(AgentRow.id == agent)).first()
    return None if row is None else (row[0], row[1], row[2])


def live(connection: Connection, agent: str, after: int, session: str | None) -> list[Entry]:
    """Live messages of an agent beyond position ``after``, in order."""
    query = (
        select(MessageRow)
        .join(AgentRow, AgentRow.key == MessageRow.agent_key)
        .where(AgentRow.id == agent, MessageRow.position > after, MessageRow.left_at.is_(None))
        .order_by(MessageRow.position)
    )
    if session is not None:
        query = query.where(MessageRow.session == session)
    return [
        Entry(
            id=row.id,
            position=row.position,
            session=row.session,
            role=row.role,
            content=row.text if row.blocks is None else row.blocks,
            text=row.text,
            metadata=row.metadata or {},
            created_at=row.created_at,
        )
        for row in connection.execute(query)
    ]


def sessions(connection: Connection, agent: str) -> list[str]:
    """An agent's sessions that have live messages, in the order in which they began."""
    query = (
        select(MessageRow.session)
        .join(AgentRow, AgentRow.key == MessageRow.agent_key)
        .where(AgentRow.id == agent, MessageRow.left_at.is_(None))
        .group_by(MessageRow.session)
        .order_by(func.min(MessageRow.position))
    )
    return list(connection.scalars(query))


def append(
    connection: Connection, split: Splitter, agent: str, messages: Sequence[NewMessage], session: str
) -> list[str]:
    """Journal checked messages in order; the caller has begun a write.

    A known id that says the same is passed over, one that says something else replaces the old message: that leaves the
    live journal, the new one stands at the end, and the epoch rises.
    """
    if not messages:
        return []
    key, epoch, head = agent_row(connection, agent) or _create_agent(connection, agent)
    known = _live_by_id(connection, key, [message.id for message in messages])
    added: dict[int, dict[str, Any]] = {}
    left: dict[int, int] = {}  # position of a stored message -> position of the one that replaced it
    for message in messages:
        old = known.get(message.id)
        if old is not None and message.says_the_same(old["role"], old["text"], old["blocks"]):
            continue
        head += 1
        if old is not None:
            old["left_at"] = head
            if old["position"] not in added:
                left[old["position"]] = head
        known[message.id] = added[head] = _row(key, head, session, message)
    if not added:
        return [message.id for message in messages]
    for position, by in left.items():
        _leave(connection, key, position, by)
    if left:
        epoch += 1
        revisions.forget(connection, key, since=min(left), epoch=epoch)
    connection.execute(insert(MessageRow), list(added.values()))
    pieces = list(_records(split, added.values()))
    if pieces:
        connection.execute(insert(RecordRow), pieces)
    connection.execute(update(AgentRow).where(AgentRow.key == key).values(head=head, epoch=epoch))
    return [message.id for message in messages]


def _create_agent(connection: Connection, agent: str) -> tuple[int, int, int]:
    made = connection.execute(insert(AgentRow).values(id=agent, epoch=1, head=0, created_at=datetime.now(UTC)))
    primary = made.inserted_primary_key
    assert primary is not None  # one row was inserted
    return int(primary[0]), 1, 0


def _live_by_id(connection: Connection, key: int, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    columns = (MessageRow.id, MessageRow.position, MessageRow.role, MessageRow.text, MessageRow.blocks)
    found: dict[str, dict[str, Any]] = {}
    for start in range(0, len(ids), LOOKUP):
        query = select(*columns).where(
            MessageRow.agent_key == key,
            MessageRow.id.in_(ids[start : start + LOOKUP]),
            MessageRow.left_at.is_(None),
        )
        found.update((row.id, dict(row._mapping)) for row in connection.execute(query))
    return found


def _leave(connection: Connection, key: int, position: int, by: int) -> None:
    """Take a message out of the live journal, and what was made of its text out of the index."""
    of_message = (RecordRow.agent_key == key) & (RecordRow.position == position)
    connection.execute(
        update(MessageRow).where(MessageRow.agent_key == key, MessageRow.position == position).values(left_at=by)
    )
    # Spelled out, as the caller's engine may not have foreign keys switched on.
    connection.execute(delete(EmbeddingRow).where(EmbeddingRow.record_key.in_(select(RecordRow.key).where(of_message))))
    connection.execute(delete(RecordRow).where(of_message))


def _row(key: int, position: int, session: str, message: NewMessage) -> dict[str, Any]:
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
    }


def _records(split: Splitter, rows: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for row in rows:
        if row["left_at"] is not None:
            continue  # replaced within the same write
        for chunk, piece in enumerate(split(row["text"])):
            yield {
                "agent_key": row["agent_key"],
                "position": row["position"],
                "chunk": chunk,
                "text": piece,
                "terms": spelled_out(piece),
            }
