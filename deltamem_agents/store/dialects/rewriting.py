"""Removes erased bytes from PostgreSQL's files. Knows tables only by name; each step is a transaction.

VACUUM frees the space of deleted rows but leaves their bytes in it, and a GIN index never forgets a word. So tables
are rewritten with their indexes and TOAST data, which deletes the old files. CLUSTER rewrites as VACUUM FULL does, but
runs in a transaction, so that its settings end with it and also work behind a transaction pooler.

ANALYZE would copy values into the catalog, where we cannot delete them. So columns that hold messages, or data derived
from them, have no statistics. They need none, because every statement finds its rows by an index.
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

SMALL = 8 * 2**20  # bytes of a table and its indexes up to which an erasure rewrites it; larger ones wait for a purge
PURGE_SECONDS = 2.0  # how long a purge waits for others before it leaves the rest to a later one
LOCK_SECONDS = 0.5  # timeout of each lock request, because others queue behind it
STEP_SECONDS = 10.0  # limit of a step on a large table within an erasure
IN_USE = ("55P03", "40P01")  # lock timeout, deadlock
VECTORS = "deltamem_vectors"
NAMES = ("deltamem_records_added", "deltamem_records_changed")
PLAIN = ("role", "model", "fingerprint", "version_num")  # text columns without message content

_OURS = "n.oid = (SELECT relnamespace FROM pg_class WHERE oid = to_regclass(:messages)) AND c.relname ~ '^deltamem_'"
_TABLES = text(
    "SELECT c.relname, pg_total_relation_size(c.oid), pg_relation_size(c.oid), k.relname FROM pg_class c"
    " JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_index i ON i.indrelid = c.oid AND i.indisprimary"
    f" JOIN pg_class k ON k.oid = i.indexrelid WHERE {_OURS} AND c.relkind = 'r' ORDER BY 2"
)
_INDEXES = text(  # indexes of a table, without HNSW, which overwrites what VACUUM removes
    "SELECT k.relname, pg_relation_size(k.oid) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
    " JOIN pg_index i ON i.indrelid = c.oid JOIN pg_class k ON k.oid = i.indexrelid JOIN pg_am m ON m.oid = k.relam"
    f" WHERE {_OURS} AND c.relname = :table AND m.amname <> 'hnsw' ORDER BY 2"
)
_LEFT_OVER = text(  # invalid indexes left by an interrupted REINDEX CONCURRENTLY
    "SELECT k.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
    " JOIN pg_index i ON i.indrelid = c.oid JOIN pg_class k ON k.oid = i.indexrelid"
    f" WHERE {_OURS} AND NOT i.indisvalid AND k.relname ~ '_cc(new|old)[0-9]*$'"
)
_COUNTED = text(  # columns that ANALYZE reads but must not
    "SELECT c.relname, c.relkind, a.attname, a.attnum, format_type(a.atttypid, a.atttypmod) FROM pg_class c"
    " JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_attribute a ON a.attrelid = c.oid"
    f" JOIN pg_type t ON t.oid = a.atttypid WHERE {_OURS}"
    " AND (c.relkind = 'r' OR c.relkind = 'i' AND c.relname ~ '^deltamem_vectors_[0-9]+$')"
    " AND a.attnum > 0 AND NOT a.attisdropped AND a.attstattarget IS DISTINCT FROM 0 AND NOT a.attname = ANY(:plain)"
    " AND t.typname = ANY(ARRAY['text', 'varchar', 'bytea', 'tsvector', 'json', 'jsonb', 'halfvec']) ORDER BY 1, 3"
)
_NOW = text("SELECT pg_current_xact_id()::xid::text")
_OLDER = text(  # what keeps alive rows that were deleted before :now
    "SELECT (SELECT count(*) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
    " AND ((datname = current_database() OR backend_type = 'walsender') AND age(backend_xmin) > age(CAST(:now AS xid))"
    # Writers in any database count, because they are part of the snapshots of readers here.
    " OR age(backend_xid) > age(CAST(:now AS xid)))),"
    " (SELECT count(*) FROM pg_prepared_xacts WHERE age(transaction) > age(CAST(:now AS xid))),"
    " (SELECT count(*) FROM pg_replication_slots WHERE age(xmin) > age(CAST(:now AS xid)))"
)


def purge(connection: Connection, *, whole: bool) -> list[str]:
    """Remove the bytes of deleted rows from the files; returns why that is not finished, empty if it is.

    Args:
        connection: In autocommit mode, and left in it.
        whole: Whether to rewrite large tables too, which nobody can use meanwhile.

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
    """Make ANALYZE skip message content in tables just created; runs in the open transaction."""
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
    """Wait up to `PURGE_SECONDS` for transactions that may read the deleted rows; describes those that remain.

    While one remains, rewriting would keep the rows.
    """
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
    """Vacuum a large table and rebuild its smaller indexes, while others use it."""
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
    """Remove statistics that ANALYZE has collected for our columns in an older database."""
    counted = _counted(connection)
    prefix = schema_prefix(connection)
    # Setting a column's type deletes its statistics; setting the type that it has touches no row. Indexes over vectors
    # are rebuilt with their column.
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
        if table == "deltamem_records":  # its triggers refer to columns
            drop = [f"DROP TRIGGER IF EXISTS {each} ON {prefix}deltamem_records" for each in NAMES]
            steps = [*drop, *steps, *(each.format(prefix=prefix) for each in TRIGGERS)]
        left = _tried(connection, table, steps)
        if left:
            return left
    return _without_old_statistics(connection) if counted else []


def _without_old_statistics(connection: Connection) -> list[str]:
    """Rewrite pg_statistic, then turn statistics off for our columns; only then, so that a failed run is repeated."""
    try:
        with _cancelled_after(connection, STEP_SECONDS):
            told = len(_notices(connection, "VACUUM (FULL) pg_catalog.pg_statistic"))
    except DBAPIError as error:
        return [_reason("pg_statistic", error)]
    if told:  # PostgreSQL only remarks that it skips a table for lack of permission
        return ["older statistics are in pg_statistic, which 'deltamem db purge' as the database's owner rewrites"]
    left = []
    for column in _counted(connection):
        left += _tried(connection, column.relname, (_no_statistics(connection, column),))
    return left


def patiently(connection: Connection, what: str, work: Callable[[Connection], object]) -> list[str]:
    """Run ``work`` in one transaction, retrying with a short lock timeout; returns why it failed, empty on success.

    Raises:
        DBAPIError: The connection broke.
    """
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
                with suppress(SQLAlchemyError):  # if the connection is lost, so is the transaction
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
    """Run a statement and return the server's notices."""
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
    """Cancel the statement on a connection after a time; for statements that cannot run in a transaction."""
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
