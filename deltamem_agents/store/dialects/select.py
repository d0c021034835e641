"""Maps URLs to engines, and engines to dialects."""

from __future__ import annotations

from sqlalchemy import URL, Engine, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

from deltamem_agents.errors import ConfigError, MissingExtraError, kind_of
from deltamem_agents.store.dialects import postgresql, psycopg3, sqlite
from deltamem_agents.store.dialects.protocol import Dialect
from deltamem_agents.store.masking import HIDDEN, masked, redacted

EXAMPLES = "use one like sqlite:///memory.db or postgresql://user@host/database"


def engine_for(url: str | URL) -> Engine:
    """A new engine for a URL.

    Raises:
        ConfigError: The URL cannot be parsed, or its dialect is not supported.
        MissingExtraError: Its driver is not installed.
    """
    try:
        parsed = make_url(url)
        name = parsed.get_backend_name()
        if name == "sqlite":
            return sqlite.engine(parsed)
        if name in ("postgresql", "postgres"):
            return psycopg3.engine(parsed)
    except (ConfigError, MissingExtraError):
        raise
    except ImportError as error:
        told = redacted(str(error), parsed)
        raise ConfigError(f"{masked(parsed)}: {told}; install that driver, or name none; {EXAMPLES}") from None
    except (ArgumentError, NoSuchModuleError, ValueError, TypeError):
        raise ConfigError(f"{_no_url(url)}; {EXAMPLES}") from None
    raise ConfigError(f"{masked(parsed)}: '{name}' is not supported; {EXAMPLES}")


def _no_url(url: object) -> str:
    """Describe what is wrong with a URL; of one that cannot be parsed, shows only the scheme, to keep secrets."""
    if not isinstance(url, str | URL):
        return f"the database URL is {kind_of(url)}"
    shown = masked(url)
    if shown == HIDDEN:
        return "the database URL begins with no known scheme (a file's name needs sqlite:/// before it)"
    return f"{shown!r} is not a supported database URL"


def dialect_of(engine: Engine, *, owned: bool) -> Dialect:
    """The dialect of an engine.

    Raises:
        ConfigError: The dialect or driver is not supported, or threads cannot share the engine.
    """
    name = engine.dialect.name
    if engine.dialect.is_async:
        raise ConfigError(
            f"{masked(engine.url)}: '{name}+{engine.dialect.driver}' is an async driver, which is not supported "
            "(async calls run in our own threads); use the synchronous driver"
        )
    if name == "sqlite":
        return sqlite.Sqlite(engine, owned=owned)
    if name == "postgresql":
        return postgresql.Postgresql(engine)
    raise ConfigError(f"{masked(engine.url)}: '{name}' is not supported; {EXAMPLES}")
