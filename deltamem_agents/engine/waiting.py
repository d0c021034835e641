"""Requests that wait for the engine: bounded queues of prompts and of folds, each first come, first served."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from itertools import chain

from deltamem_agents.engine.requests import Fold, Generate, Request, Score
from deltamem_agents.errors import EngineBusyError


class Waiting:
    """Callers add requests from any thread; only the engine's thread removes them.

    Args:
        most: Number of queued requests from which callers have to wait.

    Attributes:
        changed: Notified when a request is added or removed.
        alone: Requests that failed in a batch and must run alone.
    """

    def __init__(self, most: int) -> None:
        self.changed = threading.Condition()
        self.alone: deque[Request] = deque()
        self._most = most
        self._prompts: deque[Generate | Score] = deque()
        self._folds: deque[Fold] = deque()
        self._open: dict[int, Request] = {}  # unanswered requests, queued or running
        self._refusal: Callable[[], Exception] | None = None

    def __len__(self) -> int:
        return len(self._prompts) + len(self._folds) + len(self.alone)

    def put(self, request: Request, *, wait: bool) -> None:
        """Queue a request.

        Args:
            wait: Whether to wait while the queue is full.

        Raises:
            EngineBusyError: The queue is full and ``wait`` is false, or it stayed full until the request's deadline.
            Exception: The error given to `refuse`.
        """
        with self.changed:
            while self._refusal is None and len(self) >= self._most:
                left = None if request.deadline is None else request.deadline - time.monotonic()
                if not wait or (left is not None and left <= 0):
                    raise EngineBusyError(
                        f"{len(self)} requests are waiting, as many as the engine takes; try again later, or "
                        "submit fewer at once"
                    )
                self.changed.wait(left)
            self.check()
            number, still_open = id(request), self._open
            still_open[number] = request
            request.future.add_done_callback(lambda _: still_open.pop(number, None))
            self._queue(request).append(request)
            self.changed.notify_all()

    def put_back(self, requests: Sequence[Request]) -> None:
        """Put requests that have begun at the front, in their order."""
        with self.changed:
            for request in reversed(requests):
                self._queue(request).appendleft(request)

    def prompt(self) -> Generate | Score | None:
        """The first prompt; None if there is none."""
        with self.changed:
            return self._prompts[0] if self._prompts else None

    def fold(self) -> Fold | None:
        """The first fold; None if there is none."""
        with self.changed:
            return self._folds[0] if self._folds else None

    def next_alone(self) -> bool:
        """Move the first request that must run alone to the front of its queue; return whether it is a prompt."""
        request = self.alone.popleft()
        self.put_back([request])
        return not isinstance(request, Fold)

    def pop(self, request: Request) -> None:
        """Remove the first request of a queue."""
        with self.changed:
            self._queue(request).popleft()
            self.changed.notify_all()

    def take_out(self, unfit: Callable[[Request], bool]) -> list[Request]:
        """Remove and return the requests for which ``unfit`` is true."""
        with self.changed:
            found = [each for each in chain(self._prompts, self._folds, self.alone) if unfit(each)]
            for each in found:
                queue = self.alone if each in self.alone else self._queue(each)
                queue.remove(each)
            if found:
                self.changed.notify_all()
        return found

    def check(self) -> None:
        """Raise the error given to `refuse`, if any."""
        refusal = self._refusal
        if refusal is not None:
            raise refusal()

    def refuse(self, refusal: Callable[[], Exception]) -> None:
        """Take no more requests; waiting and new callers get this error. Only the first call counts."""
        with self.changed:
            self._refusal = self._refusal or refusal
            self.changed.notify_all()

    def unanswered(self) -> list[Request]:
        """Empty the queues; return all unanswered requests, waiting or running."""
        with self.changed:
            for queue in (self._prompts, self._folds, self.alone):
                queue.clear()
            return list(self._open.values())

    def _queue(self, request: Request) -> deque[Request]:
        return self._folds if isinstance(request, Fold) else self._prompts  # type: ignore[return-value]
