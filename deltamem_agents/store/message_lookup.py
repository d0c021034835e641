"""`MessageLookup`: live messages by session and id, and what is known of them changed in place. A part of `Store`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, CursorResult, bindparam, collate, func, or_, select, update
from sqlalchemy.orm import InstrumentedAttribute

from deltamem_agents import arguments
from deltamem_agents.errors import ConfigError, shown
from deltamem_agents.store import journal
from deltamem_agents.store.database import Database
from deltamem_agents.store.dialects.rows import plain_rows
from deltamem_agents.store.dialects.select import AnySelect
from deltamem_agents.store.held import MAX_POSITION, Held
from deltamem_agents.store.index import Index
from deltamem_agents.store.messages import MessageRef, check_id
from deltamem_agents.store.records import Words
from deltamem_agents.store.schema import AgentRow, MessageRow

# Built once: building a statement takes longer than running it.
_DESCRIBED = (
    select(MessageRow.session, MessageRow.id, MessageRow.position, MessageRow.details)
    .join(AgentRow, AgentRow.key == MessageRow.agent_key)
    .where(AgentRow.id == bindparam("agent"), MessageRow.left_at.is_(None))
)
# What most callers look for; to expand a list of ids takes longer than to look two of them up.
_ONE_OR_TWO = _DESCRIBED.where(
    MessageRow.session == bindparam("session"), MessageRow.id.in_((bindparam("id"), bindparam("other")))
)
_DESCRIBE = update(MessageRow).where(
    MessageRow.agent_key == bindparam("key"), MessageRow.position == bindparam("at"), MessageRow.left_at.is_(None)
)


class Described(NamedTuple):
    """What is known of a live message besides its text."""

    session: str
    id: str
    position: int
    metadata: Mapping[str, Any]

    @property
    def ref(self) -> MessageRef:
        """What names the message within its agent."""
        return MessageRef(self.session, self.id)


class MessageLookup(Held, Index):
    """Messages that a caller names by ids of its own. Every call is about one agent; an unknown one has none."""

    def __init__(self, database: Database, words: Words) -> None:
        Held.__init__(self, database)
        Index.__init__(self, database, words)

    def described(self, agent: str, session: str, ids: tuple[str, str]) -> list[Described]:
        """The live messages of a session with one of two ids, without their text, in the journal's order."""
        check_id(agent)
        check_id(session, "session")
        if not isinstance(ids, tuple) or len(ids) != 2:
            raise ConfigError(f"ids are {shown(ids)}; give a pair of ids")
        arguments.texts(ids, "ids")
        values = {"agent": agent, "session": session, "id": ids[0], "other": ids[1]}
        found = self._database.read(lambda connection: _plain(connection.execute(_ONE_OR_TWO, values)), alone=True)
        return sorted(found, key=lambda each: each.position)

    def newest(
        self, agent: str, limit: int, *, below: str = "", id_prefix: str = "", before: int | None = None
    ) -> list[Described]:
        """Live messages without their text, the newest first.

        Args:
            limit: How many at most.
            below: Only of the session with this id, and of those whose ids begin with it and a ".": "a" has "a.b",
                and not "ab". Empty for all sessions.
            id_prefix: Only messages whose id begins so.
            before: Only messages at an earlier position, to go on where the last page ended.
        """
        check_id(agent)
        arguments.whole(limit, "limit")
        arguments.whole(0 if before is None else before, "before", high=MAX_POSITION)
        arguments.texts((below, id_prefix), "prefixes")
        values = {"agent": agent, "limit": limit, "before": MAX_POSITION if before is None else before}
        values |= _bounds("session", below) | _bounds("id", id_prefix)

        def work(connection: Connection) -> list[Described]:
            return _plain(connection.execute(_newest(connection.dialect.name, bool(below), bool(id_prefix)), values))

        return self._database.read(work, alone=True)

    def id_ranges(self, agent: str, *, below: str = "", id_prefix: str = "") -> list[tuple[str, str, str]]:
        """Sessions that have live messages, in no order, each with the least and the greatest of these messages' ids.

        Ids are compared by code point. An index is read and no message.

        Args:
            below, id_prefix: As in `newest`.
        """
        check_id(agent)
        arguments.texts((below, id_prefix), "prefixes")
        values = {"agent": agent} | _bounds("session", below) | _bounds("id", id_prefix)

        def work(connection: Connection) -> list[tuple[str, str, str]]:
            query = _id_ranges(connection.dialect.name, bool(below), bool(id_prefix))
            return plain_rows(connection.execute(query, values))

        return self._database.read(work, alone=True)

    def describe(self, agent: str, metadata: Mapping[int, Mapping[str, Any]]) -> None:
        """Give live messages other metadata, by their positions; what is not live by then is left as it is.

        Metadata is not folded, so states, records and the epoch stay. A search that narrows by metadata may go by the
        old until the journal grows.

        Args:
            metadata: Position to the whole of its message's metadata, which JSON must be able to hold.

        Raises:
            StoreError: The database could not be written; nothing was.
        """
        check_id(agent)
        check_descriptions(metadata)

        def work(connection: Connection) -> None:
            found = journal.agent_row(connection, agent)
            if found is None:
                return
            for position, details in sorted(metadata.items()):
                values = {MessageRow.details: dict(details) or None}
                connection.execute(_DESCRIBE.values(values), {"key": found.key, "at": position})

        self._database.write(work)


def _plain(result: CursorResult[Any]) -> list[Described]:
    """Rows of `_DESCRIBED`, without what SQLAlchemy does to each of them."""
    return [
        Described(session, name, position, json.loads(kept) if isinstance(kept, str) else kept or {})
        for session, name, position, kept in plain_rows(result)
    ]


def check_descriptions(metadata: object) -> None:
    """Raise ConfigError unless this maps positions to metadata that JSON can hold."""
    if not isinstance(metadata, Mapping):
        raise ConfigError(f"metadata is {shown(metadata)}; give a mapping from position to metadata")
    for position, details in metadata.items():
        arguments.whole(position, "a position")
        arguments.mapping(details, "metadata")
        arguments.jsonable(details, "metadata")


@cache
def _newest(dialect: str, below: bool, named: bool) -> AnySelect:
    query = _narrowed(_DESCRIBED, dialect, below, named).where(MessageRow.position < bindparam("before"))
    if not below:
        return query.order_by(MessageRow.position.desc()).limit(bindparam("limit"))
    # Positions alone are sorted, not all that stands beside them; and the sum keeps SQLite from walking the whole
    # journal by position to find the few messages of a small session.
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
    """The query with the conditions whose values `_bounds` gives."""
    if below:
        session = _by_code_point(dialect, MessageRow.session)
        within = or_(MessageRow.session == bindparam("session"), session >= bindparam("session_inner"))
        query = query.where(session >= bindparam("session"), session < bindparam("session_end"), within)
    if named:
        name = _by_code_point(dialect, MessageRow.id)
        query = query.where(name >= bindparam("id"), name < bindparam("id_end"))
    return query


def _by_code_point(dialect: str, column: InstrumentedAttribute[str]) -> ColumnElement[str]:
    """A column as it is to be compared: as SQLite does by itself, whatever PostgreSQL's collation is."""
    return collate(column, "C") if dialect == "postgresql" else column.expression


def _bounds(name: str, prefix: str) -> dict[str, str]:
    if not prefix:
        return {}
    if name == "session":  # "." and "/" are neighbours
        return {"session": prefix, "session_inner": f"{prefix}.", "session_end": f"{prefix}/"}
    return {name: prefix, f"{name}_end": prefix[:-1] + chr(ord(prefix[-1]) + 1)}
