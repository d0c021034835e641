"""Writes files that appear complete or not at all; a process that is killed leaves nothing behind.

`check_target` refuses to write over an existing file unless asked, and over the database of the export itself always.
"""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from deltamem_agents.errors import ConfigError

COMPANIONS = ("", "-wal", "-shm", "-journal")  # suffixes of a SQLite database's files


@contextmanager
def whole_file(target: Path) -> Iterator[IO[bytes]]:
    """A file to write that replaces ``target`` when the block ends, and disappears if the block fails.

    The file has no name until it is complete, and only its owner can read it. On a file system without unnamed files,
    the complete file is copied under a name that begins with a dot and then renamed.

    Raises:
        OSError: The folder cannot be written.
    """
    folder = target.parent
    passing = folder / f".{target.name[:80]}.{secrets.token_hex(4)}.partial"
    try:
        handle = os.open(folder, getattr(os, "O_TMPFILE", 0) | os.O_RDWR | getattr(os, "O_CLOEXEC", 0), 0o600)
    except OSError:
        handle = -1  # no unnamed files here, or no such folder, for which the other way gives a better error
    nameless = handle >= 0
    with os.fdopen(handle, "w+b") if nameless else tempfile.TemporaryFile(dir=folder) as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
        try:
            if not (nameless and _link(file.fileno(), passing, target)):
                _copy(file, passing)
            if passing.exists():
                os.replace(passing, target)
        finally:
            with suppress(FileNotFoundError):
                os.unlink(passing)


def _link(handle: int, passing: Path, target: Path) -> bool:
    """Give an unnamed file its name, or a temporary one if that is taken; False if it cannot be linked."""
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        for name in (target.name, passing.name):
            with suppress(FileExistsError):
                # With dst_dir_fd Python calls linkat, which follows the symbolic link to the file itself.
                os.link(f"/proc/self/fd/{handle}", name, dst_dir_fd=folder, follow_symlinks=True)
                return True
    except OSError:
        pass  # no /proc, or no links here
    finally:
        os.close(folder)
    return False


def _copy(file: IO[bytes], passing: Path) -> None:
    file.seek(0)
    with os.fdopen(os.open(passing, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as copy:
        shutil.copyfileobj(file, copy, 1 << 20)
        copy.flush()
        os.fsync(copy.fileno())


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
        raise ConfigError(f"{str(target)!r} exists; name another file, or replace it with overwrite=True")


def _same(target: Path, own: str) -> bool:
    try:
        if os.path.samefile(target, own):
            return True
    except OSError:
        pass  # one of them does not exist
    # Compare names too: for a file that does not exist yet, and for file systems that ignore case.
    return os.path.realpath(target).casefold() == os.path.realpath(own).casefold()
