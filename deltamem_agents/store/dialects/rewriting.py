"""Taking erased bytes out of PostgreSQL's files. Knows tables by their names alone; each step is a transaction.

VACUUM gives the space of deleted rows back and leaves their bytes in it, and a GIN index never forgets a word. So
tables are rewritten, with their indexes and what is stored out of line: the old files go. CLUSTER does that as VACUUM
FULL does, but within a transaction, so that its settings end with it and hold behind a transaction pooler too.

ANALYZE would copy values into the catalog, where rows of ours cannot be reached: columns that hold what was said, or
what was made of it, have no statistics. They need none, as each statement finds its rows by an index.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any
from zlib import crc32

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from deltamem_agents.store.dialects.tsvector import TRIGGERS, schema_prefix

SMALL = 8 * 2**20  # bytes of a table with its indexes, that an erasure rewrites; what is larger waits for a purge
PURGE_SECONDS = 2.0  # that a purge waits for others, before it leaves the rest to a later one
LOCK_SECONDS = 0.5  # that a lock is waited for at a time, as others queue up behind
STEP_SECONDS = 10.0  # that a step on a large table may take within an erasure
IN_USE = ("55P03", "40P01")  # no lock within that time, deadlock
VECTORS = "deltamem_vectors"
NAMES = ("deltamem_records_added", "deltamem_records_changed")
PLAIN = ("role", "model", "fingerprint", "version_num")  # text that nobody said

_OURS = "n.oid = (SELECT relnamespace FROM pg_class WHERE oid = to_regclass(:messages)) AND c.relname ~ '^deltamem_'"
_TABLES = text(
    "SELECT c.relname, pg_total_relation_size(c.oid), pg_relation_size(c.oid), k.relname FROM pg_class c"
    " JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_index i ON i.indrelid = c.oid AND i.indisprimary"
    f" JOIN pg_class k ON k.oid = i.indexrelid WHERE {_OURS} AND c.relkind = 'r' ORDER BY 2"
)
_INDEXES = text(  # over what was said; HNSW overwrites what VACUUM takes out of it
    "SELECT k.relname, pg_relation_size(k.oid) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
    " JOIN pg_index i ON i.indrelid = c.oid JOIN pg_class k ON k.oid = i.indexrelid JOIN pg_am m ON m.oid = k.relam"
    f" WHERE {_OURS} AND c.relname = :table AND m.amname <> 'hnsw' ORDER BY 2"
)
_LEFT_OVER = text(  # by a REINDEX CONCURRENTLY that was interrupted
    "SELECT k.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
    " JOIN pg_index i ON i.indrelid = c.oid JOIN pg_class k ON k.oid = i.indexrelid"
    f" WHERE {_OURS} AND NOT i.indisvalid AND k.relname ~ '_cc(new|old)[0-9]*$'"
)
_COUNTED = text(  # columns that ANALYZE looks at and must not
    "SELECT c.relname, c.relkind, a.attname, a.attnum, format_type(a.atttypid, a.atttypmod) FROM pg_class c"
    " JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_attribute a ON a.attrelid = c.oid"
    f" JOIN pg_type t ON t.oid = a.atttypid WHERE {_OURS}"
    " AND (c.relkind = 'r' OR c.relkind = 'i' AND c.relname ~ '^deltamem_vectors_[0-9]+$')"
    " AND a.attnum > 0 AND NOT a.attisdropped AND a.attstattarget IS DISTINCT FROM 0 AND NOT a.attname = ANY(:plain)"
    " AND t.typname = ANY(ARRAY['text', 'varchar', 'bytea', 'tsvector', 'json', 'jsonb', 'halfvec']) ORDER BY 1, 3"
)
_NOW = text("SELECT pg_current_xact_id()::xid::text")
_OLDER = text(  # what keeps rows that were deleted before :now
    "SELECT (SELECT count(*) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
    " AND ((datname = current_database() OR backend_type = 'walsender') AND age(backend_xmin) > age(CAST(:now AS xid))"
    # Writes in any database: whoever reads here meanwhile goes by them.
    " OR age(backend_xid) > age(CAST(:now AS xid)))),"
    " (SELECT count(*) FROM pg_prepared_xacts WHERE age(transaction) > age(CAST(:now AS xid))),"
    " (SELECT count(*) FROM pg_replication_slots WHERE age(xmin) > age(CAST(:now AS xid)))"
)


def purge(connection: Connection, *, whole: bool) -> list[str]:
    """Take the bytes of deleted rows out of the files; why that is not finished, nothing where it is.

    Args:
        connection: In autocommit; it is returned in it.
        whole: Whether large tables are rewritten too, during which nobody can use them.

    Raises:
        DBAPIError: The database cannot be reached.
    """
    left = _without_left_over_indexes(connection)
    kept = _kept_by_others(connection)
    if kept:
        return [*left, kept]
    large: list[str] = []
    for table, size, own, key in connection.execute(_TABLES, _ours(connection)).all():
        if own == 0 or table in ("deltamem_version", "deltamem_purges"):
            continue
        if whole or size <= SMALL:
            left += _rewritten(connection, table, key)
        else:
            left += _vacuumed(connection, table)
            left.append(f"{table} has {size / 2**20:,.0f} MB and is rewritten by 'deltamem db purge'")
            large.append(table)
    return left + _without_statistics(connection, large)


def keep_no_statistics(connection: Connection) -> None:
    """Let ANALYZE pass over what was said, in tables that were just made; in the transaction that is open."""
    for column in _counted(connection):
        connection.exec_driver_sql(_no_statistics(connection, column))


def _counted(connection: Connection) -> Sequence[Any]:
    return connection.execute(_COUNTED, {**_ours(connection), "plain": list(PLAIN)}).all()


def _no_statistics(connection: Connection, column: Any) -> str:
    kind, name = ("INDEX", column.attnum) if column.relkind == "i" else ("TABLE", f'"{column.attname}"')
    return f"ALTER {kind} {schema_prefix(connection)}{column.relname} ALTER COLUMN {name} SET STATISTICS 0"


def _ours(connection: Connection) -> dict[str, str]:
    return {"messages": f"{schema_prefix(connection)}deltamem_messages"}


def _kept_by_others(connection: Connection) -> str | None:
    """Who may still read the deleted rows, so that rewriting would keep them; after waiting a little."""
    now = connection.scalar(_NOW)
    until = time.monotonic() + PURGE_SECONDS
    while True:
        counts = tuple(connection.execute(_OLDER, {"now": now}).one())
        if not any(counts) or time.monotonic() > until:
            break
        time.sleep(0.05)
    named = ("open transactions", "prepared transactions", "replication slots")
    kept = [f"{count} {what}" for count, what in zip(counts, named, strict=True) if count]
    return f"{' and '.join(kept)} may still read the deleted rows" if kept else None


def _rewritten(connection: Connection, table: str, key: str) -> list[str]:
    name = f"{schema_prefix(connection)}{table}"
    steps = (f"CLUSTER {name} USING {key}", f"ALTER TABLE {name} SET WITHOUT CLUSTER", f"ANALYZE {name}")
    return _tried(connection, table, steps)


def _vacuumed(connection: Connection, table: str) -> list[str]:
    """Free a large table's deleted rows, and rebuild its smaller indexes, while others use it."""
    prefix = schema_prefix(connection)
    steps = [f"VACUUM (ANALYZE) {prefix}{table}"]
    for index, size in connection.execute(_INDEXES, {**_ours(connection), "table": table}):
        if size <= SMALL:
            steps.append(f"REINDEX INDEX CONCURRENTLY {prefix}{index}")
    left = []
    for step in steps:
        try:
            with _cancelled_after(connection, STEP_SECONDS):
                connection.exec_driver_sql(step)
        except DBAPIError as error:
            left.append(_reason(table, error))
    return left


def _without_left_over_indexes(connection: Connection) -> list[str]:
    left: list[str] = []
    prefix = schema_prefix(connection)
    for (index,) in connection.execute(_LEFT_OVER, _ours(connection)).all():
        left += _tried(connection, index, (f"DROP INDEX IF EXISTS {prefix}{index}",))
    return left


def _without_statistics(connection: Connection, large: Collection[str]) -> list[str]:
    """Make columns of an older database forget what ANALYZE had copied of them."""
    counted = _counted(connection)
    prefix = schema_prefix(connection)
    # What has its type set loses its statistics; it has that type already, so no row is touched. Indexes over vectors
    # are built anew with their column.
    typed = {
        (VECTORS, "vector", f"{each[4]}".partition("(")[0])
        if each.relkind == "i"
        else (each.relname, each.attname, each[4])
        for each in counted
    }
    for table in sorted({each[0] for each in typed}):
        if table == VECTORS and table in large:
            return [f"{table} is large, and rebuilt by 'deltamem db purge'"]
        steps = [
            f'ALTER TABLE {prefix}{table} ALTER COLUMN "{name}" TYPE {kind}'
            for of, name, kind in sorted(typed)
            if of == table
        ]
        if table == "deltamem_records":  # its triggers name columns
            drop = [f"DROP TRIGGER IF EXISTS {each} ON {prefix}deltamem_records" for each in NAMES]
            steps = [*drop, *steps, *(each.format(prefix=prefix) for each in TRIGGERS)]
        left = _tried(connection, table, steps)
        if left:
            return left
    return _without_old_statistics(connection) if counted else []


def _without_old_statistics(connection: Connection) -> list[str]:
    """Rewrite where ANALYZE had copied values to; mark our columns only then, so that it is done whole."""
    try:
        with _cancelled_after(connection, STEP_SECONDS):
            told = len(_notices(connection, "VACUUM (FULL) pg_catalog.pg_statistic"))
    except DBAPIError as error:
        return [_reason("pg_statistic", error)]
    if told:  # PostgreSQL passes over what it does not permit
        return ["older statistics are in pg_statistic, which 'deltamem db purge' as the database's owner rewrites"]
    left = []
    for column in _counted(connection):
        left += _tried(connection, column.relname, (_no_statistics(connection, column),))
    return left


def patiently(connection: Connection, what: str, work: Callable[[Connection], object]) -> list[str]:
    """Do something in one transaction, waiting for its locks a little at a time; why that was not to be."""
    until = time.monotonic() + PURGE_SECONDS
    while True:
        try:
            connection.exec_driver_sql("BEGIN")
            try:
                connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{int(LOCK_SECONDS * 1000)}ms'")
                connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
                connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({crc32(b'deltamem purge')})")
                work(connection)
                connection.exec_driver_sql("COMMIT")
            except BaseException:
                with suppress(SQLAlchemyError):  # where the connection is gone, so is the transaction
                    connection.exec_driver_sql("ROLLBACK")
                raise
            return []
        except DBAPIError as error:
            if error.connection_invalidated:
                raise
            if _state(error) not in IN_USE or time.monotonic() > until:
                return [_reason(what, error)]


def _tried(connection: Connection, what: str, statements: Sequence[str]) -> list[str]:
    def work(connection: Connection) -> None:
        for statement in statements:
            connection.exec_driver_sql(statement)

    return patiently(connection, what, work)


def _state(error: DBAPIError) -> str | None:
    return getattr(error.orig, "sqlstate", None)


def _reason(what: str, error: DBAPIError) -> str:
    if _state(error) in IN_USE:
        return f"{what} is in use by others"
    if _state(error) == "57014":
        return f"{what} takes longer than {STEP_SECONDS:.0f} s"
    return f"{what}: {' '.join(str(error.orig).partition('DETAIL:')[0].split())}"


def _notices(connection: Connection, statement: str) -> list[str]:
    """Run a statement; what the server remarked about it."""
    told: list[str] = []
    driver: Any = connection.connection.driver_connection

    def noted(diagnostic: Any) -> None:
        told.append(str(diagnostic.message_primary))

    driver.add_notice_handler(noted)
    try:
        connection.exec_driver_sql(statement)
    finally:
        driver.remove_notice_handler(noted)
    return told


@contextmanager
def _cancelled_after(connection: Connection, seconds: float) -> Iterator[None]:
    """Cancel what runs on a connection once it has taken so long: statements that no transaction can hold."""
    driver: Any = connection.connection.driver_connection
    ended = threading.Event()

    def watch() -> None:
        if not ended.wait(seconds):
            driver.cancel_safe(timeout=5)

    watcher = threading.Thread(target=watch, daemon=True, name="deltamem-purge")
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()
