"""Reconstructs a journal at any of its positions, and changes it by rollbacks and after deletions.

Each position is used once. A message continues from the entry before it, a rollback from the position it names, so
every entry has a path back to the beginning. Live at a position are the messages on its path that no later message of
the same session and id on the path superseded. Up to `Agent.agent_ids_until`, a message superseded one of the same id
in any session. Works on an open connection; `store` owns the transaction.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterable, Sequence
from datetime import UTC, datetime

from sqlalchemy import Connection, bindparam, insert, select, update

from deltamem_agents.errors import ConfigError, UnknownAgentError, shown
from deltamem_agents.messages import Entry
from deltamem_agents.store import damage, journal, records, revisions
from deltamem_agents.store.columns import DamagedValue
from deltamem_agents.store.dialects import rows_among
from deltamem_agents.store.journal import Agent
from deltamem_agents.store.schema import AgentRow, MessageRow, RollbackRow, chunked

Version = tuple[int, str, str]  # position, session and id of a message

FEW_SESSIONS = 100  # up to this number, one query per session; above it, one scan of all the agent's messages

_VERSIONS = select(MessageRow.position, MessageRow.session, MessageRow.id).where(
    MessageRow.agent_key == bindparam("key")
)
_EVERY_VERSION = _VERSIONS.order_by(MessageRow.position)
_OF_SESSION = _VERSIONS.where(MessageRow.session == bindparam("session"))  # an ORDER BY would rule out the index
# Two queries, because live messages and others have an index each.
_LIVE_VERSIONS = _OF_SESSION.where(MessageRow.left_at.is_(None))
_LEFT_VERSIONS = _OF_SESSION.where(MessageRow.left_at.is_not(None))


def required(connection: Connection, agent: str, *, lock: bool = False) -> Agent:
    """The row of an agent that must exist.

    Raises:
        UnknownAgentError: It does not.
    """
    found = journal.agent_row(connection, agent, lock=lock)
    if found is None:
        raise UnknownAgentError(f"agent {agent!r} is not in this store; it exists from its first write")
    return found


def check_position(agent: str, position: object, head: int) -> int:
    """Check a position of a journal, 0 for its beginning.

    Raises:
        ConfigError: The journal has no such position.
    """
    if isinstance(position, bool) or not isinstance(position, int) or not 0 <= position <= head:
        raise ConfigError(
            f"position {shown(position)} is not in the journal of agent {agent!r}, which goes from 0 to {head}; "
            "log() shows the positions of its messages"
        )
    return position


def entries_at(connection: Connection, agent: str, position: int) -> list[Entry]:
    """The messages that were live when the journal ended at a position, in order; see `Store.at`."""
    found = required(connection, agent)
    check_position(agent, position, found.head)
    return journal.at_positions(connection, found.key, positions_at(connection, found, position))


def positions_at(connection: Connection, agent: Agent, at: int) -> list[int]:
    """Positions, in order, of the messages that were live when the journal ended at ``at``.

    Raises:
        DamagedValue: A stored rollback does not go back to before its own position.
    """
    query = _EVERY_VERSION.where(MessageRow.position <= bindparam("at"))
    return _newest(connection, agent, at, connection.execute(query, {"key": agent.key, "at": at}))


def _newest(connection: Connection, agent: Agent, at: int, versions: Iterable[Version]) -> list[int]:
    """Positions of those of ``versions``, given in journal order, that were live when the journal ended at ``at``."""
    path = _path(connection, agent.key, at)
    starts = [start for start, _ in path]
    newest: dict[tuple[str, str], int] = {}
    sessions: dict[str, str] = {}  # for ids that were unique within the agent: id -> session that has it now
    for position, session, message_id in versions:
        piece = bisect_left(starts, position) - 1
        if piece < 0 or position > path[piece][1]:
            continue
        if position <= (agent.agent_ids_until or 0):
            newest.pop((sessions.get(message_id, session), message_id), None)
            sessions[message_id] = session
        newest[session, message_id] = position
    return sorted(newest.values())


def rollback(connection: Connection, words: records.Words, agent: str, target: int) -> int:
    """Restore the journal's content at ``target``; see `Store.rollback`. The caller has begun a write.

    Raises:
        ConfigError: The journal has no such position.
        UnknownAgentError: No such agent.
    """
    found = required(connection, agent, lock=True)
    check_position(agent, target, found.head)
    entry = found.head + 1
    if not _settle(connection, words, found, set(positions_at(connection, found, target)), entry):
        return found.head
    connection.execute(
        insert(RollbackRow).values(agent_key=found.key, position=entry, target=target, created_at=datetime.now(UTC))
    )
    connection.execute(update(AgentRow).where(AgentRow.key == found.key).values(head=entry, epoch=found.epoch + 1))
    return entry


def restored(connection: Connection, agent: Agent, versions: Iterable[Version], deleted: Collection[int]) -> list[int]:
    """Positions of messages that become live again when the messages that superseded them are deleted.

    Args:
        versions: All `versions_of` the deleted messages.
        deleted: Positions of the deleted messages.
    """
    left = [each for each in versions if each[0] not in deleted]
    standing = _newest(connection, agent, agent.head, left)
    live = live_positions(connection, agent.key, standing)
    return [position for position in standing if position not in live]


def settle(
    connection: Connection, words: records.Words, agent: Agent, restored: Collection[int], *, since: int
) -> None:
    """Finish a deletion of messages: make others live again, delete states from ``since`` on, raise the epoch.

    Args:
        restored: Positions that become live again; see the function of this name.
        since: The first position whose message was deleted or is live again.
    """
    _make_live(connection, words, agent.key, restored)
    revisions.forget(connection, agent.key, since=since, epoch=agent.epoch + 1)
    connection.execute(update(AgentRow).where(AgentRow.key == agent.key).values(epoch=agent.epoch + 1))


def versions_of(connection: Connection, agent: Agent, messages: Iterable[Version]) -> list[Version]:
    """All versions, live or not, of messages with the same sessions and ids as these, in journal order.

    The cost grows with their number, not with the journal, if they are of at most `FEW_SESSIONS` sessions and ids were
    always unique per session; otherwise the whole journal is scanned.
    """
    sessions: dict[str, set[str]] = {}
    for _, session, message_id in messages:
        sessions.setdefault(session, set()).add(message_id)
    if agent.agent_ids_until or len(sessions) > FEW_SESSIONS:
        wanted = set().union(*sessions.values())
        every = connection.execute(_EVERY_VERSION, {"key": agent.key})
        return [(row.position, row.session, row.id) for row in every if row.id in wanted]
    found: list[Version] = []
    for session, ids in sessions.items():
        for query in (_LIVE_VERSIONS, _LEFT_VERSIONS):
            scope = {"key": agent.key, "session": session}
            rows = rows_among(connection, query, MessageRow.id, sorted(ids), scope)
            found += [(row.position, row.session, row.id) for row in rows]
    return sorted(found)


def _settle(
    connection: Connection, words: records.Words, agent: Agent, wanted: Collection[int], entry: int
) -> set[int]:
    """Make exactly the ``wanted`` messages live; returns the positions that changed."""
    live = live_positions(connection, agent.key)
    leaving, returning = live - set(wanted), set(wanted) - live
    if not leaving and not returning:
        return set()
    records.delete_of(connection, agent.key, leaving)
    for chunk in chunked(sorted(leaving)):
        _set_left(connection, agent.key, chunk, entry)
    _make_live(connection, words, agent.key, returning)
    changed = leaving | returning
    revisions.forget(connection, agent.key, since=min(changed), epoch=agent.epoch + 1)
    return changed


def _make_live(connection: Connection, words: records.Words, key: int, positions: Collection[int]) -> None:
    for chunk in chunked(sorted(positions)):
        _set_left(connection, key, chunk, None)
        these = (MessageRow.agent_key == key) & MessageRow.position.in_(chunk)
        texts = connection.execute(select(MessageRow.position, MessageRow.text).where(these))
        records.add(connection, words, key, [(row[0], row[1]) for row in texts])


def live_positions(connection: Connection, key: int, among: Sequence[int] | None = None) -> set[int]:
    """Positions of the messages that are live now, optionally only those in ``among``."""
    query = select(MessageRow.position).where(MessageRow.agent_key == key, MessageRow.left_at.is_(None))
    if among is None:
        return set(connection.scalars(query))
    return {
        position
        for chunk in chunked(among)
        for position in connection.scalars(query.where(MessageRow.position.in_(chunk)))
    }


def _set_left(connection: Connection, key: int, positions: Collection[int], left_at: int | None) -> None:
    chosen = (MessageRow.agent_key == key) & MessageRow.position.in_(positions)
    connection.execute(update(MessageRow).where(chosen).values(left_at=left_at))


def _path(connection: Connection, key: int, at: int) -> list[tuple[int, int]]:
    """The path that ends at ``at``, as intervals (after, until] of positions, in order."""
    query = (
        select(RollbackRow.position, RollbackRow.target)
        .where(RollbackRow.agent_key == key, RollbackRow.position <= at)
        .order_by(RollbackRow.position)
    )
    rows = connection.execute(query).all()
    entries = [row[0] for row in rows]
    pieces: list[tuple[int, int]] = []
    while at > 0:
        last = bisect_right(entries, at) - 1
        if last >= 0 and rows[last][1] >= entries[last]:
            fault = f"target is {rows[last][1]}, a rollback goes back to before its own position"
            raise DamagedValue(damage.told("deltamem_rollbacks", (key, entries[last]), fault))
        start = entries[last] if last >= 0 else 0
        pieces.append((start, at))
        at = rows[last][1] if last >= 0 else 0
    return pieces[::-1]
