"""SQLite files that are open while the process forks.

SQLite keeps one account of the locks that a process holds on a file. A forked process inherits the account and none of
the locks. A connection that it then opens by itself takes locks for held that are not, and what it commits is lost when
the parent closes the file. So the connections to a file are closed before a fork, as soon as no thread uses them, and
opened again on their next use. Where that cannot be, the new process may not open the file.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path
from types import TracebackType
from weakref import WeakSet

from sqlalchemy import Engine

from deltamem_agents.errors import ForkedError

QUIET_SECONDS = 5.0  # that a fork waits for the threads that use a file

_Identity = tuple[int, int]  # device and inode: what SQLite knows a file by
_uses: WeakSet[FileUse] = WeakSet()
_inherited: dict[_Identity, int] = {}  # files that were in use when this process was forked, and by which process
_lock = threading.Lock()  # held during a fork, by the thread that goes on in the new process
_hooks: list[str] = []  # that are registered: none until a file is used


class FileUse:
    """Who uses an engine on a SQLite file: entered around each use, by any number of threads at once.

    Args:
        owned: Whether the engine is ours, so that its connections may be closed.
    """

    def __init__(self, engine: Engine, path: Path, *, owned: bool) -> None:
        self._engine, self._path, self._owned = engine, path, owned
        self._threads: list[int] = []
        self._forking = False
        self._changed = threading.Condition()

    def __enter__(self) -> None:
        thread = threading.get_ident()
        with self._changed:
            self._changed.wait_for(lambda: not self._forking or thread in self._threads)
            self._threads.append(thread)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._changed:
            self._threads.remove(threading.get_ident())
            if self._forking:
                self._changed.notify_all()

    def close_idle(self) -> None:
        """Wait for the other threads, let nobody begin, and close all connections."""
        mine = threading.get_ident()
        with self._changed:
            self._forking = True
            self._changed.wait_for(lambda: not self._threads or mine in self._threads, QUIET_SECONDS)
            if self._owned and not self._threads:
                self._engine.dispose()

    def go_on(self) -> None:
        """Let the threads that wait begin."""
        with self._changed:
            self._forking = False
            self._changed.notify_all()

    def inherited(self) -> _Identity | None:
        """The file, where a connection to it is still open."""
        pool = self._engine.pool
        idle = getattr(pool, "checkedin", lambda: 0)()
        return identity(self._path) if self._threads or idle else None


def watch(engine: Engine, path: Path, *, owned: bool) -> FileUse:
    """Have an engine's connections closed before each fork.

    Raises:
        ForkedError: The file was in use in the process that this one was forked from, at that moment.
    """
    parent = _inherited.get(identity(path) or (0, 0))
    if parent is not None:
        raise ForkedError(
            f"{path} was in use in process {parent} when process {os.getpid()} was forked from it, and SQLite cannot "
            "tell their locks apart; fork before it is opened, or start the process anew (multiprocessing's 'spawn')"
        )
    use = FileUse(engine, path, owned=owned)
    with _lock:
        if not _hooks:
            _hooks.append("fork")
            os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
        _uses.add(use)
    return use


def identity(path: Path) -> _Identity | None:
    """What SQLite knows a file by; None where there is no file."""
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
    _uses.clear()
    _lock.release()
