"""Groups the writes of waiting threads into one transaction: making ten writes durable takes as long as making one."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

from deltamem_agents.processes import check_process

GATHER_SECONDS = 0.0005  # how long a writer waits for threads that shared its previous transaction

Item = TypeVar("Item")


class QueueBusyError(Exception):
    """The write could not begin before its deadline."""


class _Waiting(Generic[Item]):
    """A thread's item and its result, and a lock that is released to wake the thread."""

    def __init__(self, item: Item, until: float | None) -> None:
        self.item = item
        self.until = until
        self.result: Any = None
        self.error: BaseException | None = None
        self.done = False
        self.taken: list[_Waiting[Item]] = []  # items that this thread is writing
        self.being_written = False
        self.thread = threading.get_ident()
        self.called = threading.Lock()
        self.called.acquire()

    def call(self) -> None:
        """Wake the thread; idempotent."""
        if self.called.locked():
            self.called.release()


class WriteQueue(Generic[Item]):
    """A queue of writing threads; a thread that finds no writer active writes the items of all waiting threads.

    Args:
        transact: Writes items in one transaction, which must begin before a deadline by `time.monotonic` (None for no
            deadline), and returns their results; if it raises, nothing was stored.
    """

    def __init__(self, transact: Callable[[Sequence[Item], float | None], list[Any]]) -> None:
        self._transact = transact
        self._process = os.getpid()
        self._waiting: list[_Waiting[Item]] = []
        self._writer: _Waiting[Item] | None = None  # the entry whose thread is writing, or was woken to write
        self._lock = threading.RLock()
        self._together = 1  # size of the last batch; as many are likely to come again together
        self._gathered = threading.Condition(self._lock)

    def write(self, item: Item, until: float | None = None) -> Any:
        """Write ``item`` and return its result once it is durable; it may be tried several times, the last try counts.

        Args:
            until: Deadline for the write to begin, by `time.monotonic`.

        Raises:
            ForkedError: The queue was created in the parent process, where the writing thread may have stayed.
            QueueBusyError: The write could not begin before the deadline; nothing was stored.
            Exception: Whatever writing the item raised; nothing was stored.
        """
        check_process(self._process, "store")  # before the lock, which another thread may have held at the fork
        writer = self._writer
        if writer is not None and writer.thread == threading.get_ident():  # nested in a write: waiting would deadlock
            return self._transact([item], until)[0]
        mine = _Waiting(item, until)
        try:
            try:
                self._written(mine)
            finally:
                self._await_others(mine)
                self._leave(mine)
        except BaseException:
            self._leave(mine)  # in case the first was interrupted
            raise
        if mine.error is not None:
            raise mine.error
        return mine.result

    def _written(self, mine: _Waiting[Item]) -> None:
        self._lock.acquire()  # `_leave` releases it, wherever this is interrupted
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
        """Wait until another thread has written the item, or until this thread must write for all."""
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
            mine.called.acquire(timeout=0.05)  # another thread is writing the item

    def _write(self, taken: Sequence[_Waiting[Item]]) -> None:
        if len(taken) > 1:
            limits = [each.until for each in taken if each.until is not None]
            try:
                results = self._transact([each.item for each in taken], min(limits, default=None))
            except Exception:
                pass  # each item now gets its own transaction, which shows the one at fault
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
        """Wake the threads whose items were written, and queue the other items again."""
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
        """Wait while another thread writes the item, so that it is not stored after an interrupted `write` returns."""
        if not self._lock._is_owned():  # type: ignore[attr-defined]  # or this thread was interrupted with the lock
            while mine.being_written and not mine.done and not mine.taken:
                mine.called.acquire(timeout=0.05)

    def _leave(self, mine: _Waiting[Item]) -> None:
        """Leave the queue, and wake another thread to write what has arrived meanwhile."""
        self._put_back(mine)
        self._lock.acquire()
        self._waiting = [each for each in self._waiting if each is not mine]
        if self._writer is mine:
            self._writer = next(iter(self._waiting), None)
        if self._writer is not None:
            self._writer.call()  # perhaps a second time, as the first call may have been interrupted
        while self._lock._is_owned():  # type: ignore[attr-defined]
            self._lock.release()
