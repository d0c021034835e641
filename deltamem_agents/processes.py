"""Processes that were forked: what is open belongs to the process that opened it.

A fork copies the memory of a process but only one of its threads. Threads that run a model or write to a database are
missing in the child, and a lock that one of them held stays locked there for ever.
"""

from __future__ import annotations

import os
import threading

from deltamem_agents.errors import ForkedError


def check_process(opened_in: int, what: str) -> None:
    """Refuse what was opened in another process.

    Args:
        opened_in: The id of the process that opened it.
        what: Its name in the message.

    Raises:
        ForkedError: This process is another one.
    """
    here = os.getpid()
    if here != opened_in:
        raise ForkedError(
            f"this {what} was opened in process {opened_in}, and process {here} was forked from it; "
            "open one in this process: DeltaMem.open(…) in the worker, after the fork"
        )


class ProcessLock:
    """A lock for a module: a forked process gets its own, whoever held it in the parent."""

    def __init__(self) -> None:
        self._locks: dict[int, threading.Lock] = {}  # by process

    def __enter__(self) -> None:
        self._locks.setdefault(os.getpid(), threading.Lock()).acquire()

    def __exit__(self, *_: object) -> None:
        self._locks[os.getpid()].release()
