"""Connects to a database, retries transactions and turns SQL errors into ours. Knows no tables."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, TypeVar, cast

from sqlalchemy import URL, Connection, Engine
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError, SQLAlchemyError

from deltamem_agents import arguments
from deltamem_agents.errors import ClosedError, ConfigError, DeltaMemError, StoreError, shown
from deltamem_agents.processes import check_process
from deltamem_agents.store.columns import DamagedValue
from deltamem_agents.store.dialects import Dialect, dialect_of, engine_for, sqlite
from deltamem_agents.store.file_locks import watch
from deltamem_agents.store.masking import masked, redacted
from deltamem_agents.store.sqlite_files import file_of
from deltamem_agents.store.turns import TurnBusyError, in_turn, transact
from deltamem_agents.store.write_queue import QueueBusyError, WriteQueue

RETRY_SECONDS = 30.0  # how long a call retries while the database is unreachable
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 2.0  # seconds between two tries

_DETAIL = "\nDETAIL:"  # after this, PostgreSQL may quote the row and with it a message's text

T = TypeVar("T")
Work = Callable[[Connection], T]


def _none(_: Connection) -> None:
    return None


class Database:
    """A database behind a SQLAlchemy engine.

    Args:
        engine: Ours, or the caller's; we add no listener or setting to a caller's engine.
        owned: Whether the engine is ours, so that `close` disposes of it.
        schema: PostgreSQL schema; None for the connection's default.
        shown: The URL that messages show, if it is not the engine's.

    Raises:
        ConfigError: The dialect is not supported, threads cannot share the engine, or the schema's name is not valid.
        ForkedError: The SQLite file was in use in the parent when this process was forked.
    """

    def __init__(self, engine: Engine, *, owned: bool, schema: str | None = None, shown: URL | None = None) -> None:
        self.dialect: Dialect = dialect_of(engine, owned=owned)
        self._made = time.monotonic()
        if schema is not None:
            self.dialect.check_schema(engine, schema)
        self.schema = schema
        self.url = engine.url
        self._shown = shown
        self._owned = owned
        self._closed = False
        self._damage: Callable[[Connection], str | None] = _none
        self._process = os.getpid()
        self._patience = 0.0  # no retries while opening: a wrong URL fails at once
        self._engine = engine.execution_options(schema_translate_map={None: schema}) if schema else engine
        file = file_of(engine.url)
        self._file = None if file is None else watch(engine, file, owned=owned)
        self._queue: WriteQueue[Work[Any]] | None = WriteQueue(self._transact) if self.dialect.shares_commits else None

    def require_file(self) -> None:
        """Refuse a SQLite file that does not exist, since connecting would create it.

        Raises:
            StoreError: The file does not exist.
        """
        file = file_of(self.url)
        if file is not None and not file.exists():
            raise StoreError(f"there is no file {file}; 'deltamem write' creates one, or check the path")

    @property
    def name(self) -> str:
        """The masked URL."""
        return masked(self._shown or self.url) + (f" (schema {self.schema})" if self.schema else "")

    def prepare(self) -> None:
        """Set up the database as a whole; see `Dialect.prepare`.

        Raises:
            ClosedError: After `close`.
            ForkedError: The database was opened in the parent process.
            StoreError: The database cannot be reached.
        """
        self._tried(lambda: self.dialect.prepare(self._engine, self.schema), "prepare")

    def check_server(self) -> None:
        """Check that the server is supported; must come before any other use of the database.

        Raises:
            ClosedError: After `close`.
            ConfigError: The server's encoding, version or pooler is not supported.
            ForkedError: The database was opened in the parent process.
            StoreError: The database cannot be reached.
        """
        self._tried(lambda: self.dialect.check_server(self._engine), "reach")

    def enable_retries(self, seconds: float = RETRY_SECONDS) -> None:
        """From now on, retry for so many seconds while the database is unreachable."""
        self._patience = seconds

    def look_for_damage(self, find: Callable[[Connection], str | None]) -> None:
        """From now on, call ``find`` to locate the damaged row when a value that was read is invalid."""
        self._damage = find

    def close(self) -> None:
        """Refuse further use, and close the connections of our own engine.

        Does nothing in a forked process: the connections belong to the parent, which still uses them.
        """
        if self._process != os.getpid():
            return

        def close() -> None:
            if not self._closed and self._owned:
                self._engine.dispose()
            self._closed = True

        in_turn(self.dialect.writing(), close)

    def read(self, work: Work[T], *, alone: bool = False) -> T:
        """Run ``work`` on a connection that sees one snapshot of the database, and return its result.

        Args:
            alone: Whether ``work`` runs a single statement, which needs no transaction around it.

        Raises:
            ClosedError: After `close`.
            ForkedError: The database was opened in the parent process.
            StoreError: The database cannot be read.
        """

        until = self._busy_until()

        def begin(connection: Connection, driver: Any) -> None:
            self.dialect.wait_until(driver, until)
            if not alone:
                self.dialect.begin_read(connection)

        def once() -> T:
            return transact(self._engine, begin, work, lambda _: None, owned=self._owned)

        return self._tried(lambda: in_turn(self.dialect.reading(), once, until), "read")

    def write(self, work: Work[T], *, alone: bool = False) -> T:
        """Run ``work`` in a transaction that stores all its writes or none, and return its result.

        Args:
            work: May run several times: when the connection breaks, when the database asks for a retry, or when the
                write of another thread in the same transaction fails. The last run counts. If the connection breaks
                during the commit, an earlier run may be stored already, so ``work`` must check what is left to do.
            alone: Whether ``work`` runs a single statement, which needs no transaction around it.

        Raises:
            ClosedError: After `close`.
            ForkedError: The database was opened in the parent process.
            StoreError: The database cannot be written.
        """
        if self._queue is None:
            return self._transact([work], self._busy_until(), alone=alone)[0]
        try:
            return cast(T, self._queue.write(work, self._busy_until()))
        except QueueBusyError:
            raise self._busy("write") from None

    def _transact(self, works: Sequence[Work[T]], until: float | None, *, alone: bool = False) -> list[T]:
        """Run works in one transaction, waiting for other writers until ``until``."""

        def begin(connection: Connection, driver: Any) -> None:
            self.dialect.wait_until(driver, until)
            if not alone:
                self.dialect.begin_write(connection)

        def work(connection: Connection) -> list[T]:
            return [each(connection) for each in works]

        def once() -> list[T]:
            # Without a write-ahead log, the commit waits for readers once more.
            wait = self.dialect.wait_until
            return transact(self._engine, begin, work, lambda driver: wait(driver, until), owned=self._owned)

        return self._tried(lambda: in_turn(self.dialect.writing(), once, until), "write")

    def _busy_until(self) -> float | None:
        """When a call that begins now stops waiting for others; all calls made while opening share one deadline."""
        seconds = self.dialect.busy_seconds
        if seconds is None:
            return None
        now = time.monotonic()
        return now + seconds if self._patience else max(self._made + seconds, now + min(seconds, 1.0))

    def _busy(self, action: str) -> StoreError:
        return StoreError(
            f"cannot {action} {self.name}: threads of this process used it for {self.dialect.busy_seconds:.0f} s; "
            "nothing was changed: try again, or write less at a time"
        )

    def purge(self, *, whole: bool) -> str | None:
        """Remove the bytes of deleted rows from the database's files; see `Dialect.purge`.

        Raises:
            ClosedError: After `close`.
            ForkedError: The database was opened in the parent process.
            StoreError: The database cannot be reached.
        """
        return self._tried(lambda: self.dialect.purge(self._engine, whole=whole), "purge")

    def repair(self) -> list[str]:
        """Rebuild what is derived from other tables; returns what was rebuilt, in sentences.

        Raises:
            ClosedError: After `close`.
            ForkedError: The database was opened in the parent process.
            StoreError: The database cannot be reached or written.
        """
        return self._tried(lambda: self.dialect.repair(self._engine), "repair")

    def _tried(self, once: Callable[[], T], action: str) -> T:
        check_process(self._process, "store")
        if self._closed:
            raise ClosedError(f"{self.name}: the store was closed; open it again")
        until = time.monotonic() + self._patience
        pause = FIRST_PAUSE
        while True:
            try:
                with nullcontext() if self._file is None else self._file.here():
                    return once()
            except TurnBusyError:
                raise self._busy(action) from None
            except SQLAlchemyError as error:
                passing = isinstance(error, DBAPIError) and self.dialect.passing(error)
                if not passing or time.monotonic() + pause > until:
                    self._raise_damage(error)
                    raise self._store_error(error, action) from self._fit_for_printing(error)
            except Exception as error:
                # Our errors say what is wrong; any other may be caused by a value that somebody edited.
                if not isinstance(error, DeltaMemError) or isinstance(error, DamagedValue):
                    self._raise_damage(error)
                raise
            time.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(2 * pause, LONGEST_PAUSE)

    def _raise_damage(self, error: Exception) -> None:
        """Raise StoreError for a damaged row that may have caused ``error``; return if none is damaged."""
        if isinstance(error, SQLAlchemyError) and not (
            isinstance(error, IntegrityError)
            or (isinstance(error, OperationalError) and "decode" in str(error.orig))
            or not isinstance(error, DBAPIError)
        ):
            return
        try:
            with self.dialect.reading(), self._engine.connect() as connection, connection.begin():
                row = self._damage(connection)
        except (SQLAlchemyError, DeltaMemError):
            return
        if row is not None:
            raise StoreError(f"{self.name}: {row}") from None  # the cause may quote a message

    def _store_error(self, error: SQLAlchemyError, action: str) -> StoreError:
        """An error that names the database, the cause and the remedy, without statement parameters."""
        told = str(error.orig).partition(_DETAIL)[0] if isinstance(error, DBAPIError) else type(error).__name__
        cause = " ".join(told.split())
        if cause.startswith("Could not decode"):
            cause = cause.partition(" with text")[0]  # SQLite's driver quotes it
        remedy = self.dialect.remedy(cause) or "nothing was changed"
        return StoreError(f"cannot {action} {self.name}: {redacted(cause, self.url)}; {remedy}")

    def _fit_for_printing(self, error: SQLAlchemyError) -> SQLAlchemyError | None:
        """The error, or None if its text quotes a message or a secret and so must not be in a traceback."""
        told = str(error)
        return None if _DETAIL in told or redacted(told, self.url) != told else error


def check_place(url: object, engine: object, schema: object) -> None:
    """Check what names a database, without opening it.

    Raises:
        ConfigError: An argument is not valid.
    """
    if url is not None and not isinstance(url, str | URL):
        raise ConfigError(f"url is {shown(url)}; give one like sqlite:///memory.db")
    arguments.instance(engine, "engine", Engine, optional=True)
    if schema is not None:
        arguments.text(schema, "schema")


def open_database(url: str | URL | None, engine: Engine | None, schema: str | None = None) -> Database:
    """Open a `Database` for a URL, or around the caller's engine.

    Raises:
        ConfigError: Both or neither were given, the URL cannot be parsed, or the dialect is not supported.
        ForkedError: The SQLite file was in use in the parent when this process was forked.
        MissingExtraError: The database's driver is not installed.
    """
    if engine is not None:
        if url is not None:
            raise ConfigError("both url and engine were given; give one of them")
        return Database(engine, owned=False, schema=schema)
    if url is None:
        raise ConfigError("neither url nor engine was given; give a url like sqlite:///memory.db")
    return Database(engine_for(url), owned=True, schema=schema)


def looked_at(database: Database, look: Callable[[Database], T]) -> tuple[Database, T]:
    """Call ``look`` with a database, reopening a SQLite file as immutable if it cannot be read otherwise.

    SQLite reads a file with a write-ahead log only if it can create files next to it, or is told that the file does
    not change. If the ``-wal`` file is empty or missing, nobody is writing.

    Returns:
        The database to use from now on, and the result of ``look``.

    Raises:
        StoreError: The database cannot be read; it has been closed.
    """
    try:
        return database, look(database)
    except StoreError as error:
        database.close()
        again = _immutable(database, error)
        try:
            return again, look(again)
        except BaseException:
            again.close()
            raise
    except BaseException:
        database.close()
        raise


def _immutable(database: Database, error: StoreError) -> Database:
    """Open the same file as immutable; raises ``error`` if that would not help."""
    url, file = database.url, file_of(database.url)
    denied = any(part in str(error) for part in ("unable to open", "readonly"))
    if not database._owned or file is None or not denied or not file.is_file() or "immutable" in url.query:
        raise error
    wal = Path(f"{file}-wal")
    if wal.exists() and wal.stat().st_size:
        raise StoreError(
            f"cannot read {database.name}: what was written last is still in {wal}, and SQLite reads that only "
            "where it may write to the folder; let this process write there, or open a copy of both files elsewhere"
        ) from error
    quoted = str(file.absolute()).replace("%", "%25").replace("?", "%3f").replace("#", "%23")
    immutable = url.set(database=f"file:{quoted}", query={"mode": "ro", "immutable": "1", "uri": "true"})
    return Database(sqlite.engine(immutable), owned=True, shown=url)
