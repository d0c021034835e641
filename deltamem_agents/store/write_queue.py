"""One transaction for all who wait: a disk takes as long to say that one write is durable as to say it of ten."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

GATHER_SECONDS = 0.0005  # that a writer waits for those who wrote together with it the last time

Item = TypeVar("Item")


class _Waiting(Generic[Item]):
    """What a thread wants written, what came of it, and a lock that is let go when the thread has something to do."""

    def __init__(self, item: Item) -> None:
        self.item = item
        self.outcome: Future[Any] = Future()
        self.thread = threading.get_ident()
        self.called = threading.Lock()
        self.called.acquire()


class WriteQueue(Generic[Item]):
    """Threads that write queue up here; whoever finds nobody writing, writes for all that wait by then.

    Args:
        transact: Writes what is given in one transaction; what came of each, or an error, and then none was stored.
    """

    def __init__(self, transact: Callable[[Sequence[Item]], list[Any]]) -> None:
        self._transact = transact
        self._waiting: list[_Waiting[Item]] = []
        self._writer: int | None = None  # the thread that writes now, or was called to
        self._lock = threading.Lock()
        self._together = 1  # how many were written together last; they are likely to come again together
        self._gathered = threading.Condition(self._lock)

    def write(self, item: Item) -> Any:
        """What came of ``item``, once that is durable; it may have been tried several times, the last one counts.

        Raises:
            Exception: What writing it raised; nothing of it was stored.
        """
        if self._writer == threading.get_ident():  # from within a write: nobody else could go first
            return self._transact([item])[0]
        mine = _Waiting(item)
        with self._lock:
            self._waiting.append(mine)
            first = self._writer is None
            if first:
                self._writer = mine.thread
            elif len(self._waiting) >= self._together:
                self._gathered.notify()
        taken: list[_Waiting[Item]] = []
        try:
            if not first:
                mine.called.acquire()  # until another has written it, or this thread is to write for all
            if not mine.outcome.done():
                with self._lock:
                    self._gathered.wait_for(lambda: len(self._waiting) >= self._together, GATHER_SECONDS)
                    taken, self._waiting = self._waiting, []
                    self._together = len(taken)
                self._write(taken)
        finally:
            self._go_on(mine, taken)
        return mine.outcome.result()

    def _write(self, taken: Sequence[_Waiting[Item]]) -> None:
        if len(taken) > 1:
            try:
                results = self._transact([each.item for each in taken])
            except Exception:
                pass  # whose fault it was will show: now each has a transaction of its own
            else:
                for each, result in zip(taken, results, strict=True):
                    each.outcome.set_result(result)
                return
        for each in taken:
            try:
                each.outcome.set_result(self._transact([each.item])[0])
            except Exception as error:
                each.outcome.set_exception(error)

    def _go_on(self, mine: _Waiting[Item], taken: Sequence[_Waiting[Item]]) -> None:
        """Tell those whose items were written, and call one of the others to write what has come meanwhile."""
        with self._lock:
            # Interrupted: what is left of the others is for them, and nobody waits any more for what is left of mine.
            self._waiting[:0] = [each for each in taken if not each.outcome.done()]
            self._waiting = [each for each in self._waiting if each is not mine]
            following = None
            if self._writer == mine.thread:
                following = next(iter(self._waiting), None)
                self._writer = following.thread if following else None
        for each in taken:
            if each is not mine and each.outcome.done():
                each.called.release()
        if following is not None:
            following.called.release()
