"""Finds the file that a SQLite URL names, refuses ambiguous URLs, and creates files that only their owner can read."""

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


def file_of(url: URL) -> Path | None:
    """The file of a SQLite URL; None for a database in memory or another kind of database."""
    name = url.database or ""
    if url.get_backend_name() != "sqlite" or _in_memory(url):
        return None
    return Path(unquote(name.removeprefix("file:")) if name.startswith("file:") else name)


def resolved(url: URL) -> URL:
    """The URL with an absolute path, so that it names the same file after a change of directory.

    Raises:
        ConfigError: The path has control characters, SQLite would not read it as an address, or the cache is shared.
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
    """Create the file of a URL, empty and readable by its owner only, if it is missing and SQLite would create it.

    The file appears under its name atomically, so concurrent creators end up with the same file. No descriptor of an
    existing database is closed here, since that would drop this process's locks on it.
    """
    path = file_of(url)
    if path is None or url.query.get("mode", "rwc") != "rwc" or path.exists():
        return
    with suppress(OSError):  # a folder that is missing or not writable: SQLite will say so
        descriptor, name = tempfile.mkstemp(
            prefix=".deltamem-", dir=path.parent
        )  # mode 0600; SQLite gives -wal and -shm the same
        os.close(descriptor)
        try:
            os.link(name, path)
        finally:
            os.unlink(name)


def is_passing(url: str | URL) -> bool:
    """Whether a URL's database is in memory and ends with the process. False for a string that is not a URL."""
    try:
        found = make_url(url)
    except ArgumentError:
        return False
    return found.get_backend_name() == "sqlite" and (_in_memory(found) or found.query.get("vfs") == "memdb")


def _in_memory(url: URL) -> bool:
    name = (url.database or "").partition("?")[0]
    return name in ("", ":memory:", "file::memory:") or url.query.get("mode") == "memory"
