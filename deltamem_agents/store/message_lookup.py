"""`MessageLookup`: the part of `Store` that finds messages, by session and id or by what they say."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple, Protocol, TypeVar

from sqlalchemy import ColumnElement, Connection, CursorResult, bindparam, collate, func, or_, select
from sqlalchemy.orm import InstrumentedAttribute

from deltamem_agents import arguments
from deltamem_agents.errors import ConfigError, shown
from deltamem_agents.messages import Entry, MessageRef, NewMessage, check_id
from deltamem_agents.store import journal, records, tombstones
from deltamem_agents.store.dialects import rows_among
from deltamem_agents.store.dialects.rows import AnySelect, plain_rows
from deltamem_agents.store.schema import AgentRow, MessageRow
from deltamem_agents.store.tombstones import Said

MAX_POSITION = 2**63 - 1

# Built once: building a statement takes longer than running it.
_DESCRIBED = (
    select(MessageRow.session, MessageRow.id, MessageRow.position, MessageRow.details)
    .join(AgentRow, AgentRow.key == MessageRow.agent_key)
    .where(AgentRow.id == bindparam("agent"), MessageRow.left_at.is_(None))
)
# What most callers look for: expanding a list of ids takes longer than looking up two of them.
_ONE_OR_TWO = _DESCRIBED.where(
    MessageRow.session == bindparam("session"), MessageRow.id.in_((bindparam("id"), bindparam("other")))
)
_OF_SESSION = select(MessageRow).where(
    MessageRow.agent_key == bindparam("key"),
    MessageRow.left_at.is_(None),
    MessageRow.session == bindparam("session"),
)

T = TypeVar("T")


class Described(NamedTuple):
    """A live message without its text."""

    session: str
    id: str
    position: int
    metadata: Mapping[str, Any]

    @property
    def ref(self) -> MessageRef:
        """The session and id that identify the message within its agent."""
        return MessageRef(self.session, self.id)


class Reading(Protocol):
    """A source to read from: a `Database`, or an open transaction."""

    def read(self, work: Callable[[Connection], T], *, alone: bool = False) -> T:
        """Run ``work`` on a connection and return its result; ``alone`` if it runs a single statement."""


class Begun:
    """An open transaction: reads see its snapshot and its own writes."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def read(self, work: Callable[[Connection], T], *, alone: bool = False) -> T:
        """See `Reading.read`."""
        return work(self._connection)


class MessageLookup:
    """Finds the messages that an agent's sessions hold and held. An unknown agent has none.

    Every method raises InvalidAgentError for an agent or session id that is not valid, ConfigError for another argument
    that is not valid, and, if it reads from a `Database`, ClosedError, ForkedError and StoreError as `Database.read`
    does.

    Args:
        source: Each call is one transaction of a `Database`, or part of a `Begun` transaction.
    """

    def __init__(self, source: Reading) -> None:
        self._source = source

    def version(self, agent: str) -> tuple[int, int] | None:
        """A version that changes whenever the agent's records do; None for an unknown agent.

        Consists of a number that stays the same while records are only added, and the journal's last position.
        """
        check_id(agent)
        return self._source.read(lambda connection: records.version(connection, agent), alone=True)

    def find(self, agent: str, refs: Collection[MessageRef | tuple[str, str]]) -> list[Entry]:
        """The live messages with these sessions and ids, in journal order.

        Raises:
            ConfigError: ``refs`` are not pairs of session and id.
        """
        check_id(agent)
        check_refs(refs)

        def work(connection: Connection) -> list[Entry]:
            found = journal.agent_row(connection, agent)
            if found is None:
                return []
            sessions: dict[str, list[str]] = {}
            for session, message_id in dict.fromkeys(refs):
                sessions.setdefault(session, []).append(message_id)
            rows: list[Any] = []
            for session, ids in sessions.items():
                rows += rows_among(connection, _OF_SESSION, MessageRow.id, ids, {"key": found.key, "session": session})
            return _in_order(rows)

        return self._source.read(work)

    def ever_said(self, agent: str, session: str, messages: Sequence[NewMessage] = (), *, after: int = 0) -> list[Said]:
        """All messages that a session ever held, in conversation order: live, replaced and rolled back ones.

        Args:
            messages: Erased messages are included if they say the same as one of these.
            after: Only messages at a later position; does not apply to erased ones.

        Raises:
            ConfigError: ``messages`` were not checked by `check_messages`, or ``after`` is not a position.
        """
        _check_told(agent, session, messages)
        arguments.whole(after, "after", high=MAX_POSITION)

        def work(connection: Connection) -> list[Said]:
            return tombstones.ever_said(connection, agent, session, messages, after)

        return self._source.read(work)

    def with_other_words(self, agent: str, session: str, messages: Sequence[NewMessage]) -> list[int]:
        """Indices of messages whose ids the session holds or held, but always with other words.

        Counts live, replaced, rolled back and erased messages.

        Raises:
            ConfigError: ``messages`` were not checked by `check_messages`.
        """
        _check_told(agent, session, messages)
        return self._source.read(lambda connection: tombstones.with_other_words(connection, agent, session, messages))

    def described(self, agent: str, session: str, ids: tuple[str, str]) -> list[Described]:
        """The live messages of a session with one of two ids, without their text, in journal order.

        Raises:
            ConfigError: ``ids`` is not a pair of strings.
        """
        check_id(agent)
        check_id(session, "session")
        if not isinstance(ids, tuple) or len(ids) != 2:
            raise ConfigError(f"ids are {shown(ids)}; give a pair of ids")
        arguments.texts(ids, "ids")
        values = {"agent": agent, "session": session, "id": ids[0], "other": ids[1]}
        found = self._source.read(lambda connection: _plain(connection.execute(_ONE_OR_TWO, values)), alone=True)
        return sorted(found, key=lambda each: each.position)

    def newest(
        self, agent: str, limit: int, *, below: str = "", id_prefix: str = "", before: int | None = None
    ) -> list[Described]:
        """Live messages without their text, the newest first.

        Args:
            limit: Maximum number of messages.
            below: Only messages of the session with this id, or with an id that continues it after a ".": "a" includes
                "a.b" but not "ab". Empty for all sessions.
            id_prefix: Only messages whose id begins with this.
            before: Only messages at an earlier position, to continue where the last page ended.
        """
        check_id(agent)
        arguments.whole(limit, "limit")
        arguments.whole(0 if before is None else before, "before", high=MAX_POSITION)
        arguments.texts((below, id_prefix), "prefixes")
        values = {"agent": agent, "limit": limit, "before": MAX_POSITION if before is None else before}
        values |= _bounds("session", below) | _bounds("id", id_prefix)

        def work(connection: Connection) -> list[Described]:
            return _plain(connection.execute(_newest(connection.dialect.name, bool(below), bool(id_prefix)), values))

        return self._source.read(work, alone=True)

    def id_ranges(self, agent: str, *, below: str = "", id_prefix: str = "") -> list[tuple[str, str, str]]:
        """Sessions that have live messages, each with the smallest and largest id among them, in no order.

        Ids compare by code point. Reads an index, not the messages.

        Args:
            below, id_prefix: As for `newest`.
        """
        check_id(agent)
        arguments.texts((below, id_prefix), "prefixes")
        values = {"agent": agent} | _bounds("session", below) | _bounds("id", id_prefix)

        def work(connection: Connection) -> list[tuple[str, str, str]]:
            query = _id_ranges(connection.dialect.name, bool(below), bool(id_prefix))
            return plain_rows(connection.execute(query, values))

        return self._source.read(work, alone=True)


def _plain(result: CursorResult[Any]) -> list[Described]:
    """Rows of `_DESCRIBED`, read without SQLAlchemy's processing of each row."""
    return [
        Described(session, name, position, json.loads(kept) if isinstance(kept, str) else kept or {})
        for session, name, position, kept in plain_rows(result)
    ]


def check_refs(refs: object) -> None:
    """Check pairs of session and id.

    Raises:
        ConfigError: They are not a collection of such pairs.
    """
    given = refs if isinstance(refs, Collection) and not isinstance(refs, (str, bytes, Mapping)) else None
    if given is None or not all(isinstance(each, tuple) and len(each) == 2 for each in given):
        raise ConfigError(f"messages are {shown(refs)}; give a list of pairs of session and id")
    for each in given:
        arguments.texts(each, "a pair of session and id")


def _check_told(agent: str, session: str, messages: Sequence[NewMessage]) -> None:
    """Check ids of an agent and session, and that messages come from `check_messages`."""
    check_id(agent)
    check_id(session, "session")
    if not isinstance(messages, Sequence) or not all(isinstance(each, NewMessage) for each in messages):
        raise ConfigError(f"messages is {shown(messages)}; give what check_messages returns")


def _in_order(rows: Iterable[Any]) -> list[Entry]:
    return sorted(map(journal.entry, rows), key=lambda each: each.position)


@cache
def _newest(dialect: str, below: bool, named: bool) -> AnySelect:
    query = _narrowed(_DESCRIBED, dialect, below, named).where(MessageRow.position < bindparam("before"))
    if not below:
        return query.order_by(MessageRow.position.desc()).limit(bindparam("limit"))
    # Sorts positions only, not whole rows. The `+ 0` keeps SQLite from walking the whole journal by position to find
    # the few messages of a small session.
    key = select(AgentRow.key).where(AgentRow.id == bindparam("agent")).scalar_subquery()
    chosen = (
        query.with_only_columns(MessageRow.position)
        .order_by((MessageRow.position + 0).desc())
        .limit(bindparam("limit"))
        .subquery()
    )
    return (
        _DESCRIBED.with_only_columns(*_DESCRIBED.selected_columns)
        .join(chosen, chosen.c.position == MessageRow.position)
        .where(MessageRow.agent_key == key)
        .order_by(MessageRow.position.desc())
    )


@cache
def _id_ranges(dialect: str, below: bool, named: bool) -> AnySelect:
    name = _by_code_point(dialect, MessageRow.id)
    query = _narrowed(_DESCRIBED, dialect, below, named).group_by(MessageRow.session)
    return query.with_only_columns(MessageRow.session, func.min(name), func.max(name))


def _narrowed(query: AnySelect, dialect: str, below: bool, named: bool) -> AnySelect:
    """The query with conditions for the values that `_bounds` gives."""
    if below:
        session = _by_code_point(dialect, MessageRow.session)
        within = or_(MessageRow.session == bindparam("session"), session >= bindparam("session_inner"))
        query = query.where(session >= bindparam("session"), session < bindparam("session_end"), within)
    if named:
        name = _by_code_point(dialect, MessageRow.id)
        query = query.where(name >= bindparam("id"), name < bindparam("id_end"))
    return query


def _by_code_point(dialect: str, column: InstrumentedAttribute[str]) -> ColumnElement[str]:
    """A column compared by code point: SQLite's default; on PostgreSQL collation "C"."""
    return collate(column, "C") if dialect == "postgresql" else column.expression


def _bounds(name: str, prefix: str) -> dict[str, str]:
    if not prefix:
        return {}
    if name == "session":  # "." and "/" are neighbours
        return {"session": prefix, "session_inner": f"{prefix}.", "session_end": f"{prefix}/"}
    return {name: prefix, f"{name}_end": prefix[:-1] + chr(ord(prefix[-1]) + 1)}
