"""Handles SQLite files that are open while the process forks.

SQLite records in memory which locks the process holds on a file. A forked process inherits the record but not the
locks. A connection that it then opens believes in locks that it does not hold, and its commits are lost when the
parent closes the file. So the connections to a file are closed before a fork, as soon as no thread uses them, and
reopened on their next use. If that is not possible, the new process may not open the file.
"""

from __future__ import annotations

import os
import threading
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from weakref import WeakSet

from sqlalchemy import Engine

from deltamem_agents.errors import ForkedError
from deltamem_agents.processes import at_fork

QUIET_SECONDS = 5.0  # how long a fork waits for the threads that use a file

_Identity = tuple[int, int]  # device and inode, by which SQLite identifies a file
_uses: WeakSet[FileUse] = WeakSet()
_inherited: dict[_Identity, int] = {}  # file in use when this process was forked -> id of the parent process
_lock = threading.Lock()  # held during a fork by the thread that continues in the new process


class FileUse:
    """Tracks which threads use an engine on a SQLite file; each thread holds a lock of its own meanwhile.

    `threading.RLock` is written in C, so Ctrl-C cannot come between the lock and the ``with`` that takes or releases
    it. A thread that forks takes the locks of all others.

    Args:
        owned: Whether the engine is ours, so that its connections may be closed.
    """

    def __init__(self, engine: Engine, path: Path, *, owned: bool) -> None:
        self._engine, self._path, self._owned = engine, path, owned
        self._mine = threading.local()
        self._locks: WeakSet[threading.RLock] = WeakSet()  # locks of live threads
        self._began = threading.Lock()  # held while a thread's lock is created, and during a fork
        self._forking = False
        self._taken: list[threading.RLock] = []  # locks that the forking thread has taken
        self._quiet = False  # whether no thread used the file at the fork

    def here(self) -> AbstractContextManager[Any]:
        """The context manager to enter around each use; uses may nest."""
        lock: threading.RLock | None = getattr(self._mine, "lock", None)
        if lock is None:
            lock = threading.RLock()
            with self._began:
                self._mine.lock = lock
                self._locks.add(lock)
        return lock

    def close_idle(self) -> None:
        """Wait for the other threads, block new uses, and close all connections."""
        mine: threading.RLock | None = getattr(self._mine, "lock", None)
        self._began.acquire()
        self._forking, self._quiet = True, False
        others = [each for each in self._locks if each is not mine]
        # This thread's own use does not end while it forks, so there is nothing to wait for.
        used_here = mine is not None and mine._is_owned()  # type: ignore[attr-defined]
        until = time.monotonic() + (0.0 if used_here else QUIET_SECONDS)
        for each in others:
            if each.acquire(timeout=max(until - time.monotonic(), 0.0)):
                self._taken.append(each)
        self._quiet = not used_here and len(self._taken) == len(others)
        if self._owned and self._quiet:
            self._engine.dispose()

    def go_on(self) -> None:
        """Release the threads that wait; an interrupt may have come before `close_idle` took their locks."""
        while self._taken:
            self._taken.pop().release()
        if self._forking:
            self._forking = False
            self._began.release()

    def inherited(self) -> _Identity | None:
        """The file's identity if a connection to it may still be open, else None."""
        pool = self._engine.pool
        idle = getattr(pool, "checkedin", lambda: 0)()
        return None if self._quiet and not idle else identity(self._path)


def watch(engine: Engine, path: Path, *, owned: bool) -> FileUse:
    """Close an engine's connections before each fork from now on.

    Raises:
        ForkedError: The file was in use in the parent when this process was forked.
    """
    parent = _inherited.get(identity(path) or (0, 0))
    if parent is not None:
        raise ForkedError(
            f"{path} was in use in process {parent} when process {os.getpid()} was forked from it, and SQLite cannot "
            "tell their locks apart; fork before it is opened, or start the process with multiprocessing's 'spawn'"
        )
    use = FileUse(engine, path, owned=owned)
    with _lock:
        at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
        _uses.add(use)
    return use


def identity(path: Path) -> _Identity | None:
    """Device and inode of a file; None if there is no file."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _before() -> None:
    _lock.acquire()
    for use in list(_uses):
        use.close_idle()


def _in_parent() -> None:
    for use in list(_uses):
        use.go_on()
    _lock.release()


def _in_child() -> None:
    parent = os.getppid()
    for use in list(_uses):
        found = use.inherited()
        if found is not None:
            _inherited[found] = parent
        use.go_on()
    _uses.clear()
    _lock.release()
