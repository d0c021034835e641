"""`JournalEvents`: the part of `Store` that reads a journal as what happened to it, page by page.

Events are messages, live or not, rollbacks, gaps that erasures left, and forks. A page costs as much for a long journal
as for a short one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import pairwise
from typing import Any, Literal

from sqlalchemy import Connection, func, select

from deltamem_agents import arguments
from deltamem_agents.messages import Entry, check_id
from deltamem_agents.store import journal
from deltamem_agents.store.database import Database
from deltamem_agents.store.journal import Agent
from deltamem_agents.store.record_index import check_scope
from deltamem_agents.store.schema import AgentRow, MessageRow, RollbackRow, chunked

Kind = Literal["message", "rollback", "erased"]

SHOWN = 2000  # characters of each text
FAMILY = 100  # forks that are listed
SESSIONS = 200  # sessions that are listed

_COLUMNS = (
    MessageRow.position,
    MessageRow.id,
    MessageRow.session,
    MessageRow.role,
    func.substr(MessageRow.text, 1, SHOWN).label("text"),
    func.length(MessageRow.text).label("length"),
    MessageRow.blocks.is_not(None).label("has_blocks"),
    MessageRow.folded,
    MessageRow.created_at,
    MessageRow.left_at,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened to a journal.

    Args:
        position: Its place in the journal; of a gap, the last one in it.
        kind: "message", "rollback", or "erased" for a gap.
        created_at: When it happened; None for a gap.
        id, session, role: Of a message.
        text: The first `SHOWN` characters of a message, which has ``length``.
        has_blocks: Whether the message's content is blocks, such as tool calls.
        folded: Whether the message goes into the state.
        left_at: Position of the event that took the message out of the live journal; None while it is live.
        left_by: Whether that was another version of the message ("edit") or a rollback.
        replaces: Position of the version that this message replaced.
        target: Where a rollback went back to.
        first: The first position of a gap.
    """

    position: int
    kind: Kind
    created_at: datetime | None = None
    id: str = ""
    session: str = ""
    role: str = ""
    text: str = ""
    length: int = 0
    has_blocks: bool = False
    folded: bool = True
    left_at: int | None = None
    left_by: Literal["edit", "rollback"] | None = None
    replaces: int | None = None
    target: int | None = None
    first: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Relative:
    """Another agent of the same family of forks.

    Args:
        root: Whether the others were forked from it, or from forks of it.
        position: Where its making falls in the journal that was asked about: the last entry written before it.
    """

    id: str
    created_at: datetime
    root: bool
    position: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """An agent's relatives by forking, oldest first.

    Args:
        forked: Whether the agent itself was made by a fork.
    """

    relatives: tuple[Relative, ...] = ()
    forked: bool = False


class JournalEvents:
    """Events of journals; every call is about one agent, and empty for an unknown one.

    Every method raises InvalidAgentError for an id that is not valid, ConfigError for an argument of the wrong type or
    out of range, and ClosedError, ForkedError and StoreError as `Database.read` does.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def page(
        self,
        agent: str,
        *,
        before: int | None = None,
        after: int | None = None,
        session: str | None = None,
        limit: int = 50,
    ) -> list[Event]:
        """The newest events before a position, newest first, or the first ones after one, in order.

        Args:
            before: Only events before this position; None begins at the journal's end.
            after: Only events after this position, oldest first; not together with ``before``.
            session: Only messages of this session, and rollbacks.
            limit: The most messages and rollbacks; gaps between them come on top.
        """
        check_scope(agent, session)
        for name, value in (("before", before), ("after", after), ("limit", limit)):
            arguments.whole(0 if value is None else value, name)
        return self._database.read(lambda connection: _page(connection, agent, before, after, session, limit))

    def entry(self, agent: str, position: int) -> tuple[Event, Entry] | None:
        """A message with its whole content, live or not; None if there is none at this position."""
        check_id(agent)
        arguments.whole(position, "position")
        return self._database.read(lambda connection: _entry(connection, agent, position))

    def live_among(self, agent: str, positions: Sequence[int]) -> dict[int, Entry]:
        """The messages at those of these positions that have a live one."""
        check_id(agent)
        for each in positions:
            arguments.whole(each, "a position")

        def work(connection: Connection) -> dict[int, Entry]:
            found = journal.agent_row(connection, agent)
            if found is None:
                return {}
            known: dict[int, Entry] = {}
            for chunk in chunked(positions):
                query = select(MessageRow).where(
                    MessageRow.agent_key == found.key, MessageRow.position.in_(chunk), MessageRow.left_at.is_(None)
                )
                known |= {row.position: journal.entry(row) for row in connection.execute(query)}
            return known

        return self._database.read(work)

    def family(self, agent: str) -> Family:
        """The agents that share this one's origin, at most `FAMILY`."""
        check_id(agent)
        return self._database.read(lambda connection: _family(connection, agent))

    def sessions(self, agent: str) -> list[tuple[str, int]]:
        """The `SESSIONS` sessions with the newest live messages, newest first, and how many each has."""
        check_id(agent)
        query = (
            select(MessageRow.session, func.count())
            .join(AgentRow, AgentRow.key == MessageRow.agent_key)
            .where(AgentRow.id == agent, MessageRow.left_at.is_(None))
            .group_by(MessageRow.session)
            .order_by(func.max(MessageRow.position).desc())
            .limit(SESSIONS)
        )
        return self._database.read(lambda connection: [(row[0], row[1]) for row in connection.execute(query)])


def _page(
    connection: Connection, agent: str, before: int | None, after: int | None, session: str | None, limit: int
) -> list[Event]:
    found = journal.agent_row(connection, agent)
    if found is None:
        return []
    rising = after is not None
    low, high = after or 0, found.head + 1 if before is None else min(before, found.head + 1)
    events: list[Event] = []
    for table, columns in ((MessageRow, _COLUMNS), (RollbackRow, (RollbackRow,))):
        query = select(*columns).where(table.agent_key == found.key, table.position > low, table.position < high)
        if session is not None and table is MessageRow:
            query = query.where(MessageRow.session == session)
        query = query.order_by(table.position if rising else table.position.desc()).limit(limit)
        events += [_event(row) for row in connection.execute(query)]
    events.sort(key=lambda each: each.position if rising else -each.position)
    ended = len(events) < limit
    events = _related(connection, found, events[:limit])
    if session is not None:
        return events
    begin, end = (low, high) if rising else (high, low)
    places = [begin, *(each.position for each in events), *([end] if ended else [])]
    gaps = [Event(position=max(a, b) - 1, first=min(a, b) + 1, kind="erased") for a, b in pairwise(places)]
    woven: list[Event] = []
    for place, gap in enumerate(gaps):
        if gap.first is not None and gap.first <= gap.position:
            woven.append(gap)
        woven += events[place : place + 1]
    return woven


def _entry(connection: Connection, agent: str, position: int) -> tuple[Event, Entry] | None:
    found = journal.agent_row(connection, agent)
    if found is None:
        return None
    at = (MessageRow.agent_key == found.key) & (MessageRow.position == position)
    short = connection.execute(select(*_COLUMNS).where(at)).first()
    whole = connection.execute(select(MessageRow).where(at)).first()
    if short is None or whole is None:
        return None
    return _related(connection, found, [_event(short)])[0], journal.entry(whole)


def _event(row: Any) -> Event:
    if hasattr(row, "target"):
        return Event(position=row.position, kind="rollback", target=row.target, created_at=row.created_at)
    return Event(
        position=row.position,
        kind="message",
        created_at=row.created_at,
        id=row.id,
        session=row.session,
        role=row.role,
        text=row.text,
        length=row.length,
        has_blocks=bool(row.has_blocks),
        folded=row.folded,
        left_at=row.left_at,
    )


def _related(connection: Connection, agent: Agent, events: list[Event]) -> list[Event]:
    """The events, with what took each message out of the live journal, and what it replaced."""
    left = sorted({each.left_at for each in events if each.left_at is not None})
    rollbacks = set[int]()
    for chunk in chunked(left):
        query = select(RollbackRow.position).where(RollbackRow.agent_key == agent.key, RollbackRow.position.in_(chunk))
        rollbacks |= set(connection.scalars(query))
    replaced: dict[int, int] = {}
    by_session: dict[str, list[str]] = {}
    for each in events:
        if each.kind == "message":
            by_session.setdefault(each.session, []).append(each.id)
    for session, ids in by_session.items():
        for some in chunked(ids):
            versions = select(MessageRow.position, MessageRow.left_at).where(
                MessageRow.agent_key == agent.key,
                MessageRow.session == session,
                MessageRow.id.in_(some),
                MessageRow.left_at.is_not(None),
            )
            replaced |= {left: position for position, left in connection.execute(versions) if left is not None}

    def related(each: Event) -> Event:
        by = None if each.left_at is None else "rollback" if each.left_at in rollbacks else "edit"
        return replace(each, left_by=by, replaces=replaced.get(each.position))  # type: ignore[arg-type]

    return [related(each) if each.kind == "message" else each for each in events]


def _family(connection: Connection, agent: str) -> Family:
    found = journal.agent_row(connection, agent)
    if found is None:
        return Family()
    root = found.origin or found.key
    query = (
        select(AgentRow.key, AgentRow.id, AgentRow.created_at)
        .where((AgentRow.key == root) | (AgentRow.origin == root), AgentRow.key != found.key)
        .order_by(AgentRow.key)
        .limit(FAMILY)
    )
    relatives = []
    for key, name, at in connection.execute(query):
        until = select(func.max(MessageRow.position)).where(
            MessageRow.agent_key == found.key, MessageRow.created_at <= at
        )
        position = connection.scalar(until) or 0
        relatives.append(Relative(id=name, created_at=at, root=key == root, position=position))
    return Family(relatives=tuple(relatives), forked=found.origin is not None)
