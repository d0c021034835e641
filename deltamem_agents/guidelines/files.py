"""Read files of a repository without leaving it.

A path is resolved first, and the resolved path is opened component by component without following links. So a link that
is swapped in between listing and opening cannot lead out of the repository.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

LARGEST = 1 << 20  # bytes of a file that is read
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # a pipe must not block


class UnreadableError(Exception):
    """A file is not read; the message says why, without its name."""


@dataclass(frozen=True, slots=True)
class Stamp:
    """Tells a changed file from an unchanged one without reading it: size, and times of change in nanoseconds."""

    size: int
    modified: int
    changed: int
    inode: int

    def as_list(self) -> list[int]:
        """The fields in order."""
        return [self.size, self.modified, self.changed, self.inode]


def stamp(path: Path) -> Stamp | None:
    """The stamp of the file that a path leads to; None if there is none."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    return Stamp(found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)


def resolved(root: Path, path: str) -> str:
    """Where a path leads, relative to the repository's root.

    Raises:
        UnreadableError: It leads out of the repository, into its ``.git``, or nowhere.
    """
    try:
        real = os.path.realpath(root / path, strict=True)
    except (OSError, ValueError) as error:
        raise UnreadableError("the link leads nowhere or in a circle") from error
    inside = os.path.relpath(real, os.path.realpath(root))
    if inside == os.pardir or inside.startswith(os.pardir + os.sep):
        raise UnreadableError("it leads out of the repository")
    if ".git" in Path(inside).parts:
        raise UnreadableError("it leads into the repository's .git")
    return inside.replace(os.sep, "/")


def read_bytes(root: Path, path: str, limit: int = LARGEST) -> bytes:
    """The content of a file of the repository.

    Raises:
        UnreadableError: The file is outside the repository, too large, not a regular file, or cannot be read.
    """
    folder = -1
    try:
        *folders, name = resolved(root, path).split("/")
        folder = os.open(os.path.realpath(root), _FOLDER)
        for each in folders:
            inner = os.open(each, _FOLDER, dir_fd=folder)
            os.close(folder)
            folder = inner
        with open(os.open(name, _FILE, dir_fd=folder), "rb") as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise UnreadableError("it is not a regular file")
            if found.st_size > limit:
                raise UnreadableError(f"it has {found.st_size} bytes, the limit is {limit}")
            data = file.read(limit + 1)
    except OSError as error:
        raise UnreadableError(error.strerror or str(error)) from error
    finally:
        if folder >= 0:
            os.close(folder)
    if len(data) > limit:
        raise UnreadableError(f"it has more than {limit} bytes, the limit")
    return data


def decoded(data: bytes) -> str:
    """A file's text, with lines that end in a line feed.

    Raises:
        UnreadableError: It is not UTF-8 text.
    """
    if b"\0" in data[:8192]:
        raise UnreadableError("it is a binary file")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UnreadableError(f"line {line} is not UTF-8 text") from error
    return text.replace("\r\n", "\n").replace("\r", "\n").replace("\0", "")
