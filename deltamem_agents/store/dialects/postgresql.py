"""PostgreSQL, through psycopg 3. Agents are locked one by one (their row in ``deltamem_agents``); nothing is global."""

from __future__ import annotations

import importlib.util
import re
from contextlib import AbstractContextManager, nullcontext
from zlib import crc32

from sqlalchemy import URL, Connection, Engine, create_engine, text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.schema import CreateSchema

from deltamem_agents.errors import ConfigError, MissingExtraError
from deltamem_agents.store.dialects import rewriting
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
_SCHEMA = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")


class Postgresql:
    """As `Dialect`."""

    writes_tables_at_once = True
    shares_commits = False  # the server does so itself
    outside_reach = (
        "PostgreSQL's write-ahead log, archives and replicas",
        "dumps and backups of the database",
        "the server's log, and statements that extensions such as pg_stat_statements keep",
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

    def created(self, connection: Connection) -> None:
        """As `Dialect.created`."""
        rewriting.keep_no_statistics(connection)

    def purge(self, engine: Engine, *, whole: bool) -> str | None:
        """As `Dialect.purge`: tables are rewritten, large ones only where ``whole``; nobody can use them meanwhile."""
        try:
            with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
                left = rewriting.patiently(connection, "deltamem_vectors", self.vectors.tidy)
                left += rewriting.purge(connection, whole=whole)
                return "; ".join(dict.fromkeys(left)) or None
        except SQLAlchemyError as error:
            told = " ".join(str(error.orig if isinstance(error, DBAPIError) else error).split())
            return redacted(told, engine.url)

    def repair(self, engine: Engine) -> list[str]:
        """As `Dialect.repair`: the index of the records' words."""
        with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
            connection.exec_driver_sql(f"REINDEX INDEX {schema_prefix(connection)}deltamem_records_words")
        return ["the full-text index was made anew from the records"]

    def check(self, connection: Connection) -> list[str]:
        """Nothing that ordinary users may ask; PostgreSQL checks its foreign keys itself."""
        return []


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
