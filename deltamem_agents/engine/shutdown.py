"""Engines that are still open when the process ends: their threads stop before the interpreter goes.

A thread that is inside torch when the interpreter is taken down ends the process by SIGABRT. So daemon threads of the
program that are in one of our calls get a moment to come out of it; with the engine stopped they soon do. Nothing is
registered before the first engine is made, and a forked child stops no engine of its parent's.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
import time
from types import FrameType
from typing import Protocol
from weakref import WeakSet

from deltamem_agents.processes import ProcessLock

EXIT_SECONDS = 30.0  # for the steps under way; longer takes only a callback that blocks
LEAVE_SECONDS = 1.0  # for daemon threads that are in a call of ours
PACKAGES = ("deltamem_agents.", "deltamem_kernels.", "langchain_deltamem.", "llama_index_deltamem.")


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
    if ours:
        _let_threads_out()


def _let_threads_out() -> None:
    """Wait a moment for threads of the program that are in one of our calls."""
    until = time.monotonic() + LEAVE_SECONDS
    waited = False
    while any(map(_is_inside, _other_threads())) and time.monotonic() < until:
        waited = True
        time.sleep(0.001)
    if waited:
        time.sleep(0.02)  # what their frames held is let go after they have left them


def _other_threads() -> list[FrameType]:
    """Where all other threads are, but for our own, which wait for something."""
    passed = {
        threading.get_ident(),
        *(each.ident for each in threading.enumerate() if each.name.startswith("deltamem-")),
    }
    return [frame for thread, frame in sys._current_frames().items() if thread not in passed]


def _is_inside(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_globals.get("__name__", "").startswith(PACKAGES):
            return True
        frame = frame.f_back
    return False
