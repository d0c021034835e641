"""PostgreSQL, through psycopg 3 (see `psycopg3`).

A write locks only its agent's row in ``deltamem_agents``; there is no global lock.
"""

from __future__ import annotations

import re
from zlib import crc32

from sqlalchemy import URL, Connection, Engine, text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.schema import CreateSchema

from deltamem_agents.errors import ConfigError
from deltamem_agents.store.dialects import psycopg3, rewriting
from deltamem_agents.store.dialects.pgvector import Pgvector
from deltamem_agents.store.dialects.tsvector import Tsvector, schema_prefix
from deltamem_agents.store.masking import redacted
from deltamem_agents.store.turns import NoTurn, Turn

PASSING = (  # SQLSTATEs
    "08",  # connection lost
    "25P03",  # ended by the server because this process was idle in a transaction
    "40",  # deadlock, serialisation
    "53300",  # too many connections
    "55P03",  # no lock within the time that the server or the caller has set
    "57P",  # shut down, crashed, starting, database dropped (the next try says so), idle for too long
)
UNPREPARED = ("26000", "42P05")  # a pooler has switched to a server process with other prepared statements
READ_ONLY = "25006"  # after a failover: connected to the former primary
REMEDIES = (  # part of the message, remedy
    ("prepared statement", psycopg3.REMEDY),
    ("codec not available", "create the database with ENCODING 'UTF8', or set client_encoding to UTF8"),
    ("password authentication", "check user and password in the URL"),
    ("no password supplied", "put the password into the URL, or into a .pgpass file"),
    ("does not exist", "create it, or check the URL"),
    ("permission denied", "grant this user the right to use the tables, or to create them in this schema"),
    ("connection refused", "check host and port in the URL, and that the server runs"),
    ("failed to resolve", "check the host in the URL"),
    ("disk full", "free some disk space and try again"),
    ("no space left", "free some disk space and try again"),
    ("read-only transaction", "connect to the primary server, or name all and add ?target_session_attrs=read-write"),
    ("statement timeout", "raise statement_timeout for this user"),
    ("transaction timeout", "raise transaction_timeout for this user"),
)
_SCHEMA = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")


class Postgresql:
    """The `Dialect` of PostgreSQL.

    Raises:
        ConfigError: The engine's driver or pool is not supported.
    """

    writes_tables_at_once = True
    busy_seconds = None
    shares_commits = False  # the server groups commits itself
    outside_reach = (
        "PostgreSQL's write-ahead log, archives and replicas",
        "dumps and backups of the database",
        "the server's log, and statements that extensions such as pg_stat_statements keep",
        "blocks that its file system has freed",
    )

    def __init__(self, engine: Engine) -> None:
        psycopg3.check_engine(engine)
        self.fulltext = Tsvector()
        self.vectors = Pgvector()
        self._engine = engine
        self._reads_committed = True
        self._checked = False

    def check_server(self, engine: Engine) -> None:
        """See `Dialect.check_server`."""
        if not self._checked:
            self._reads_committed = psycopg3.check_server(engine)
            self._checked = True

    def check_schema(self, engine: Engine, schema: str) -> None:
        """See `Dialect.check_schema`; the name must not need quoting."""
        if not _SCHEMA.fullmatch(schema):
            raise ConfigError(f"schema {schema!r} is not a name; give letters, digits and underscores, up to 63")

    def prepare(self, engine: Engine, schema: str | None) -> None:
        """Create the schema, if one is named."""
        if schema is None:
            return
        with engine.begin() as connection:
            known = connection.dialect.has_schema(connection, schema)  # the user may lack the right to create it
        if known:
            return
        try:
            with engine.begin() as connection:
                self.begin_write(connection)
                self.lock(connection, "create")
                connection.execute(CreateSchema(schema, if_not_exists=True))
        except DBAPIError:
            with engine.begin() as connection:  # a client without our lock may have created it first
                if not connection.dialect.has_schema(connection, schema):
                    raise

    def lock(self, connection: Connection, name: str) -> None:
        """See `Dialect.lock`."""
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": crc32(f"deltamem {name}".encode())})

    def reading(self) -> Turn:
        """See `Dialect.reading`."""
        return NoTurn()

    def writing(self) -> Turn:
        """See `Dialect.writing`."""
        return NoTurn()

    def wait_until(self, driver: object, until: float | None) -> None:
        """Do nothing; see `Dialect.wait_until`."""

    def begin_read(self, connection: Connection) -> None:
        """See `Dialect.begin_read`."""
        begin = "BEGIN" if _begins_nothing(connection) else "SET TRANSACTION"
        connection.exec_driver_sql(f"{begin} ISOLATION LEVEL REPEATABLE READ, READ ONLY")

    def begin_write(self, connection: Connection) -> None:
        """See `Dialect.begin_write`; each write locks the agent's row first."""
        if _begins_nothing(connection):
            connection.exec_driver_sql("BEGIN ISOLATION LEVEL READ COMMITTED")
        elif not self._reads_committed:
            connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL READ COMMITTED")

    def passing(self, error: DBAPIError) -> bool:
        """See `Dialect.passing`."""
        state = getattr(error.orig, "sqlstate", None)
        if state is None:  # no connection, or it broke
            return error.connection_invalidated or type(error.orig).__name__ == "OperationalError"
        if state in UNPREPARED:
            return self._stop_preparing()
        if state == READ_ONLY and _names_several(self._engine.url):
            self._engine.dispose()  # the next connections go to the present primary
            return True
        return str(state).startswith(PASSING)

    def _stop_preparing(self) -> bool:
        """Stop preparing statements; False if our engine prepares none, or the engine is the caller's."""
        prepares: psycopg3.Prepares | None = self._engine.get_execution_options().get(psycopg3.OPTION)
        if prepares is None or prepares.threshold is None:
            return False
        prepares.threshold = None
        return True

    def remedy(self, cause: str) -> str | None:
        """See `Dialect.remedy`."""
        return next((remedy for part, remedy in REMEDIES if part in cause.lower()), None)

    def created(self, connection: Connection) -> None:
        """See `Dialect.created`."""
        rewriting.keep_no_statistics(connection)

    def purge(self, engine: Engine, *, whole: bool) -> str | None:
        """Rewrite tables, large ones only if ``whole``; a table cannot be used meanwhile. See `Dialect.purge`."""
        try:
            with engine.connect() as made:
                connection = made.execution_options(isolation_level="AUTOCOMMIT")
                left = rewriting.patiently(connection, "deltamem_vectors", self.vectors.tidy)
                left += rewriting.purge(connection, whole=whole)
                return "; ".join(dict.fromkeys(left)) or None
        except SQLAlchemyError as error:
            told = " ".join(str(error.orig if isinstance(error, DBAPIError) else error).split())
            return redacted(told, engine.url)

    def repair(self, engine: Engine) -> list[str]:
        """Rebuild the full-text index; see `Dialect.repair`."""
        with engine.connect() as made:
            connection = made.execution_options(isolation_level="AUTOCOMMIT")
            connection.exec_driver_sql(f"REINDEX INDEX {schema_prefix(connection)}deltamem_records_words")
        return ["the full-text index was rebuilt from the records"]

    def check(self, connection: Connection) -> list[str]:
        """Find nothing: ordinary users may not run such checks, and PostgreSQL checks its foreign keys itself."""
        return []


def _begins_nothing(connection: Connection) -> bool:
    """Whether the driver leaves beginning transactions to us; with a caller's engine it usually does not."""
    return bool(getattr(connection.connection.dbapi_connection, "autocommit", False))


def _names_several(url: URL) -> bool:
    """Whether a URL names several servers or asks for one with certain attributes, such as being writable."""
    return "target_session_attrs" in url.query or "," in f"{url.host} {url.query.get('host')}"
