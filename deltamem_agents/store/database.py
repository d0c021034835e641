"""Reaching a database: URL to engine, transactions, and SQL's errors turned into ours. Knows no tables.

Writes begin with ``BEGIN IMMEDIATE``: the writer waits for its turn before it reads, so that what it read still holds
when it writes. Reads run in one snapshot.
"""

from __future__ import annotations

import re
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.pool import ConnectionPoolEntry, SingletonThreadPool, StaticPool

from deltamem_agents.errors import ClosedError, ConfigError, StoreError

BUSY_SECONDS = 30.0
REMEDIES = (  # part of SQLite's message, what to do about it
    ("readonly", "give this process write permission to the file and its folder, or open a writable copy"),
    ("unable to open", "check that the folder exists, and that this process may read and write it"),
    ("locked", f"another process held it for more than {BUSY_SECONDS:.0f} s; try again, or end that process"),
    ("not a database", "it is some other kind of file: choose another path"),
    ("malformed", "the file is damaged: restore it from a backup"),
    ("full", "free some disk space and try again"),
    ("fts5", "use a Python whose SQLite has the FTS5 extension"),
)


def masked(url: URL | str) -> str:
    """A database URL fit for printing: without its password, and without secrets among its query parameters."""
    text = url if isinstance(url, str) else url.render_as_string(hide_password=True)
    text = re.sub(r"(://[^:/@\s]*):\S*@", r"\1:***@", text)
    return re.sub(r"(?i)([?&][^=&]*(?:pass|secret|token|key)[^=&]*=)[^&]*", r"\1***", text)


class Database:
    """A SQLite database behind a SQLAlchemy engine.

    Args:
        engine: Ours, or one that the caller owns; the caller's gets no listener and no setting from us.
        owned: Whether `close` disposes of the engine.
    """

    def __init__(self, engine: Engine, *, owned: bool) -> None:
        if engine.dialect.name != "sqlite" or engine.dialect.is_async:
            raise ConfigError(
                f"{masked(engine.url)}: dialect '{engine.dialect.name}+{engine.dialect.driver}' is not supported yet, "
                "PostgreSQL comes in a later version; use a URL like sqlite:///memory.db"
            )
        if isinstance(engine.pool, SingletonThreadPool):
            raise ConfigError(
                f"{masked(engine.url)}: this engine gives every thread a database of its own; "
                "create it with poolclass=StaticPool and connect_args={'check_same_thread': False}"
            )
        self.engine = engine
        self._owned = owned
        self._closed = False
        # Threads of one process queue here, in order, rather than in SQLite's polling busy handler.
        self._writing = threading.RLock()
        # A single connection cannot run two transactions at once.
        self._single: AbstractContextManager[object] = (
            self._writing if isinstance(engine.pool, StaticPool) else nullcontext()
        )

    @property
    def name(self) -> str:
        """The masked URL."""
        return masked(self.engine.url)

    def close(self) -> None:
        """Refuse further use, and close the connections that are ours."""
        with self._writing:
            if not self._closed and self._owned:
                self.engine.dispose()
            self._closed = True

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A connection that sees one snapshot of the database.

        Raises:
            ClosedError: After `close`.
            StoreError: The database cannot be read.
        """
        with self._single, self._errors("read"), self.engine.connect() as connection, connection.begin():
            if not _in_transaction(connection):
                connection.exec_driver_sql("BEGIN")
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A connection that alone may write; everything done with it is stored at the end, or nothing.

        Raises:
            ClosedError: After `close`.
            StoreError: The database cannot be written.
        """
        with self._writing, self._errors("write"), self.engine.connect() as connection, connection.begin():
            if not _in_transaction(connection):
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            elif connection.dialect.has_table(connection, "deltamem_schema"):
                # The caller's engine has begun by itself, deferred: a first write takes the lock.
                connection.exec_driver_sql("UPDATE deltamem_schema SET version = version")
            yield connection

    def use_wal(self) -> None:
        """Let readers and a writer work side by side.

        A database that is read-only, or that another process is switching right now, stays as it is.
        """
        with self._single, self._errors("prepare"):
            connection = self.engine.raw_connection()  # below SQLAlchemy, as the mode cannot change in a transaction
            try:
                connection.cursor().execute("PRAGMA journal_mode=WAL")
            except sqlite3.Error as error:
                if not any(part in str(error) for part in ("readonly", "locked")):
                    raise StoreError(_explained(self.name, str(error), "prepare")) from error
            finally:
                connection.close()

    @contextmanager
    def _errors(self, action: str) -> Iterator[None]:
        if self._closed:
            raise ClosedError(f"{self.name}: the store was closed; open it again")
        try:
            yield
        except SQLAlchemyError as error:
            raise store_error(self.name, error, action) from error


def open_database(url: str | URL | None, engine: Engine | None) -> Database:
    """A `Database` for a URL, or around the caller's engine.

    Raises:
        ConfigError: Both or neither were given, or the dialect is not supported.
        StoreError: The URL cannot be understood.
    """
    if engine is not None:
        if url is not None:
            raise ConfigError("both url and engine were given; give one of them")
        return Database(engine, owned=False)
    if url is None:
        raise ConfigError("neither url nor engine was given; give a url like sqlite:///memory.db")
    try:
        parsed = make_url(url)
        made = _engine(parsed)
    except (ArgumentError, NoSuchModuleError, ValueError, TypeError):
        raise ConfigError(
            f"{masked(str(url))!r} is not a database URL that is supported; use one like sqlite:///memory.db"
        ) from None
    return Database(made, owned=True)


def reopen_immutable(database: Database, error: StoreError) -> Database:
    """Open a database again that lies in a folder we cannot write to.

    SQLite reads a WAL database only where it can create files next to it, unless it is told that nobody writes; without
    a ``-wal`` file nobody does.

    Raises:
        StoreError: ``error``, where that is not what is wrong.
    """
    url = database.engine.url
    path = Path(url.database or "")
    wal = Path(f"{path}-wal")
    denied = any(part in str(error) for part in ("unable to open", "readonly"))
    if not database._owned or not denied or not path.is_file() or wal.exists():
        raise error
    database.close()
    quoted = str(path.absolute()).replace("%", "%25").replace("?", "%3f").replace("#", "%23")
    return Database(
        _engine(url.set(database=f"file:{quoted}", query={"mode": "ro", "immutable": "1", "uri": "true"})), owned=True
    )


def store_error(name: str, error: SQLAlchemyError, action: str) -> StoreError:
    """Our error for one of SQLAlchemy's: which database, why, and what to do. Carries no statement parameters."""
    cause = str(error.orig) if isinstance(error, DBAPIError) else type(error).__name__
    return StoreError(_explained(name, cause, action))


def _explained(name: str, cause: str, action: str) -> str:
    remedy = next((remedy for part, remedy in REMEDIES if part in cause.lower()), "nothing was changed")
    return f"cannot {action} {name}: {cause}; {remedy}"


def _engine(url: URL) -> Engine:
    if url.get_backend_name() != "sqlite":
        raise ConfigError(
            f"{masked(url)}: '{url.get_backend_name()}' is not supported yet, PostgreSQL comes in a later version; "
            "use a URL like sqlite:///memory.db"
        )
    in_memory = url.database in (None, "", ":memory:") or url.query.get("mode") == "memory"
    engine = create_engine(
        url,
        connect_args={"timeout": BUSY_SECONDS, "check_same_thread": False},
        hide_parameters=True,  # an error must not print the text of messages
        **({"poolclass": StaticPool} if in_memory else {}),
    )
    if not engine.dialect.is_async:
        connect: Callable[..., None] = _on_connect
        event.listen(engine, "connect", connect)
    return engine


def _on_connect(connection: object, _entry: ConnectionPoolEntry) -> None:
    cursor = connection.cursor()  # type: ignore[attr-defined]  # DB-API connections share no type
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def _in_transaction(connection: Connection) -> bool:
    return bool(getattr(connection.connection.dbapi_connection, "in_transaction", False))
