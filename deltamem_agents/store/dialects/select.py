"""Maps URLs to engines and engines to dialects, and builds statements that SQLAlchemy has no common form for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

from sqlalchemy import (
    ARRAY,
    URL,
    Connection,
    Engine,
    Row,
    Select,
    any_,
    bindparam,
    func,
    make_url,
    select,
    true,
)
from sqlalchemy.dialects.postgresql import Insert as PostgresqlInsert
from sqlalchemy.dialects.postgresql import insert as insert_postgresql
from sqlalchemy.dialects.sqlite import Insert as SqliteInsert
from sqlalchemy.dialects.sqlite import insert as insert_sqlite
from sqlalchemy.exc import ArgumentError, NoSuchModuleError
from sqlalchemy.orm import InstrumentedAttribute

from deltamem_agents.errors import ConfigError, MissingExtraError, kind_of
from deltamem_agents.store.dialects import postgresql, psycopg3, sqlite
from deltamem_agents.store.dialects.protocol import Dialect
from deltamem_agents.store.dialects.rows import plain_rows
from deltamem_agents.store.masking import HIDDEN, masked, redacted
from deltamem_agents.store.schema import chunked

AnySelect = Select[*tuple[Any, ...]]
EXAMPLES = "use one like sqlite:///memory.db or postgresql://user@host/database"


def engine_for(url: str | URL) -> Engine:
    """A new engine for a URL.

    Raises:
        ConfigError: The URL cannot be parsed, or its dialect is not supported.
        MissingExtraError: Its driver is not installed.
    """
    try:
        parsed = make_url(url)
        name = parsed.get_backend_name()
        if name == "sqlite":
            return sqlite.engine(parsed)
        if name in ("postgresql", "postgres"):
            return psycopg3.engine(parsed)
    except (ConfigError, MissingExtraError):
        raise
    except ImportError as error:
        told = redacted(str(error), parsed)
        raise ConfigError(f"{masked(parsed)}: {told}; install that driver, or name none; {EXAMPLES}") from None
    except (ArgumentError, NoSuchModuleError, ValueError, TypeError):
        raise ConfigError(f"{_no_url(url)}; {EXAMPLES}") from None
    raise ConfigError(f"{masked(parsed)}: '{name}' is not supported; {EXAMPLES}")


def _no_url(url: object) -> str:
    """Describe what is wrong with a URL; of one that cannot be parsed, shows only the scheme, to keep secrets."""
    if not isinstance(url, str | URL):
        return f"the database URL is {kind_of(url)}"
    shown = masked(url)
    if shown == HIDDEN:
        return "the database URL begins with no known scheme (a file's name needs sqlite:/// before it)"
    return f"{shown!r} is not a database URL that is supported"


def dialect_of(engine: Engine, *, owned: bool) -> Dialect:
    """The dialect of an engine.

    Raises:
        ConfigError: The dialect or driver is not supported, or threads cannot share the engine.
    """
    name = engine.dialect.name
    if engine.dialect.is_async:
        raise ConfigError(
            f"{masked(engine.url)}: '{name}+{engine.dialect.driver}' is an async driver, which is not supported "
            "(async calls run in threads of ours); take the ordinary one"
        )
    if name == "sqlite":
        return sqlite.Sqlite(engine, owned=owned)
    if name == "postgresql":
        return postgresql.Postgresql(engine)
    raise ConfigError(f"{masked(engine.url)}: '{name}' is not supported; {EXAMPLES}")


def insert_missing(connection: Connection, table: type[object]) -> PostgresqlInsert | SqliteInsert:
    """An insert that skips rows whose key exists; its result's ``rowcount`` is the number of rows inserted."""
    if connection.dialect.name == "postgresql":
        # psycopg loses the count when the cursor closes, unless it is read at once.
        return insert_postgresql(table).on_conflict_do_nothing().execution_options(preserve_rowcount=True)
    return insert_sqlite(table).on_conflict_do_nothing().inline()  # inline: the last key may be of another row


@cache
def select_each(dialect: str, query: Select[Any], column: InstrumentedAttribute[Any]) -> Select[Any]:
    """A query for the one row, if any, with each value of the parameter ``values`` in a column that is unique.

    PostgreSQL gets a loop over the values, since it reads all rows for a list as long as the table has no statistics.
    The result is cached per query, so build ``query`` once.
    """
    if dialect != "postgresql":
        return query.where(column.in_(bindparam("values", expanding=True)))
    values = bindparam("values", type_=ARRAY(column.type))
    wanted = func.unnest(values).table_valued("value").render_derived(name="wanted")
    found = query.where(column == wanted.c.value).limit(1).lateral("found")
    return select(found).select_from(wanted.join(found, true()))


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
