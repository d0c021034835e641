"""`MessageLookup`: the part of `Store` that finds live messages by session and id and replaces their metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, CursorResult, bindparam, collate, func, or_, select, update
from sqlalchemy.orm import InstrumentedAttribute

from deltamem_agents import arguments
from deltamem_agents.errors import ConfigError, shown
from deltamem_agents.messages import MessageRef, check_id
from deltamem_agents.store import journal
from deltamem_agents.store.database import Database
from deltamem_agents.store.dialects.rows import plain_rows
from deltamem_agents.store.dialects.select import AnySelect
from deltamem_agents.store.held import MAX_POSITION, Held
from deltamem_agents.store.record_index import RecordIndex
from deltamem_agents.store.records import Words
from deltamem_agents.store.schema import AgentRow, MessageRow

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
_DESCRIBE = update(MessageRow).where(
    MessageRow.agent_key == bindparam("key"), MessageRow.position == bindparam("at"), MessageRow.left_at.is_(None)
)


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


class MessageLookup(Held, RecordIndex):
    """Finds messages by the ids that callers gave them. Every call is about one agent; an unknown one has no messages.

    Methods raise what `Held` and `RecordIndex` raise, and ConfigError for an argument that is not valid.
    """

    def __init__(self, database: Database, words: Words) -> None:
        Held.__init__(self, database)
        RecordIndex.__init__(self, database, words)

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
        found = self._database.read(lambda connection: _plain(connection.execute(_ONE_OR_TWO, values)), alone=True)
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

        return self._database.read(work, alone=True)

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

        return self._database.read(work, alone=True)

    def describe(self, agent: str, metadata: Mapping[int, Mapping[str, Any]]) -> None:
        """Replace the metadata of live messages; positions that are not live are skipped.

        Metadata is not folded, so states, records and the epoch stay. A search filtered by metadata may use the old
        metadata until the journal grows.

        Args:
            metadata: Position to the message's complete new metadata, which must be JSON.

        Raises:
            ConfigError: ``metadata`` does not map positions to JSON objects.
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
    """Rows of `_DESCRIBED`, read without SQLAlchemy's processing of each row."""
    return [
        Described(session, name, position, json.loads(kept) if isinstance(kept, str) else kept or {})
        for session, name, position, kept in plain_rows(result)
    ]


def check_descriptions(metadata: object) -> None:
    """Check new metadata of messages.

    Raises:
        ConfigError: It does not map positions to JSON objects.
    """
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
