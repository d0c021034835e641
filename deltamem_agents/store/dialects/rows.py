"""Rows: which ones a search may find, how many are looked up or inserted in one statement, and reading small ones fast.

SQLAlchemy has no form of these statements that is fast on every database.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any

from sqlalchemy import (
    ARRAY,
    ColumnElement,
    Connection,
    CursorResult,
    Row,
    Select,
    any_,
    bindparam,
    func,
    select,
    true,
)
from sqlalchemy.dialects.postgresql import Insert as PostgresqlInsert
from sqlalchemy.dialects.postgresql import insert as insert_postgresql
from sqlalchemy.dialects.sqlite import Insert as SqliteInsert
from sqlalchemy.dialects.sqlite import insert as insert_sqlite
from sqlalchemy.orm import InstrumentedAttribute

from deltamem_agents.store.schema import MessageRow, chunked

AnySelect = Select[*tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class Within:
    """Messages of one session, written at or after ``since`` and before ``until``; None does not restrict."""

    session: str | None = None
    since: datetime | None = None
    until: datetime | None = None

    def __bool__(self) -> bool:
        return not (self.session is None and self.since is None and self.until is None)

    def conditions(self) -> list[ColumnElement[bool]]:
        """Conditions on `MessageRow`, which the statement must join."""
        found: list[ColumnElement[bool]] = []
        if self.session is not None:
            found.append(MessageRow.session == self.session)
        if self.since is not None:
            found.append(MessageRow.created_at >= self.since)
        if self.until is not None:
            found.append(MessageRow.created_at < self.until)
        return found


def plain_rows(result: CursorResult[Any]) -> list[Any]:
    """All rows of a result, as the driver has them: making SQLAlchemy's takes as long as a search that finds them."""
    cursor = result.cursor
    rows = [] if cursor is None else list(cursor.fetchall())
    result.close()
    return rows


def insert_missing(connection: Connection, table: type[object]) -> PostgresqlInsert | SqliteInsert:
    """An insert that skips rows whose key exists; its result's ``rowcount`` is the number of rows inserted."""
    if connection.dialect.name == "postgresql":
        # psycopg loses the count when the cursor closes, unless it is read at once.
        return insert_postgresql(table).on_conflict_do_nothing().execution_options(preserve_rowcount=True)
    return insert_sqlite(table).on_conflict_do_nothing().inline()  # inline: the last key may be of another row


def rows_among(
    connection: Connection,
    query: AnySelect,
    column: InstrumentedAttribute[Any],
    values: Sequence[Any],
    parameters: Mapping[str, Any],
) -> Iterator[Row[Any]]:
    """The query's rows whose column is among the values.

    PostgreSQL gets the values as one array of any length, so whatever its statistics, it reads the table at most once.
    """
    dialect = connection.dialect.name
    among = _among(dialect, query, column)
    for chunk in [values] if dialect == "postgresql" else chunked(values):
        yield from connection.execute(among, {**parameters, "values": list(chunk)})


def rows_each(
    connection: Connection,
    query: AnySelect,
    column: InstrumentedAttribute[Any],
    values: Sequence[Any],
    parameters: Mapping[str, Any],
    *,
    plain: bool = False,
) -> Iterator[Any]:
    """Like `rows_among`, but PostgreSQL gets a loop over the values, so it uses an index whatever its statistics.

    The statement is cached per query, so build ``query`` once.

    Args:
        plain: Whether to return rows as the driver has them; only for columns that need no conversion.
    """
    dialect = connection.dialect.name
    each = _each(dialect, query, column)
    for chunk in [values] if dialect == "postgresql" else chunked(values):
        found = connection.execute(each, {**parameters, "values": list(chunk)})
        yield from plain_rows(found) if plain else found


@cache
def _each(dialect: str, query: AnySelect, column: InstrumentedAttribute[Any]) -> AnySelect:
    if dialect != "postgresql":
        return query.where(column.in_(bindparam("values", expanding=True)))
    values = bindparam("values", type_=ARRAY(column.type))
    wanted = func.unnest(values).table_valued("value").render_derived(name="wanted")
    found = query.where(column == wanted.c.value).offset(0).lateral("found")  # OFFSET 0 keeps it from being flattened
    return select(found).select_from(wanted.join(found, true()))


@cache
def _among(dialect: str, query: AnySelect, column: InstrumentedAttribute[Any]) -> AnySelect:
    if dialect != "postgresql":
        return query.where(column.in_(bindparam("values", expanding=True)))
    return query.where(column == any_(bindparam("values", type_=ARRAY(column.type))))
