"""Masks secrets in database URLs and in texts that quote them.

What SQLAlchemy parses as the host may be the rest of a password with an unescaped ``@``, and what it parses as the
database may be libpq's keyword form. So a part is printed only if it looks like what it should be.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import quote, quote_plus

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

HIDDEN = "***"
_KNOWN = re.compile(
    r"(?:sqlite|postgres(?:ql)?|mysql|mariadb|oracle|mssql)"
    r"(?:\+(?:psycopg(?:2|2cffi|_async)?|pg8000|asyncpg|aiosqlite|pysqlite(?:_numeric)?|pysqlcipher|pymysql|mysqldb))?"
    r"(?=:|/|$)"
)
_NAME = re.compile(r"[\w.$\-]*")
_HOST = re.compile(r"[\w.\-]*(,[\w.\-]+)*|[0-9A-Fa-f:.]+(%\w+)?")
_VALUE = re.compile(r"[\w./,:+\-~%\[\]]*")
_IN_A_PATH = re.compile(r"(?i)://|:[^/@]*@|pass\w*\s*=|pwd\s*=|secret\s*=|token\s*=")
_ARGUMENT = re.compile(r"(?is)\S*://.*|\S*:[^\s@]*@\S*|\b\w*(?:pass|pwd|secret|token)\w*\s*=\s*\S+")
# Parameters of libpq, psycopg, SQLite and this package whose values are not secret.
_PUBLIC = frozenset(
    "application_name cache channel_binding check_same_thread client_encoding connect_timeout dbname gssencmode host "
    "hostaddr immutable keepalives keepalives_count keepalives_idle keepalives_interval krbsrvname load_balance_hosts "
    "mode nolock options port prepare_threshold replication require_auth requirepeer service ssl_max_protocol_version "
    "ssl_min_protocol_version sslcompression sslcrl sslmode sslnegotiation sslrootcert sslsni target_session_attrs "
    "tcp_user_timeout timeout uri user vfs".split()
)


def masked(url: URL | str) -> str:
    """A database URL fit for printing, without its password or anything else that may be a secret.

    If the URL cannot be parsed, or its parts do not look as they should, only the scheme is left.

    >>> masked("postgresql://bob:hunter2@db/memories?sslpassword=x9")
    'postgresql://bob:***@db/memories?sslpassword=***'
    >>> masked("host=db user=bob password=hunter2")
    '***'
    """
    try:
        parsed, ordered = make_url(url), not isinstance(url, str)
        if parsed.get_backend_name() == "sqlite":
            return _masked_file(parsed, ordered)
        return _masked_server(parsed, ordered)
    except (ArgumentError, ValueError, TypeError, AttributeError):
        return _scheme(url) if isinstance(url, str) else HIDDEN


def redacted(text: str, url: URL) -> str:
    """A driver's message with the secrets of its URL masked."""
    for secret in sorted(set(_secrets(url)), key=len, reverse=True):
        whole = re.escape(secret) if len(secret) > 3 else rf"(?<!\w){re.escape(secret)}(?!\w)"
        text = re.sub(whole, HIDDEN, text)
    return text


def redacted_arguments(text: str) -> str:
    """A message about command-line arguments with URLs and passwords masked."""
    return _ARGUMENT.sub(HIDDEN, text)


def misplaced(url: URL) -> str | None:
    """Which part of a server's URL cannot be right: "host", "database", or None. Does not quote it."""
    if url.host is not None and not _HOST.fullmatch(url.host):
        return "host"
    if url.database is not None and re.search(r"[@=;?#\s]|://", url.database):
        return "database"
    return None


def _scheme(text: str) -> str:
    found = _KNOWN.match(text)
    return HIDDEN if found is None else f"{found[0]}://{HIDDEN}"


def _masked_file(url: URL, ordered: bool) -> str:
    if url.username or url.password or url.host or url.port:
        return f"{url.drivername}://{HIDDEN}"  # SQLite has none of these
    if _IN_A_PATH.search(url.database or ""):
        return f"{url.drivername}:///{HIDDEN}" + _query(url, ordered)
    return URL.create(url.drivername, database=url.database).render_as_string() + _query(url, ordered)


def _masked_server(url: URL, ordered: bool) -> str:
    host, database, driver = url.host, url.database, url.drivername
    if host is not None and "@" in host and url.password is not None:
        host = host.rpartition("@")[2]  # what stands before it belongs to the password
    if misplaced(url.set(host=host)):
        return f"{driver}://{HIDDEN}"
    text = f"{driver}://"
    if url.username is not None:
        text += url.username if _NAME.fullmatch(url.username) else HIDDEN
        text += f":{HIDDEN}@" if url.password is not None else "@"
    text += f"[{host}]" if host and ":" in host else host or ""
    text += "" if url.port is None else f":{url.port}"
    if database is not None:
        text += f"/{database if _NAME.fullmatch(database) else HIDDEN}"
    return text + _query(url, ordered)


def _query(url: URL, ordered: bool) -> str:
    parameters = sorted(_parameters(url)) if ordered else _parameters(url)
    shown = [f"{_key(key)}={_shown(key, value)}" for key, value in parameters]
    return f"?{'&'.join(shown)}" if shown else ""


def _key(key: str) -> str:
    return key if re.fullmatch(r"[\w.\-]{1,40}", key) else HIDDEN


def _shown(key: str, value: str) -> str:
    return HIDDEN if _is_secret(key, value) else quote_plus(value)


def _is_secret(key: str, value: str) -> bool:
    if len(value) < 2:
        return False  # one character hides nothing
    if key not in _PUBLIC:
        return True
    if key == "port":
        return not re.fullmatch(r"[\d,]+", value)
    if key == "options":  # such as ``-csearch_path=memories``
        return not re.fullmatch(r"(\s*-c\s*(search_path|statement_timeout|lock_timeout)=[\w,.]+)+\s*", value)
    return not _VALUE.fullmatch(value)


def _parameters(url: URL) -> Iterator[tuple[str, str]]:
    for key, values in url.query.items():
        for value in (values,) if isinstance(values, str) else values:
            yield key, value


def _secrets(url: URL) -> Iterator[str]:
    """The secrets of a URL, as they are and as a URL escapes them."""
    parts = [url.password or ""]
    parts += [value for key, value in _parameters(url) if _is_secret(key, value)]
    if url.get_backend_name() != "sqlite":
        if url.host and not _HOST.fullmatch(url.host):
            parts += [url.host, *re.split(r"[@\s]", url.host)]
        parts += [part for part in (url.username, url.database) if part and not _NAME.fullmatch(part)]
    for part in filter(None, map(str, parts)):
        yield part
        yield quote(part, safe="")
        yield quote_plus(part)
