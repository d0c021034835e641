"""Engines that are still open when the process ends: their threads stop before the interpreter goes.

A thread that is inside torch when the interpreter is taken down ends the process by SIGABRT. Nothing is registered
before the first engine is made, and a forked child stops no engine of its parent's.
"""

from __future__ import annotations

import atexit
import os
import time
from typing import Protocol
from weakref import WeakSet

from deltamem_agents.processes import ProcessLock

EXIT_SECONDS = 30.0  # for the steps under way; longer takes only a callback that blocks


class Stoppable(Protocol):
    """A thread's owner."""

    process: int

    def stop(self) -> None:
        """Ask the thread to end."""

    def join(self, seconds: float | None) -> None:
        """Wait until it has."""


_lock = ProcessLock()
_open: WeakSet[Stoppable] = WeakSet()
_registered: set[int] = set()  # processes; a fork inherits its parent's handler


def stop_at_exit(thread: Stoppable) -> None:
    """Stop a thread when the process ends, if it still runs then."""
    with _lock:
        _open.add(thread)
        if not _registered:
            _registered.add(os.getpid())
            atexit.register(_stop)


def _stop() -> None:
    ours = [each for each in list(_open) if each.process == os.getpid()]
    for each in ours:
        each.stop()
    until = time.monotonic() + EXIT_SECONDS
    for each in ours:
        while True:
            try:
                each.join(max(0.0, until - time.monotonic()))
                break
            except KeyboardInterrupt:  # once more; the step under way is short
                continue
