"""Checks where an export may be written: over an existing file only on request, over its own database never."""

from __future__ import annotations

import os
from pathlib import Path

from deltamem_agents.errors import ConfigError

COMPANIONS = ("", "-wal", "-shm", "-journal")  # suffixes of a SQLite database's files


def check_target(target: Path, database: Path | None, *, overwrite: bool) -> None:
    """Refuse a path that must not be written to.

    Args:
        database: The SQLite file, if there is one.

    Raises:
        ConfigError: The path is the database or one of its files, under any name, or it exists and ``overwrite`` is
            false.
    """
    if database is not None:
        real = os.path.realpath(database)
        for own in (f"{name}{end}" for name in {real, os.path.abspath(database)} for end in COMPANIONS):
            if _same(target, own):
                raise ConfigError(f"{str(target)!r} is the database itself, or a file of it; name another file")
    if not overwrite and os.path.lexists(target):
        raise ConfigError(f"{str(target)!r} exists; name another file, or let it be replaced with overwrite=True")


def _same(target: Path, own: str) -> bool:
    try:
        if os.path.samefile(target, own):
            return True
    except OSError:
        pass  # one of them does not exist
    # Compare names too: for a file that does not exist yet, and for file systems that ignore case.
    return os.path.realpath(target).casefold() == os.path.realpath(own).casefold()
