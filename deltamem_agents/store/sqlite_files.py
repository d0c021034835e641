"""Which file a SQLite URL names. One that SQLite would take otherwise is refused, a new one is its owner's alone."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path
from urllib.parse import unquote

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from deltamem_agents.errors import ConfigError
from deltamem_agents.store.masking import masked

MODE = 0o600  # of a new database; SQLite gives its -wal and -shm files that of the database


def file_of(url: URL) -> Path | None:
    """The file of a SQLite URL; None for one in memory, and for other databases."""
    name = url.database or ""
    if url.get_backend_name() != "sqlite" or _in_memory(url):
        return None
    return Path(unquote(name.removeprefix("file:")) if name.startswith("file:") else name)


def resolved(url: URL) -> URL:
    """The URL with an absolute path, so that it means the same file wherever the process goes.

    Raises:
        ConfigError: It does not name one file, or not the one that it seems to.
    """
    name, options = url.database or "", url.query
    if any(ord(character) < 32 or ord(character) == 127 for character in name):
        raise ConfigError(f"{masked(url)!r} has a line break or another control character in its path; take it out")
    if name.startswith("file:") and options.get("uri") != "true":
        raise ConfigError(
            f"{masked(url)}: SQLite takes a 'file:' address as one only with uri=true, else as the name of a file; "
            f"add {'&' if options else '?'}uri=true, or give a plain path"
        )
    if options.get("cache") == "shared":
        raise ConfigError(
            f"{masked(url)}: a shared cache locks tables in another way, which is not supported; "
            "leave cache=shared out, or use sqlite:// for a database in the memory of this process"
        )
    if _in_memory(url) or name.startswith("file:/"):
        return url
    if name.startswith("file:"):
        return url.set(database=f"file:{os.path.abspath(name.removeprefix('file:'))}")
    return url.set(database=os.path.abspath(name))


def make_private(url: URL) -> None:
    """Make the file of a URL, empty and readable by its owner alone, if it is not there and SQLite would make it.

    It appears by its whole name at once: whoever else makes it at the same moment finds one or the other. No descriptor
    of the file is ever closed here, with which the locks would go that this process has on it.
    """
    path = file_of(url)
    if path is None or url.query.get("mode", "rwc") != "rwc" or path.exists():
        return
    with suppress(OSError):  # a folder that is not there, or not to be written: SQLite will say so
        descriptor, name = tempfile.mkstemp(prefix=".deltamem-", dir=path.parent)  # which has that mode
        os.close(descriptor)
        try:
            os.link(name, path)
        finally:
            os.unlink(name)


def is_passing(url: str | URL) -> bool:
    """Whether a URL's database is in memory, and gone with the process that opened it. False for what is no URL."""
    try:
        found = make_url(url)
    except ArgumentError:
        return False
    return found.get_backend_name() == "sqlite" and (_in_memory(found) or found.query.get("vfs") == "memdb")


def _in_memory(url: URL) -> bool:
    name = (url.database or "").partition("?")[0]
    return name in ("", ":memory:", "file::memory:") or url.query.get("mode") == "memory"
