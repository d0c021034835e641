"""One transaction for all who wait: a disk takes as long to say that one write is durable as to say it of ten."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

from deltamem_agents.processes import check_process

GATHER_SECONDS = 0.0005  # that a writer waits for those who wrote together with it the last time

Item = TypeVar("Item")


class QueueBusyError(Exception):
    """What is to be written could not be begun in time."""


class _Waiting(Generic[Item]):
    """What a thread wants written, what came of it, and a lock that is let go when the thread has something to do."""

    def __init__(self, item: Item, until: float | None) -> None:
        self.item = item
        self.until = until
        self.result: Any = None
        self.error: BaseException | None = None
        self.done = False
        self.taken: list[_Waiting[Item]] = []  # what its thread writes
        self.being_written = False
        self.thread = threading.get_ident()
        self.called = threading.Lock()
        self.called.acquire()

    def call(self) -> None:
        """Wake its thread; more than once does nothing."""
        if self.called.locked():
            self.called.release()


class WriteQueue(Generic[Item]):
    """Threads that write queue up here; whoever finds nobody writing, writes for all that wait by then.

    Args:
        transact: Writes what is given in one transaction, begun before a time of `time.monotonic` (None: at any); what
            came of each, or an error, and then none was stored.
    """

    def __init__(self, transact: Callable[[Sequence[Item], float | None], list[Any]]) -> None:
        self._transact = transact
        self._process = os.getpid()
        self._waiting: list[_Waiting[Item]] = []
        self._writer: _Waiting[Item] | None = None  # whose thread writes now, or was called to
        self._lock = threading.RLock()
        self._together = 1  # how many were written together last; they are likely to come again together
        self._gathered = threading.Condition(self._lock)

    def write(self, item: Item, until: float | None = None) -> Any:
        """What came of ``item``, once that is durable; it may have been tried several times, the last one counts.

        Args:
            until: By `time.monotonic`, when it is to be begun at the latest.

        Raises:
            ForkedError: The queue was made in another process, where the thread that writes may have stayed.
            QueueBusyError: Its turn did not come in time; nothing of it was stored.
            Exception: What writing it raised; nothing of it was stored.
        """
        check_process(self._process, "store")  # before its lock, which another thread held at the fork
        writer = self._writer
        if writer is not None and writer.thread == threading.get_ident():  # from within a write: nobody else could go
            return self._transact([item], until)[0]
        mine = _Waiting(item, until)
        try:
            try:
                self._written(mine)
            finally:
                self._await_others(mine)
                self._leave(mine)
        except BaseException:
            self._leave(mine)  # the first was interrupted
            raise
        if mine.error is not None:
            raise mine.error
        return mine.result

    def _written(self, mine: _Waiting[Item]) -> None:
        self._lock.acquire()  # `_leave` lets it go, wherever this is interrupted
        self._waiting.append(mine)
        first = self._writer is None
        if first:
            self._writer = mine
        elif len(self._waiting) >= self._together:
            self._gathered.notify()
        self._lock.release()
        while not mine.done:
            if self._writer is not mine:
                self._wait(mine)
                continue
            self._lock.acquire()
            self._gathered.wait_for(lambda: len(self._waiting) >= self._together, GATHER_SECONDS)
            mine.taken = self._waiting
            self._waiting = []
            self._together = max(len(mine.taken), 1)
            for each in mine.taken:
                each.being_written = True
            self._lock.release()
            self._write(mine.taken)
            self._put_back(mine)

    def _wait(self, mine: _Waiting[Item]) -> None:
        """Until another thread has written it, or this one is to write for all."""
        if mine.until is None:
            mine.called.acquire()
            return
        if mine.called.acquire(timeout=max(mine.until - time.monotonic(), 0.0)):
            return
        self._lock.acquire()
        late = not mine.done and not mine.being_written and self._writer is not mine
        self._lock.release()
        if late:
            raise QueueBusyError
        if not mine.done and self._writer is not mine:
            mine.called.acquire(timeout=0.05)  # it is being written

    def _write(self, taken: Sequence[_Waiting[Item]]) -> None:
        if len(taken) > 1:
            limits = [each.until for each in taken if each.until is not None]
            try:
                results = self._transact([each.item for each in taken], min(limits, default=None))
            except Exception:
                pass  # whose fault it was will show: now each has a transaction of its own
            else:
                for each, result in zip(taken, results, strict=True):
                    each.result = result
                    each.done = True
                return
        for each in taken:
            try:
                each.result = self._transact([each.item], each.until)[0]
            except Exception as error:
                each.error = error
            each.done = True

    def _put_back(self, mine: _Waiting[Item]) -> None:
        """Tell those whose items were written; what is left of the others waits again."""
        if not self._lock._is_owned():  # type: ignore[attr-defined]  # as threading.Condition does
            self._lock.acquire()
        there = set(map(id, self._waiting))
        left = [each for each in mine.taken if not each.done and id(each) not in there]
        for each in mine.taken:
            each.being_written = False
        self._waiting = left + self._waiting
        for each in mine.taken:
            if each is not mine and each.done:
                each.call()
        mine.taken = []
        self._lock.release()

    def _await_others(self, mine: _Waiting[Item]) -> None:
        """Where another thread is writing it: until that is over, so that an interrupted write does not come later."""
        if not self._lock._is_owned():  # type: ignore[attr-defined]  # or this thread was interrupted with the lock
            while mine.being_written and not mine.done and not mine.taken:
                mine.called.acquire(timeout=0.05)

    def _leave(self, mine: _Waiting[Item]) -> None:
        """Have nothing more to do with the queue, and call one of the others to write what has come meanwhile."""
        self._put_back(mine)
        self._lock.acquire()
        self._waiting = [each for each in self._waiting if each is not mine]
        if self._writer is mine:
            self._writer = next(iter(self._waiting), None)
        if self._writer is not None:
            self._writer.call()  # for the second time, perhaps: the first may have been interrupted
        while self._lock._is_owned():  # type: ignore[attr-defined]
            self._lock.release()
