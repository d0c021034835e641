"""The engine's thread: takes requests from a bounded queue, forms batches by token budget, and runs one step at a time.

Each turn runs, as far as there is any: one token of every row that is being generated, and one chunk of a batch of
prompts or of a batch of folds. A chunk is short, so nobody waits long for anybody. Prompts come before folds, but folds
are not starved. Folds of one agent keep their order, because each needs the state the one before left.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from deltamem_agents.core import Attached
from deltamem_agents.engine.batches import Batch, Folds, Prompts, Scores, all_hot, end
from deltamem_agents.engine.decoding import Active, Decoding
from deltamem_agents.engine.hot import HotSegments
from deltamem_agents.engine.pace import Pace
from deltamem_agents.engine.pool import StatePool
from deltamem_agents.engine.requests import Fold, Generate, Request, Score
from deltamem_agents.engine.statistics import Counters
from deltamem_agents.errors import ClosedError, EngineBusyError, EngineMemoryError, EngineTimeoutError

PATIENCE = 4  # chunks of prompts that run before a waiting fold gets one
PROMPT_CHUNKS = 4  # a prompt is somebody's wait, a fold mostly nobody's


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much runs at once.

    Args:
        chunk: The least tokens of one chunk of a fold, all rows together; more on a fast device, see `Pace`. Of prompts
            `PROMPT_CHUNKS` times as many.
        batch: Tokens of one batch of prompts or folds, with padding.
        rows: Rows that are generated together.
        waiting: Requests in the queue.
        slots: States on the device.
    """

    chunk: int
    batch: int
    rows: int = 64
    waiting: int = 4096
    slots: int = 256


class Scheduler:
    """One thread that runs the model. Requests of any kind go in, their futures are answered.

    Args:
        ends: Gives the token ids that end an answer.
    """

    def __init__(
        self,
        attached: Attached,
        tokenizer: PreTrainedTokenizerBase,
        ends: Callable[[], set[int]],
        limits: Limits,
        hot: HotSegments,
    ) -> None:
        self._attached = attached
        self._limits = limits
        self._hot = hot
        self.counters = Counters()
        zero = {name: tensor[0] for name, tensor in attached.zero_state(1).items()}
        self.pool = StatePool(zero, limits.slots, attached.device)
        self._decoding = Decoding(attached, tokenizer, self.pool, ends)
        self._prompts: deque[Generate | Score] = deque()
        self._folds: deque[Fold] = deque()
        self._prompting: Batch | None = None
        self._folding: Batch | None = None
        self._pace = Pace(limits.chunk)
        self._turns = 0  # chunks of prompts since a fold's
        self._most_rows = limits.rows  # less after the device ran out of memory
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="deltamem-engine", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return len(self._prompts) + len(self._folds)

    @property
    def generating(self) -> int:
        """Rows that are being generated."""
        return len(self._decoding)

    def submit(self, request: Request, *, wait: bool = True) -> None:
        """Queue a request.

        Args:
            wait: Whether to wait while the queue is full.

        Raises:
            EngineBusyError: The queue is full, and not to be waited for, or was until the request's deadline.
            ClosedError: The engine was closed.
        """
        with self._changed:
            while not self._closed and self.waiting >= self._limits.waiting:
                left = None if request.deadline is None else request.deadline - time.monotonic()
                if not wait or (left is not None and left <= 0):
                    raise EngineBusyError(
                        f"{self.waiting} requests are waiting, as many as the engine takes; try again later, or "
                        "submit fewer at once"
                    )
                self._changed.wait(left)
            if self._closed:
                raise ClosedError("this DeltaMem was closed; open it again")
            if isinstance(request, Fold):
                self._folds.append(request)
            elif isinstance(request, Generate | Score):
                self._prompts.append(request)
            self._changed.notify_all()

    def close(self) -> None:
        """Finish the step under way; what is not finished then fails with ClosedError."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _work(self) -> None:
        with torch.inference_mode():
            while self._await_work():
                self._turn()
        self._fail_all(ClosedError("this DeltaMem was closed before the request was finished; open it again"))

    def _await_work(self) -> bool:
        with self._changed:
            while not (self._closed or self.waiting or self._prompting or self._folding or len(self._decoding)):
                self._most_rows = self._limits.rows  # what ran out of memory is over
                self._changed.wait()
            return not self._closed

    def _turn(self) -> None:
        """One token of everything that is generated, one chunk of what is read."""
        self._expire()
        if len(self._decoding):
            self._decode()
        self._prompting = self._prompting or self._begin_prompts()
        self._folding = self._folding or self._begin_folds()
        if self._prompting is None or (self._folding is not None and self._turns >= PATIENCE):
            self._turns = 0
            self._folding = self._advance(self._folding)
        else:
            self._turns += 1
            self._prompting = self._advance(self._prompting)

    def _advance(self, batch: Batch | None) -> Batch | None:
        """Run a batch's next chunk; the batch, or None where it has ended."""
        if batch is None:
            return None
        try:
            tokens = self._pace.tokens * (1 if isinstance(batch, Folds) else PROMPT_CHUNKS)
            started = time.perf_counter()
            ran = batch.run.step(tokens)
            self._pace.ran(ran, tokens, time.perf_counter() - started)
            self.counters.read(ran)
            if not batch.run.done:
                return batch
            for request in batch.finish():
                self._again(request)
        except Exception as error:
            batch.abandon()
            self._failed(batch.requests, error)
        return None

    def _decode(self) -> None:
        rows = list(self._decoding.active)
        started = time.perf_counter()
        try:
            ended = self._decoding.step()
        except torch.OutOfMemoryError as error:
            self._most_rows = max(1, len(rows) // 2)
            self._interrupt(rows[self._most_rows :] if len(rows) > 1 else rows, None if len(rows) > 1 else error)
        except Exception as error:
            self._interrupt(rows, error)
        else:
            self.counters.wrote(len(rows), time.perf_counter() - started)
            self._end(ended)

    def _interrupt(self, rows: Sequence[Active], error: Exception | None) -> None:
        """Take rows out: to go on later from what they have, or failed."""
        self._decoding.leave(rows)
        for each in rows:
            self.pool.give(each.slot)
            if error is not None:
                each.request.fail(_told(error))
            else:
                each.request.interrupted = each.pause()
                self._again(each.request)

    def _end(self, ended: Sequence[Active]) -> None:
        end(self._decoding, self.pool, ended)
        for each in ended:
            self.counters.answered(each.first_token - each.request.submitted)

    def _begin_prompts(self) -> Batch | None:
        """As many waiting prompts as fit, first come first served; a score runs by itself."""
        head = self._head(self._prompts)
        if isinstance(head, Score):
            self._pop(self._prompts)
            if not head.begin():
                return None
            return self._built([head], lambda: Scores(self._attached, head))
        chosen: list[Generate] = []
        slots: list[int] = []
        longest = 0
        while isinstance(head, Generate) and len(chosen) < self._most_rows - len(self._decoding):
            longest = max(longest, head.size)
            if chosen and longest * (len(chosen) + 1) > self._limits.batch:
                break
            slot = self.pool.take(head.key, head.state)
            if slot is None:
                break  # until an answer has ended
            self._pop(self._prompts)
            if head.begin():
                chosen.append(head)
                slots.append(slot)
            else:
                self.pool.give(slot)
            head = self._head(self._prompts)
        if not chosen:
            return None
        batch = self._built(
            chosen,
            lambda: Prompts(self._attached, self.pool, self._decoding, chosen, slots, self._end),
        )
        if batch is None:
            for slot in slots:
                self.pool.give(slot)
        return batch

    def _begin_folds(self) -> Batch | None:
        """The next segments of as many waiting folds as fit."""
        chosen: list[Fold] = []
        longest = 0
        while (head := self._head(self._folds)) is not None and len(chosen) < self._most_rows:
            longest = max(longest, head.size)
            if chosen and longest * (len(chosen) + 1) > self._limits.batch:
                break
            self._pop(self._folds)
            if not head.begin():
                continue
            if all_hot(self._hot, head):
                head.answer.set_result(head.states)
            else:
                chosen.append(head)
        if not chosen:
            return None
        return self._built(chosen, lambda: Folds(self._attached, self._hot, chosen))

    def _built(self, requests: Sequence[Request], make: Callable[[], Batch]) -> Batch | None:
        try:
            return make()
        except Exception as error:
            self._failed(requests, error)
            return None

    def _failed(self, requests: Sequence[Request], error: Exception) -> None:
        """Fail a batch's requests; where memory ran out and there are several, run half as many at a time."""
        if isinstance(error, torch.OutOfMemoryError) and len(requests) > 1:
            self._most_rows = max(1, len(requests) // 2)
            for request in reversed(requests):
                self._again(request)
            return
        for request in requests:
            request.fail(_told(error))

    def _again(self, request: Request) -> None:
        """Put a request that has begun at the head of its queue."""
        with self._changed:
            if isinstance(request, Fold):
                self._folds.appendleft(request)
            elif isinstance(request, Generate | Score):
                self._prompts.appendleft(request)

    def _head(self, queue: deque[Any]) -> Any:
        """The first request of a queue; None where it is empty. Only this thread takes requests out."""
        with self._changed:
            return queue[0] if queue else None

    def _pop(self, queue: deque[Any]) -> None:
        with self._changed:
            queue.popleft()
            self._changed.notify_all()

    def _expire(self) -> None:
        """Fail what is too late, and drop what was cancelled while it waited."""
        now = time.monotonic()
        with self._changed:
            for queue in (self._prompts, self._folds):
                late = [each for each in queue if each.late(now) or each.cancellation.cancelled]
                for request in late:
                    queue.remove(request)  # type: ignore[arg-type]
                    request.fail(_too_late(request) if request.late(now) else CancelledError())
                if late:
                    self._changed.notify_all()
        expired = [each for each in self._decoding.active if each.request.late(now)]
        self._decoding.leave(expired)
        for each in expired:
            self.pool.give(each.slot)
            each.request.fail(_too_late(each.request))

    def _fail_all(self, error: Exception) -> None:
        with self._changed:
            requests: list[Request] = [*self._prompts, *self._folds]
            self._prompts.clear()
            self._folds.clear()
        for batch in (self._prompting, self._folding):
            requests += batch.requests if batch is not None else []
        requests += [each.request for each in self._decoding.active]
        for request in requests:
            request.fail(error)


def _told(error: Exception) -> Exception:
    if isinstance(error, torch.OutOfMemoryError):
        return EngineMemoryError(
            f"the device ran out of memory with a single request ({error}); use a shorter prompt, a smaller backbone "
            "or dtype, or a larger device"
        )
    return error


def _too_late(request: Request) -> EngineTimeoutError:
    waited = time.monotonic() - request.submitted
    return EngineTimeoutError(f"not finished after {waited:.1f} s; give it a longer timeout, or the engine less to do")
