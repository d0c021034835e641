"""Forked processes: an open object belongs to the process that opened it.

A fork copies the memory of a process but only one of its threads. In the child, threads that run a model or write to a
database are missing, and a lock that one of them held stays locked forever.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from functools import cache

from deltamem_agents.errors import ForkedError


def check_process(opened_in: int, what: str) -> None:
    """Refuse an object that was opened in another process.

    Args:
        opened_in: Id of the process that opened it.
        what: Name of the object in the message.

    Raises:
        ForkedError: The current process is not the one that opened it.
    """
    here = os.getpid()
    if here != opened_in:
        raise ForkedError(
            f"this {what} was opened in process {opened_in}, and process {here} was forked from it; "
            "open one in this process: DeltaMem.open(…) in the worker, after the fork"
        )


@cache
def at_fork(**hooks: Callable[[], None]) -> None:
    """`os.register_at_fork`, once for the same hooks however often it is called."""
    os.register_at_fork(**hooks)


class ProcessLock:
    """A module-level lock; a forked process gets a fresh one, even if the parent's is held."""

    def __init__(self) -> None:
        self._locks: dict[int, threading.Lock] = {}  # by process

    def __enter__(self) -> None:
        self._locks.setdefault(os.getpid(), threading.Lock()).acquire()

    def __exit__(self, *_: object) -> None:
        self._locks[os.getpid()].release()
