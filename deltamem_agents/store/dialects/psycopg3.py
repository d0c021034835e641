"""Connects to PostgreSQL: checks drivers, pools, servers and poolers, and configures our own engines."""

from __future__ import annotations

import importlib.util
import os
import random
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from weakref import WeakSet

from sqlalchemy import URL, Engine, NullPool, QueuePool, create_engine, event

from deltamem_agents.errors import ConfigError, MissingExtraError, kind_of
from deltamem_agents.processes import at_fork
from deltamem_agents.store.masking import masked, misplaced

DRIVER = "psycopg"
OLDEST = 13
LOOKS = 4  # checks whether another server process answers on the same connection
THRESHOLD = 5  # executions after which psycopg prepares a statement by default
OPTION = "deltamem_prepares"  # execution option of our engines that holds their `Prepares`
NOT_IN_A_URL = ("autocommit", "conninfo", "context", "cursor_factory", "row_factory")  # options of `psycopg.connect`
REMEDY = "behind a transaction pooler add ?prepare_threshold=none to the URL, or to your engine's connect_args"

_connections: WeakSet[Any] = WeakSet()  # connections of our engines


@dataclass(slots=True)
class Prepares:
    """The number of executions after which an engine's connections prepare a statement; None for never."""

    threshold: int | None


def engine(url: URL) -> Engine:
    """A new engine with a pool of connections.

    Raises:
        ConfigError: The URL's host or database cannot be right, its driver is not psycopg, or an option is not valid.
        MissingExtraError: psycopg is not installed.
    """
    part = misplaced(url)
    if part is not None:
        raise ConfigError(
            f"{masked(url)}: its {part} is not valid; in user and password write @ as %40, : as %3A, / as %2F and a "
            "space as %20, and give a URL like postgresql://user@host/database, not keywords"
        )
    for name in NOT_IN_A_URL:
        if name in url.query:
            raise ConfigError(f"{masked(url)}: {name} is a Python option, which a URL cannot carry; leave it out")
    driver = url.drivername.partition("+")[2] or DRIVER
    if driver != DRIVER:
        raise ConfigError(refused(masked(url), masked(url).partition("://")[0]))
    if importlib.util.find_spec(DRIVER) is None:
        raise MissingExtraError(f"{masked(url)}: psycopg is not installed; pip install 'deltamem-agents[postgres]'")
    prepares = Prepares(_threshold(url))
    plain = url.set(drivername=f"postgresql+{DRIVER}").difference_update_query(["prepare_threshold"])
    encoding = {} if "client_encoding" in url.query else {"client_encoding": "utf8"}
    # We begin transactions ourselves, if one statement is not enough. Having the driver begin another kind of
    # transaction and switch back would cost as much as a statement.
    made = create_engine(
        plain,
        connect_args=encoding,
        isolation_level="AUTOCOMMIT",
        pool_size=8,
        max_overflow=24,
        hide_parameters=True,
        pool_recycle=1800,
        execution_options={OPTION: prepares},
    )

    def connected(connection: Any, _entry: object) -> None:
        # psycopg names prepared statements by a counter. Behind a transaction pooler that we did not detect, the same
        # name could be another client's statement, so each connection counts from a random number.
        _connections.add(connection)
        manager = getattr(connection, "_prepared", None)
        if hasattr(manager, "_prepared_idx"):
            manager._prepared_idx = random.getrandbits(62)  # type: ignore[union-attr]
        else:
            prepares.threshold = None

    def taken(connection: Any, _entry: object, _proxy: object) -> None:
        connection.prepare_threshold = prepares.threshold

    at_fork(after_in_child=_let_go)
    event.listen(made, "connect", connected)
    event.listen(made, "checkout", taken)
    return made


def _let_go() -> None:
    """In a forked process, replace the parent's sockets, which it cannot use, by the null device.

    The server ends the parent's transactions only when the last copy of the socket is closed.
    """
    nothing = os.open(os.devnull, os.O_RDWR)
    for connection in list(_connections):
        with suppress(Exception):  # the connection may be closed
            os.dup2(nothing, connection.fileno(), inheritable=False)
    os.close(nothing)
    _connections.clear()


def refused(name: str, driver: str) -> str:
    """The error for a driver that is not supported."""
    return (
        f"{name}: the driver '{driver}' is not supported, as it is untested; "
        "use psycopg 3, as in postgresql://user@host/database (pip install 'deltamem-agents[postgres]')"
    )


def check_engine(engine: Engine) -> None:
    """Check that an engine's driver and pool are supported.

    Raises:
        ConfigError: They are not.
    """
    name, driver = engine.dialect.name, engine.dialect.driver
    if driver != DRIVER:
        raise ConfigError(refused(masked(engine.url), f"{name}+{driver}"))
    if not isinstance(engine.pool, QueuePool | NullPool):
        raise ConfigError(
            f"{masked(engine.url)}: an engine with {kind_of(engine.pool)} is not supported, as threads would "
            "share a connection and its transaction; create it with QueuePool (the default) or NullPool"
        )


def check_server(engine: Engine) -> bool:
    """Check the server that an engine connects to; returns whether transactions are READ COMMITTED by default.

    Behind a transaction pooler, our own engines stop preparing statements.

    Raises:
        ConfigError: The database's encoding, the server's version or the pooler is not supported.
        SQLAlchemyError: The server cannot be reached.
    """
    name = masked(engine.url)
    try:
        connection = engine.connect()
    except TypeError:  # with SQL_ASCII, psycopg returns the server's version to SQLAlchemy as bytes
        raise ConfigError(_encoding(name, "SQL_ASCII", "encoding")) from None
    with connection:
        driver: Any = connection.connection.driver_connection
        threshold, driver.prepare_threshold = driver.prepare_threshold, None
        encoding = str(connection.exec_driver_sql("SHOW server_encoding").scalar())
        if encoding != "UTF8":
            raise ConfigError(_encoding(name, encoding, "encoding"))
        client = str(connection.exec_driver_sql("SHOW client_encoding").scalar())
        if client != "UTF8":
            raise ConfigError(_encoding(name, client, "client_encoding"))
        version = int(connection.exec_driver_sql("SHOW server_version_num").scalar() or 0) // 10_000
        if version < OLDEST:
            raise ConfigError(f"{name}: PostgreSQL {version} is not supported; use {OLDEST} or newer")
        level = str(connection.exec_driver_sql("SHOW transaction_isolation").scalar())
        connection.rollback()
        if threshold is not None and _is_pooled(connection, driver.info.backend_pid):
            prepares: Prepares | None = engine.get_execution_options().get(OPTION)
            if prepares is None:
                raise ConfigError(
                    f"{name}: this engine prepares statements and reaches PostgreSQL through a transaction pooler, "
                    "where that mixes up clients; create it with connect_args={'prepare_threshold': None}"
                )
            prepares.threshold = None
        else:
            driver.prepare_threshold = threshold
    return level == "read committed"


def _is_pooled(connection: Any, process: int) -> bool:
    """Whether a server process answers other than the one that the connection was made to."""
    for _ in range(LOOKS):
        found = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar()
        connection.rollback()
        if found != process:
            return True
    return False


def _encoding(name: str, encoding: str, what: str) -> str:
    remedy = (
        "create the database with ENCODING 'UTF8' (and TEMPLATE template0)"
        if what == "encoding"
        else "leave client_encoding and PGCLIENTENCODING out, or set them to UTF8"
    )
    return f"{name}: its {what} is {encoding}, which cannot hold every character; {remedy}"


def _threshold(url: URL) -> int | None:
    """The URL's ``prepare_threshold``, as psycopg expects it; "none" and "off" mean None."""
    given = url.query.get("prepare_threshold", str(THRESHOLD))
    if isinstance(given, str) and given.lower() in ("none", "off"):
        return None
    if isinstance(given, str) and given.isdecimal() and len(given) < 9:
        return int(given)
    raise ConfigError(f"{masked(url)}: prepare_threshold is {given!r}; give a number, or none to prepare no statements")
