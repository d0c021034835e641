"""A thread that erases a store's expired items at an interval."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future

from deltamem_agents.errors import ClosedError, DeltaMemError

log = logging.getLogger(__name__)


class Sweeper:
    """Sweeps at an interval until it is stopped or the store is closed. A failed sweep is logged.

    Args:
        sweep: Erases expired items.
        interval: Seconds between two sweeps.
    """

    def __init__(self, sweep: Callable[[], object], interval: float) -> None:
        self.ended: Future[None] = Future()
        self._sweep = sweep
        self._interval = interval
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="deltamem-sweeper", daemon=True)
        self._thread.start()

    @property
    def running(self) -> bool:
        """Whether it is still sweeping."""
        return self._thread.is_alive() and not self._stop.is_set()

    def stop(self, timeout: float | None = None) -> bool:
        """Stop sweeping; returns whether the thread has ended within ``timeout`` seconds."""
        self._stop.set()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _work(self) -> None:
        while not self._stop.wait(self._interval):
            try:
                self._sweep()
            except ClosedError:
                break
            except DeltaMemError as error:
                log.warning("a sweep of expired items failed, the next tries again: %s", error)
        self.ended.set_result(None)
