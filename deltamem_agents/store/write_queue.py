"""One transaction for all who wait: a disk takes as long to say that one write is durable as to say it of ten."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

from sqlalchemy import Connection

T = TypeVar("T")
Work = Callable[[Connection], T]


class WriteQueue:
    """Threads that write queue up here; whoever finds nobody writing, writes for all that wait by then.

    Args:
        transact: Runs works in one transaction; what each returned, or an error, and then none of them was stored.
    """

    def __init__(self, transact: Callable[[Sequence[Work[Any]]], list[Any]]) -> None:
        self._transact = transact
        self._waiting: list[tuple[Work[Any], Future[Any]]] = []
        self._writer: int | None = None  # the thread that writes now
        self._changed = threading.Condition()

    def write(self, work: Work[T]) -> T:
        """What ``work`` returned, once that is durable; it may have run several times, the last one counts.

        Raises:
            Exception: What ``work`` or the commit raised; nothing of it was stored.
        """
        if self._writer == threading.get_ident():  # from within a write: nobody else could go first
            return self._transact([work])[0]  # type: ignore[no-any-return]  # of works of any kind
        mine: tuple[Work[T], Future[T]] = (work, Future())
        with self._changed:
            self._waiting.append(mine)
            self._changed.wait_for(lambda: self._writer is None or mine[1].done())
            if mine[1].done():
                return mine[1].result()
            taken, self._waiting = self._waiting, []
            self._writer = threading.get_ident()
        try:
            self._write(taken)
        finally:
            with self._changed:
                # Interrupted: what is left is for the others.
                self._waiting[:0] = [each for each in taken if not each[1].done() and each is not mine]
                self._writer = None
                self._changed.notify_all()
        return mine[1].result()

    def _write(self, taken: Sequence[tuple[Work[Any], Future[Any]]]) -> None:
        if len(taken) > 1:
            try:
                results = self._transact([work for work, _ in taken])
            except Exception:
                pass  # whose fault it was will show: now each has a transaction of its own
            else:
                for (_, outcome), result in zip(taken, results, strict=True):
                    outcome.set_result(result)
                return
        for work, outcome in taken:
            try:
                outcome.set_result(self._transact([work])[0])
            except Exception as error:
                outcome.set_exception(error)
