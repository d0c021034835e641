"""Stops the threads of engines that are still open when the process ends, before the interpreter shuts down.

A thread inside torch during interpreter shutdown aborts the process with SIGABRT. So daemon threads of the program that
are in a call of this package get a moment to return, which they soon do once the engine has stopped. Nothing is
registered before the first engine is made, and a forked child does not stop its parent's engines.
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

EXIT_SECONDS = 30.0  # for the current steps; only a blocking callback takes longer
LEAVE_SECONDS = 1.0  # for daemon threads in a call of this package
PACKAGES = ("deltamem_agents.", "deltamem_kernels.", "langchain_deltamem.", "llama_index_deltamem.")

_lock = ProcessLock()
_open: WeakSet[Stoppable] = WeakSet()
_registered: set[int] = set()  # ids of processes; a fork inherits its parent's handler


class Stoppable(Protocol):
    """The owner of a thread."""

    process: int

    def stop(self) -> None:
        """Ask the thread to end."""

    def join(self, seconds: float | None) -> None:
        """Wait until the thread has ended."""


def stop_at_exit(thread: Stoppable) -> None:
    """Stop a thread at process exit if it still runs."""
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
            except KeyboardInterrupt:  # keep waiting; the current step is short
                continue
    if ours:
        _let_threads_out()


def _let_threads_out() -> None:
    """Wait a moment for threads of the program that are in a call of this package."""
    until = time.monotonic() + LEAVE_SECONDS
    waited = False
    while any(map(_is_inside, _other_threads())) and time.monotonic() < until:
        waited = True
        time.sleep(0.001)
    if waited:
        time.sleep(0.02)  # objects that their frames held are freed only after the frames have returned


def _other_threads() -> list[FrameType]:
    """Current frames of all other threads except the engine's own."""
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
