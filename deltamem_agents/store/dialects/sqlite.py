"""SQLite: one file (with its write-ahead log), or memory.

Writes begin with ``BEGIN IMMEDIATE``, so that a writer waits for its turn before it reads. Threads of one process queue
on a lock of ours rather than in SQLite's busy handler, which polls.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import ConnectionPoolEntry, NullPool, QueuePool, SingletonThreadPool, StaticPool

from deltamem_agents.errors import ConfigError, StoreError, kind_of
from deltamem_agents.store.dialects import fts5, purging
from deltamem_agents.store.dialects.fts5 import Fts5
from deltamem_agents.store.masking import masked
from deltamem_agents.store.sqlite_files import file_of, make_private, resolved
from deltamem_agents.store.turns import NoTurn, Turn, TurnBusyError, in_turn, with_driver

BUSY_SECONDS = 30.0
SWITCH_SECONDS = 1.0  # how long switching to a write-ahead log waits for others, who may be switching too
PURGE_SECONDS = 2.0  # how long a purge waits for readers before it leaves the rest to a later one
DAMAGED = (
    "'deltamem db check' says whether the file is damaged, or only the full-text index, which 'deltamem db repair' "
    "rebuilds; restore a damaged file from a backup"
)
REMEDIES = (  # part of SQLite's message, remedy
    ("readonly", "give this process write permission to the file and its folder, or open a writable copy"),
    ("unable to open", "check that the folder exists, and that this process may read and write it"),
    ("locked", f"another process held it for {BUSY_SECONDS:.0f} s; try again, or end that process"),
    ("not a database", "it is some other kind of file: choose another path"),
    ("malformed", DAMAGED),
    ("fts5: corrupt", DAMAGED),
    ("constraint failed", DAMAGED),
    ("full", "free some disk space and try again"),
    ("disk i/o error", "check that the disk is sound and has room, and try again"),
    ("fts5", "use a Python whose SQLite has the FTS5 extension"),
)


class Sqlite:
    """The `Dialect` of SQLite.

    Raises:
        ConfigError: The engine gives every thread a database of its own, or its driver or pool is not supported.
    """

    vectors = None
    writes_tables_at_once = False
    outside_reach = ("copies and backups of the database's files",)

    def __init__(self, engine: Engine, *, owned: bool) -> None:
        if isinstance(engine.pool, SingletonThreadPool):
            raise ConfigError(
                f"{masked(engine.url)}: this engine gives every thread a database of its own; "
                "create it with poolclass=StaticPool and connect_args={'check_same_thread': False}"
            )
        if engine.dialect.driver != "pysqlite" or not isinstance(engine.pool, QueuePool | NullPool | StaticPool):
            raise ConfigError(
                f"{masked(engine.url)}: the driver '{engine.dialect.driver}' with {kind_of(engine.pool)} is "
                "not supported, as it is untested; use one like sqlite:///memory.db"
            )
        self.fulltext = Fts5()
        self.shares_commits = not isinstance(engine.pool, StaticPool)
        self._owned = owned
        self._turn = Turn()
        # A single connection cannot run two transactions at once.
        self._single = self._turn if isinstance(engine.pool, StaticPool) else NoTurn()

    def check_schema(self, engine: Engine, schema: str) -> None:
        """Raise ConfigError: SQLite has no schemas."""
        raise ConfigError(f"{masked(engine.url)}: SQLite has no schemas, {schema!r} was given; leave it out")

    def check_server(self, engine: Engine) -> None:
        """Do nothing: SQLite has no server."""

    def prepare(self, engine: Engine, schema: str | None) -> None:
        """Switch to a write-ahead log, so that readers and a writer can work at the same time.

        A database that is read-only, or that another process is switching at the moment, is left as it is.

        Raises:
            StoreError: The file cannot be used.
        """

        def switch(driver: sqlite3.Connection) -> None:  # bypasses SQLAlchemy: the mode cannot change in a transaction
            _wait(driver, SWITCH_SECONDS)
            driver.execute("PRAGMA journal_mode=WAL")

        try:
            in_turn(self._single, lambda: with_driver(engine, switch, owned=self._owned))
        except sqlite3.Error as error:
            if not any(part in str(error) for part in ("readonly", "locked")):
                remedy = self.remedy(str(error)) or "nothing was changed"
                raise StoreError(f"cannot prepare {masked(engine.url)}: {error}; {remedy}") from error

    def lock(self, connection: Connection, name: str) -> None:
        """Do nothing: SQLite has one writer at a time."""

    @property
    def busy_seconds(self) -> float:
        """See `Dialect.busy_seconds`."""
        return BUSY_SECONDS

    def wait_until(self, driver: sqlite3.Connection, until: float | None) -> None:
        """See `Dialect.wait_until`; a caller's engine keeps its own timeout."""
        if self._owned and until is not None:
            _wait(driver, until - time.monotonic())

    def reading(self) -> Turn:
        """See `Dialect.reading`."""
        return self._single

    def writing(self) -> Turn:
        """See `Dialect.writing`."""
        return self._turn

    def begin_read(self, connection: Connection) -> None:
        """See `Dialect.begin_read`."""
        if not _in_transaction(connection):
            connection.exec_driver_sql("BEGIN")

    def begin_write(self, connection: Connection) -> None:
        """See `Dialect.begin_write`."""
        if not _in_transaction(connection):
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        elif connection.dialect.has_table(connection, "deltamem_version"):
            # The caller's engine has begun a deferred transaction itself: a first write takes the lock.
            connection.exec_driver_sql("UPDATE deltamem_version SET version_num = version_num")

    def passing(self, error: DBAPIError) -> bool:
        """Return False: SQLite has already waited for locks itself."""
        return False

    def remedy(self, cause: str) -> str | None:
        """See `Dialect.remedy`."""
        return next((remedy for part, remedy in REMEDIES if part in cause.lower()), None)

    def created(self, connection: Connection) -> None:
        """Do nothing; see `Dialect.created`."""

    def purge(self, engine: Engine, *, whole: bool) -> str | None:
        """See `Dialect.purge` and `purging`."""

        def work(driver: sqlite3.Connection) -> str | None:
            _wait(driver, PURGE_SECONDS)
            return purging.purge(driver)

        try:
            return in_turn(
                self._turn, lambda: with_driver(engine, work, owned=self._owned), time.monotonic() + BUSY_SECONDS
            )
        except TurnBusyError:
            return "other threads are writing"

    def repair(self, engine: Engine) -> list[str]:
        """Rebuild the full-text index; see `Dialect.repair`.

        Raises:
            StoreError: The file cannot be written.
        """
        try:
            in_turn(self._turn, lambda: with_driver(engine, fts5.rebuild, owned=self._owned))
        except sqlite3.Error as error:
            remedy = self.remedy(str(error)) or "nothing was changed"
            raise StoreError(f"cannot repair {masked(engine.url)}: {error}; {remedy}") from error
        return ["the full-text index was rebuilt from the records"]

    def check(self, connection: Connection) -> list[str]:
        """See `Dialect.check`."""
        rows = connection.exec_driver_sql("PRAGMA quick_check").scalars()
        found = [row for row in rows if row != "ok" and not fts5.is_about_index(row)]  # the index is checked below
        broken = connection.exec_driver_sql("PRAGMA foreign_key_check").all()
        ours = [row for row in broken if str(row[0]).startswith("deltamem_")]
        driver: sqlite3.Connection = connection.connection.driver_connection  # type: ignore[assignment]
        found += fts5.problems(driver)
        return found + [f"row {row[1]} of {row[0]} refers to a row of {row[2]} that does not exist" for row in ours]


def engine(url: URL) -> Engine:
    """A new engine: for a file, one connection per thread; for memory, one connection shared by all threads.

    Raises:
        ConfigError: The URL does not name one file.
    """
    url = resolved(url)
    in_memory = file_of(url) is None
    made = create_engine(
        url,
        connect_args={"timeout": BUSY_SECONDS, "check_same_thread": False},
        hide_parameters=True,  # an error must not print the text of messages
        **({"poolclass": StaticPool} if in_memory else {}),
    )
    if not made.dialect.is_async:
        connect: Callable[..., None] = _on_connect
        event.listen(made, "do_connect", lambda *_: make_private(url))
        event.listen(made, "connect", connect)
        event.listen(made, "invalidate", _on_invalidate)
        event.listen(made, "handle_error", _on_error)
        if in_memory:
            _keep(made)
    return made


def _keep(made: Engine) -> None:
    """Keep an engine's only connection open until the engine is disposed of, since closing it loses the database.

    SQLAlchemy closes a connection on which Ctrl-C interrupts it.
    """
    kept: list[sqlite3.Connection] = []

    def connect(dialect: Any, _record: object, arguments: Any, parameters: Any) -> sqlite3.Connection:
        if not kept:
            kept.append(dialect.loaded_dbapi.connect(*arguments, **parameters))
        return kept[0]

    def disposed(_: Engine) -> None:
        while kept:
            kept.pop().close()

    event.listen(made, "do_connect", connect)
    event.listen(made, "engine_disposed", disposed)
    made.dialect.do_close = made.dialect.do_terminate = lambda _: None  # type: ignore[method-assign,assignment]


def _on_error(context: ExceptionContext) -> None:
    """Keep SQLAlchemy from closing a connection on which Ctrl-C interrupts it: `turns` rolls it back."""
    if not isinstance(context.original_exception, Exception):
        context.is_disconnect = False


def _on_invalidate(connection: sqlite3.Connection, _entry: object, _error: object) -> None:
    """Roll back before SQLAlchemy closes the connection; SQLite does so only once the last cursor is freed."""
    with suppress(sqlite3.Error):
        connection.rollback()


def _wait(driver: sqlite3.Connection, seconds: float) -> None:
    """Set how long the connection waits for locks."""
    driver.execute(f"PRAGMA busy_timeout = {max(int(1000 * seconds), 0)}")


def _on_connect(connection: object, _entry: ConnectionPoolEntry) -> None:
    cursor = connection.cursor()  # type: ignore[attr-defined]  # DB-API connections share no type
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.execute("PRAGMA secure_delete=ON")
    cursor.close()


def _in_transaction(connection: Connection) -> bool:
    return bool(getattr(connection.connection.dbapi_connection, "in_transaction", False))
