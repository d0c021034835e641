"""PostgreSQL, through psycopg 3. Agents are locked one by one (their row in ``deltamem_agents``); nothing is global."""

from __future__ import annotations

import importlib.util
import re
import time
from contextlib import AbstractContextManager, nullcontext
from zlib import crc32

from sqlalchemy import URL, Connection, Engine, create_engine, text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.schema import CreateSchema

from deltamem_agents.errors import ConfigError, MissingExtraError
from deltamem_agents.store.dialects.pgvector import Pgvector
from deltamem_agents.store.dialects.tsvector import Tsvector, schema_prefix
from deltamem_agents.store.masking import masked, misplaced, redacted

PASSING = ("08", "40", "53300", "57P01", "57P02", "57P03")  # SQLSTATEs: connection lost, deadlock, full, restarting
REMEDIES = (  # part of the message, what to do about it
    ("password authentication", "check user and password in the URL"),
    ("no password supplied", "put the password into the URL, or into a .pgpass file"),
    ("does not exist", "create it, or check the URL"),
    ("permission denied", "grant this user the right to use the tables, or to create them in this schema"),
    ("connection refused", "check host and port in the URL, and that the server runs"),
    ("failed to resolve", "check the host in the URL"),
    ("disk full", "free some disk space and try again"),
    ("no space left", "free some disk space and try again"),
    ("read-only transaction", "connect to the primary server"),
)
PURGE_SECONDS = 2.0  # that a purge waits for readers, before it leaves the rest to a later one
PURGED = ("messages", "records", "embeddings", "revisions", "rollbacks", "agents")
_SCHEMA = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")


class Postgresql:
    """As `Dialect`."""

    writes_tables_at_once = True
    shares_commits = False  # the server does so itself
    outside_reach = (
        "PostgreSQL's write-ahead log, archives and replicas",
        "dumps and backups of the database",
        "blocks that its file system has freed",
    )

    def __init__(self, engine: Engine) -> None:
        self.fulltext = Tsvector()
        self.vectors = Pgvector()

    def check_schema(self, engine: Engine, schema: str) -> None:
        """As `Dialect.check_schema`: its name must do without quoting."""
        if not _SCHEMA.fullmatch(schema):
            raise ConfigError(f"schema {schema!r} is not a name; give letters, digits and underscores, up to 63")

    def prepare(self, engine: Engine, schema: str | None) -> None:
        """Create the schema, where one was named."""
        if schema is None:
            return
        with engine.begin() as connection:
            known = connection.dialect.has_schema(connection, schema)  # may be there without the right to create it
            if not known:
                connection.execute(CreateSchema(schema, if_not_exists=True))

    def lock(self, connection: Connection, name: str) -> None:
        """As `Dialect.lock`."""
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": crc32(f"deltamem {name}".encode())})

    def reading(self) -> AbstractContextManager[object]:
        """As `Dialect.reading`."""
        return nullcontext()

    def writing(self) -> AbstractContextManager[object]:
        """As `Dialect.writing`."""
        return nullcontext()

    def begin_read(self, connection: Connection) -> None:
        """As `Dialect.begin_read`."""
        begin = "BEGIN" if _begins_nothing(connection) else "SET TRANSACTION"
        connection.exec_driver_sql(f"{begin} ISOLATION LEVEL REPEATABLE READ, READ ONLY")

    def begin_write(self, connection: Connection) -> None:
        """As `Dialect.begin_write`: whoever writes locks the agent's row first."""
        if _begins_nothing(connection):
            connection.exec_driver_sql("BEGIN")

    def passing(self, error: DBAPIError) -> bool:
        """As `Dialect.passing`."""
        state = getattr(error.orig, "sqlstate", None)
        if state is None:  # no connection, or it broke
            return error.connection_invalidated or type(error.orig).__name__ == "OperationalError"
        return str(state).startswith(PASSING)

    def remedy(self, cause: str) -> str | None:
        """As `Dialect.remedy`."""
        return next((remedy for part, remedy in REMEDIES if part in cause.lower()), None)

    def purge(self, engine: Engine) -> str | None:
        """Remove dead rows, and pending entries of the full-text index, from the tables' files."""
        try:
            with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
                prefix = schema_prefix(connection)
                waiting = _older_readers(connection)
                self.vectors.tidy(connection)
                for table in (*PURGED, *self.vectors.tables(connection)):
                    connection.exec_driver_sql(f"VACUUM {prefix}deltamem_{table}")
                return f"{waiting} open transactions may still read the deleted rows" if waiting else None
        except SQLAlchemyError as error:
            told = " ".join(str(error.orig if isinstance(error, DBAPIError) else error).split())
            return redacted(told, engine.url)

    def check(self, connection: Connection) -> list[str]:
        """Nothing that ordinary users may ask; PostgreSQL checks its foreign keys itself."""
        return []


def _older_readers(connection: Connection) -> int:
    """Transactions that began before now, after waiting a little for them to end: VACUUM keeps what they may read."""
    now = connection.scalar(text("SELECT pg_current_xact_id()::xid::text"))
    query = text(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        " AND age(backend_xmin) > age(CAST(:now AS xid))"
    )
    until = time.monotonic() + PURGE_SECONDS
    while (older := int(connection.scalar(query, {"now": now}) or 0)) and time.monotonic() < until:
        time.sleep(0.05)
    return older


def engine(url: URL) -> Engine:
    """A new engine with a pool of connections.

    Raises:
        ConfigError: The URL's host or database cannot be one.
        MissingExtraError: psycopg is not installed.
    """
    part = misplaced(url)
    if part is not None:
        raise ConfigError(
            f"{masked(url)}: its {part} cannot be one; in user and password write @ as %40, : as %3A, / as %2F and a "
            "space as %20, and give a URL like postgresql://user@host/database, not keywords"
        )
    plain = url.set(drivername="postgresql+psycopg") if "+" not in url.drivername else url
    if plain.get_driver_name() == "psycopg" and importlib.util.find_spec("psycopg") is None:
        raise MissingExtraError(f"{masked(url)}: psycopg is not installed; pip install 'deltamem-agents[postgres]'")
    # The driver begins no transactions: we do, where one statement alone is not enough. What it costs to ask it to
    # begin another kind, and to go back, is as much as a statement.
    return create_engine(
        plain, isolation_level="AUTOCOMMIT", pool_size=8, max_overflow=24, hide_parameters=True, pool_recycle=1800
    )


def _begins_nothing(connection: Connection) -> bool:
    """Whether the driver leaves it to us to begin transactions; a caller's engine usually does not."""
    return bool(getattr(connection.connection.dbapi_connection, "autocommit", False))
