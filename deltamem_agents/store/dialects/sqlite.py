"""SQLite: one file (with its write-ahead log), or memory.

Writes begin with ``BEGIN IMMEDIATE``: the writer waits for its turn before it reads. Threads of one process queue for
their turn here, in order, rather than in SQLite's busy handler, which polls.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import ConnectionPoolEntry, NullPool, QueuePool, SingletonThreadPool, StaticPool

from deltamem_agents.errors import ConfigError, StoreError
from deltamem_agents.store.dialects import fts5, purging
from deltamem_agents.store.dialects.fts5 import Fts5
from deltamem_agents.store.masking import masked

BUSY_SECONDS = 30.0
PURGE_SECONDS = 2.0  # that a purge waits for readers, before it leaves the rest to a later one
DAMAGED = (
    "'deltamem db check' says whether the file is damaged, or only the full-text index, which 'deltamem db repair' "
    "makes anew; restore a damaged file from a backup"
)
REMEDIES = (  # part of SQLite's message, what to do about it
    ("readonly", "give this process write permission to the file and its folder, or open a writable copy"),
    ("unable to open", "check that the folder exists, and that this process may read and write it"),
    ("locked", f"another process held it for more than {BUSY_SECONDS:.0f} s; try again, or end that process"),
    ("not a database", "it is some other kind of file: choose another path"),
    ("malformed", DAMAGED),
    ("fts5: corrupt", DAMAGED),
    ("constraint failed", DAMAGED),
    ("full", "free some disk space and try again"),
    ("disk i/o error", "check that the disk is sound and has room, and try again"),
    ("fts5", "use a Python whose SQLite has the FTS5 extension"),
)


class Sqlite:
    """As `Dialect`.

    Raises:
        ConfigError: The engine gives every thread a database of its own.
    """

    vectors = None
    writes_tables_at_once = False
    outside_reach = ("copies and backups of the database's files",)

    def __init__(self, engine: Engine) -> None:
        if isinstance(engine.pool, SingletonThreadPool):
            raise ConfigError(
                f"{masked(engine.url)}: this engine gives every thread a database of its own; "
                "create it with poolclass=StaticPool and connect_args={'check_same_thread': False}"
            )
        if engine.dialect.driver != "pysqlite" or not isinstance(engine.pool, QueuePool | NullPool | StaticPool):
            raise ConfigError(
                f"{masked(engine.url)}: the driver '{engine.dialect.driver}' with a {type(engine.pool).__name__} is "
                "not supported, as it was not tested; use one like sqlite:///memory.db"
            )
        self.fulltext = Fts5()
        self.shares_commits = not isinstance(engine.pool, StaticPool)
        self._turn = threading.RLock()
        # A single connection cannot run two transactions at once.
        self._single: AbstractContextManager[object] = (
            self._turn if isinstance(engine.pool, StaticPool) else nullcontext()
        )

    def check_schema(self, engine: Engine, schema: str) -> None:
        """As `Dialect.check_schema`: there is none."""
        raise ConfigError(f"{masked(engine.url)}: SQLite has no schemas, {schema!r} was given; leave it out")

    def check_server(self, engine: Engine) -> None:
        """As `Dialect.check_server`: there is none."""

    def prepare(self, engine: Engine, schema: str | None) -> None:
        """Switch to a write-ahead log, so that readers and a writer work side by side.

        A database that is read-only, or that another process is switching right now, stays as it is.

        Raises:
            StoreError: The file cannot be used.
        """
        with self._single:
            connection = engine.raw_connection()  # below SQLAlchemy, as the mode cannot change in a transaction
            try:
                connection.cursor().execute("PRAGMA journal_mode=WAL")
            except sqlite3.Error as error:
                if not any(part in str(error) for part in ("readonly", "locked")):
                    remedy = self.remedy(str(error)) or "nothing was changed"
                    raise StoreError(f"cannot prepare {masked(engine.url)}: {error}; {remedy}") from error
            finally:
                connection.close()

    def lock(self, connection: Connection, name: str) -> None:
        """Nothing to do: there is one writer at a time."""

    def reading(self) -> AbstractContextManager[object]:
        """As `Dialect.reading`."""
        return self._single

    def writing(self) -> AbstractContextManager[object]:
        """As `Dialect.writing`."""
        return self._turn

    def begin_read(self, connection: Connection) -> None:
        """As `Dialect.begin_read`."""
        if not _in_transaction(connection):
            connection.exec_driver_sql("BEGIN")

    def begin_write(self, connection: Connection) -> None:
        """As `Dialect.begin_write`."""
        if not _in_transaction(connection):
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        elif connection.dialect.has_table(connection, "deltamem_version"):
            # The caller's engine has begun by itself, deferred: a first write takes the lock.
            connection.exec_driver_sql("UPDATE deltamem_version SET version_num = version_num")

    def passing(self, error: DBAPIError) -> bool:
        """Never: SQLite has waited already."""
        return False

    def remedy(self, cause: str) -> str | None:
        """As `Dialect.remedy`."""
        return next((remedy for part, remedy in REMEDIES if part in cause.lower()), None)

    def created(self, connection: Connection) -> None:
        """As `Dialect.created`: nothing more."""

    def purge(self, engine: Engine, *, whole: bool) -> str | None:
        """As `Dialect.purge`; see `purging`."""
        with self._turn, self._driver(engine) as driver:
            driver.execute(f"PRAGMA busy_timeout = {int(PURGE_SECONDS * 1000)}")
            return purging.purge(driver)

    def repair(self, engine: Engine) -> list[str]:
        """As `Dialect.repair`: the full-text index is made anew."""
        with self._turn, self._driver(engine) as driver:
            try:
                fts5.rebuild(driver)
            except sqlite3.Error as error:
                remedy = self.remedy(str(error)) or "nothing was changed"
                raise StoreError(f"cannot repair {masked(engine.url)}: {error}; {remedy}") from error
        return ["the full-text index was made anew from the records"]

    @contextmanager
    def _driver(self, engine: Engine) -> Iterator[sqlite3.Connection]:
        """The driver's connection of an engine, on which nothing begins a transaction but statements."""
        connection = engine.raw_connection()
        driver: sqlite3.Connection = connection.driver_connection  # type: ignore[assignment]
        before = driver.isolation_level, driver.execute("PRAGMA busy_timeout").fetchone()[0]
        try:
            driver.isolation_level = None  # as VACUUM cannot run in a transaction
            yield driver
        finally:
            driver.isolation_level = before[0]
            driver.execute(f"PRAGMA busy_timeout = {before[1]}")
            connection.close()

    def check(self, connection: Connection) -> list[str]:
        """As `Dialect.check`."""
        found = [row[0] for row in connection.exec_driver_sql("PRAGMA quick_check") if row[0] != "ok"]
        broken = connection.exec_driver_sql("PRAGMA foreign_key_check").all()
        ours = [row for row in broken if str(row[0]).startswith("deltamem_")]
        driver: sqlite3.Connection = connection.connection.driver_connection  # type: ignore[assignment]
        found += fts5.problems(driver)
        return found + [f"row {row[1]} of {row[0]} refers to a row of {row[2]} that is not there" for row in ours]


def engine(url: URL) -> Engine:
    """A new engine: a connection a thread on a file, one connection for all in memory."""
    in_memory = url.database in (None, "", ":memory:") or url.query.get("mode") == "memory"
    made = create_engine(
        url,
        connect_args={"timeout": BUSY_SECONDS, "check_same_thread": False},
        hide_parameters=True,  # an error must not print the text of messages
        **({"poolclass": StaticPool} if in_memory else {}),
    )
    if not made.dialect.is_async:
        connect: Callable[..., None] = _on_connect
        event.listen(made, "connect", connect)
    return made


def _on_connect(connection: object, _entry: ConnectionPoolEntry) -> None:
    cursor = connection.cursor()  # type: ignore[attr-defined]  # DB-API connections share no type
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.execute("PRAGMA secure_delete=ON")
    cursor.close()


def _in_transaction(connection: Connection) -> bool:
    return bool(getattr(connection.connection.dbapi_connection, "in_transaction", False))
