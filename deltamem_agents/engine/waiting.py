"""Requests that wait for the engine: a bounded queue of prompts and one of folds, each first come, first served."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from itertools import chain

from deltamem_agents.engine.requests import Fold, Generate, Request, Score
from deltamem_agents.errors import EngineBusyError


class Waiting:
    """Callers put requests in from any thread; only the engine's thread takes them out.

    Args:
        most: Requests that may wait before callers have to.

    Attributes:
        changed: Notified when a request comes or goes.
        alone: Requests that failed in company and are to run by themselves.
    """

    def __init__(self, most: int) -> None:
        self.changed = threading.Condition()
        self.alone: deque[Request] = deque()
        self._most = most
        self._prompts: deque[Generate | Score] = deque()
        self._folds: deque[Fold] = deque()
        self._open: dict[int, Request] = {}  # not answered yet, wherever they are
        self._refusal: Callable[[], Exception] | None = None

    def __len__(self) -> int:
        return len(self._prompts) + len(self._folds) + len(self.alone)

    def put(self, request: Request, *, wait: bool) -> None:
        """Queue a request.

        Args:
            wait: Whether to wait while the queue is full.

        Raises:
            EngineBusyError: The queue is full, and not to be waited for, or was until the request's deadline.
            Exception: What `refuse` was given.
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
        """Put requests that have begun before all others, in their order."""
        with self.changed:
            for request in reversed(requests):
                self._queue(request).appendleft(request)

    def prompt(self) -> Generate | Score | None:
        """The first prompt; None where there is none."""
        with self.changed:
            return self._prompts[0] if self._prompts else None

    def fold(self) -> Fold | None:
        """The first fold; None where there is none."""
        with self.changed:
            return self._folds[0] if self._folds else None

    def next_alone(self) -> bool:
        """Put the first of those that are to run by themselves before all others; whether it is a prompt."""
        request = self.alone.popleft()
        self.put_back([request])
        return not isinstance(request, Fold)

    def pop(self, request: Request) -> None:
        """Take out the first request of a queue."""
        with self.changed:
            self._queue(request).popleft()
            self.changed.notify_all()

    def take_out(self, unfit: Callable[[Request], bool]) -> list[Request]:
        """Take out those of which something holds."""
        with self.changed:
            found = [each for each in chain(self._prompts, self._folds, self.alone) if unfit(each)]
            for each in found:
                queue = self.alone if each in self.alone else self._queue(each)
                queue.remove(each)
            if found:
                self.changed.notify_all()
        return found

    def check(self) -> None:
        """Raise what `refuse` was given, if it was called."""
        refusal = self._refusal
        if refusal is not None:
            raise refusal()

    def refuse(self, refusal: Callable[[], Exception]) -> None:
        """Take no more requests; callers that wait or come get this error. The first call counts."""
        with self.changed:
            self._refusal = self._refusal or refusal
            self.changed.notify_all()

    def unanswered(self) -> list[Request]:
        """Take out all requests that were queued here and never answered, waiting or running."""
        with self.changed:
            for queue in (self._prompts, self._folds, self.alone):
                queue.clear()
            return list(self._open.values())

    def _queue(self, request: Request) -> deque[Request]:
        return self._folds if isinstance(request, Fold) else self._prompts  # type: ignore[return-value]
