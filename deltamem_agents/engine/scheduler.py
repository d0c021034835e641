"""The engine's thread: takes requests from a bounded queue, forms batches by token budget, and runs one step at a time.

Each turn runs one token of every row that is being generated, and one chunk of a batch of prompts or folds. Chunks are
short, so no request waits long for another. Prompts come before folds, but folds are not starved. Folds of one agent
keep their order, because each needs the state that the previous one left.

A failed step is retried with half as many requests, after its keys and values are freed. A request that fails alone on
the device is retried once; then it fails, and only it. An error outside a step ends the thread, and fails every present
and future request.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError

import torch
from transformers import PreTrainedTokenizerBase

from deltamem_agents.core import Attached
from deltamem_agents.engine.batches import Batch, Folds, Prompts, Scores, all_hot, end, interrupt
from deltamem_agents.engine.decoding import Active, Decoding
from deltamem_agents.engine.failures import (
    check_device,
    closed,
    described,
    failed,
    out_of_memory,
    told,
    too_late,
    unfinished,
)
from deltamem_agents.engine.hot import HotSegments
from deltamem_agents.engine.options import Limits
from deltamem_agents.engine.pool import StatePool
from deltamem_agents.engine.requests import Fold, Generate, Request, Score
from deltamem_agents.engine.runs import Pace
from deltamem_agents.engine.shutdown import stop_at_exit
from deltamem_agents.engine.statistics import Counters
from deltamem_agents.engine.waiting import Waiting
from deltamem_agents.errors import DeltaMemError
from deltamem_agents.processes import check_process

log = logging.getLogger(__name__)

PATIENCE = 4  # chunks of prompts that run before a waiting fold gets one
PROMPT_CHUNKS = 4  # prompts get longer chunks: a caller waits for a prompt, but rarely for a fold
TRIES = 2  # attempts for a request that fails alone on the device
NARROW_SECONDS = 60.0  # time after a failure before the number of rows is doubled again


class Scheduler:
    """One thread that runs the model. It takes requests of any kind and answers their futures.

    Args:
        ends: Returns the token ids that end an answer.

    Attributes:
        failure: Why the thread has stopped by itself; None while it runs.

    Raises:
        ConfigError: The device has too little memory for the states.
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
        self._waiting = Waiting(limits.waiting)
        self._prompting: Batch | None = None
        self._folding: Batch | None = None
        self._alone = False  # whether the running batch must run alone
        self._pace = Pace(limits.chunk)
        self._turns = 0  # chunks of prompts since the last chunk of a fold
        self._most_rows = self._most_folds = limits.rows  # lowered after a failed step
        self._narrowed = 0.0  # time of the last change to these limits
        self._closed = False
        self.failure: str | None = None
        self.process = os.getpid()
        self._thread = threading.Thread(target=self._work, name="deltamem-engine", daemon=True)
        self._thread.start()
        stop_at_exit(self)

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return len(self._waiting)

    @property
    def generating(self) -> int:
        """Rows that are being generated."""
        return len(self._decoding)

    @property
    def usable(self) -> bool:
        """Whether it takes requests in this process."""
        return not self._closed and self.failure is None and self.process == os.getpid()

    def check(self) -> None:
        """Check that the engine takes requests.

        Raises:
            ForkedError: The engine belongs to the process that this one was forked from.
            EngineFailedError: Its thread has stopped after an error of its own.
            ClosedError: It was closed.
        """
        check_process(self.process, "engine")
        self._waiting.check()

    def submit(self, request: Request, *, wait: bool = True) -> None:
        """Queue a request.

        Args:
            wait: Whether to wait while the queue is full; the engine's own thread, in a callback, never waits.

        Raises:
            EngineBusyError: The queue is full and ``wait`` is false, or it stayed full until the request's deadline.
            ForkedError, EngineFailedError, ClosedError: The engine takes no requests; see `check`.
        """
        self.check()
        self._waiting.put(request, wait=wait and threading.current_thread() is not self._thread)

    def close(self) -> None:
        """Finish the current step; unfinished requests fail with ClosedError. Does nothing in a forked process."""
        if self.process == os.getpid():
            self.stop()
            self.join(None)

    def stop(self) -> None:
        """Ask the thread to end after the current step."""
        self._closed = True
        self._waiting.refuse(closed)

    def join(self, seconds: float | None) -> None:
        """Wait until the thread has ended."""
        if threading.current_thread() is not self._thread:
            self._thread.join(seconds)

    def _work(self) -> None:
        try:
            with torch.inference_mode():
                while self._await_work():
                    self._turn()
        except BaseException as error:
            self._break_down(error)
        else:
            self._fail_all(unfinished)

    def _break_down(self, error: BaseException) -> None:
        """Fail all present and future requests. Uses nothing that the failed work may have corrupted."""
        self.failure = described(error)
        self._waiting.refuse(lambda: failed(error))
        self._prompting = self._folding = None
        self._decoding.clear()
        self._fail_all(lambda: failed(error))
        log.error("the engine has stopped after an error outside any request", exc_info=error)
        traceback.clear_frames(error.__traceback__)  # they hold tensors

    def _fail_all(self, error: Callable[[], Exception]) -> None:
        for request in self._waiting.unanswered():
            request.fail(error())

    def _await_work(self) -> bool:
        with self._waiting.changed:
            while not (self._closed or self._waiting or self._running):
                self._most_rows = self._most_folds = self._limits.rows  # idle, so earlier failures no longer matter
                self._waiting.changed.wait()
            return not self._closed

    @property
    def _running(self) -> bool:
        return self._prompting is not None or self._folding is not None or len(self._decoding) > 0

    def _turn(self) -> None:
        """Run one token of every generating row, and one chunk of a prompt or fold batch."""
        self._expire()
        if len(self._decoding):
            self._decode()
        self._begin()
        if self._prompting is None or (self._folding is not None and self._turns >= PATIENCE):
            self._turns = 0
            self._advance(self._folding)
        else:
            self._turns += 1
            self._advance(self._prompting)

    def _begin(self) -> None:
        """Form batches of waiting requests. One that must run alone waits until nothing runs; the rest wait for it."""
        self._alone = self._alone and self._running
        if self._alone:
            return
        if not self._waiting.alone:
            self._widen()
            self._prompting = self._prompting or self._begin_prompts(self._most_rows - len(self._decoding))
            self._folding = self._folding or self._begin_folds(self._most_folds)
        elif not self._running:
            self._alone = True
            if self._waiting.next_alone():
                self._prompting = self._begin_prompts(1)
            else:
                self._folding = self._begin_folds(1)

    def _begin_prompts(self, most: int) -> Batch | None:
        """Batch as many waiting prompts as fit, first come, first served; a score runs in a batch of its own."""
        chosen: list[Generate] = []
        slots: list[int] = []
        longest = 0
        while isinstance(head := self._waiting.prompt(), Generate) and len(chosen) < most:
            longest = max(longest, head.size)
            if chosen and longest * (len(chosen) + 1) > self._limits.batch:
                break
            try:
                slot = self.pool.take(head.key, head.state)
            except Exception as error:
                self._waiting.pop(head)
                self._failed([head], error)
                continue
            if slot is None:
                break  # until an answer ends and frees its slot
            self._waiting.pop(head)
            if _wanted(head):
                chosen.append(head)
                slots.append(slot)
            else:
                self.pool.give(slot)
        if chosen:
            return self._prompts(chosen, slots)
        if isinstance(head, Score):
            self._waiting.pop(head)
            return self._built([head], lambda: Scores(self._attached, head)) if _wanted(head) else None
        return None

    def _prompts(self, chosen: Sequence[Generate], slots: Sequence[int]) -> Batch | None:
        batch = self._built(
            chosen,
            lambda: Prompts(self._attached, self.pool, self._decoding, chosen, slots, self._end),
        )
        if batch is None:
            for slot in slots:
                self.pool.give(slot)
        return batch

    def _begin_folds(self, most: int) -> Batch | None:
        """Batch the next segments of as many waiting folds as fit, one per agent."""
        chosen: list[Fold] = []
        agents: set[object] = set()
        longest = 0
        while (head := self._waiting.fold()) is not None and len(chosen) < most:
            longest = max(longest, head.size)
            if chosen and (longest * (len(chosen) + 1) > self._limits.batch or head.agent in agents):
                break
            self._waiting.pop(head)
            if _wanted(head) and not self._is_hot(head):
                chosen.append(head)
                agents |= {head.agent} - {None}
        return self._built(chosen, lambda: Folds(self._attached, self._hot, chosen)) if chosen else None

    def _is_hot(self, fold: Fold) -> bool:
        """Whether nothing of the fold runs now: the hot segment answered it, or the lookup failed."""
        try:
            if not all_hot(self._hot, fold):
                return False
        except Exception as error:
            self._failed([fold], error)
        else:
            fold.succeed(fold.states)
        return True

    def _built(self, requests: Sequence[Request], make: Callable[[], Batch]) -> Batch | None:
        try:
            return make()
        except Exception as error:
            self._failed(requests, error)
            return None

    def _advance(self, batch: Batch | None) -> None:
        """Run a batch's next chunk; remove the batch if it has finished or failed."""
        if batch is None:
            return
        try:
            tokens = self._pace.tokens * (1 if isinstance(batch, Folds) else PROMPT_CHUNKS)
            started = time.perf_counter()
            ran = batch.run.step(tokens)
            self._pace.ran(ran, tokens, time.perf_counter() - started)
            self.counters.read(ran)
            if not batch.run.done:
                return
            unfinished = batch.finish()
        except Exception as error:
            self._forget(batch)
            self._failed(batch.abandon(), error)
        else:
            self._forget(batch)
            self._waiting.put_back(unfinished)

    def _forget(self, batch: Batch) -> None:
        if batch is self._prompting:
            self._prompting = None
        else:
            self._folding = None

    def _decode(self) -> None:
        """Generate one token for every row."""
        rows = len(self._decoding)
        started = time.perf_counter()
        try:
            ended = self._decoding.step()
        except Exception as error:
            self._interrupt(error)
        else:
            self.counters.wrote(rows, time.perf_counter() - started)
            self._end(ended)

    def _interrupt(self, error: Exception) -> None:
        """Remove all rows after a failed step; they resume later from the tokens that they have."""
        rows = self._decoding.clear()
        self._end([each for each in rows if each.ended])
        self._failed(interrupt(self.pool, [each for each in rows if not each.ended]), error)

    def _end(self, ended: Sequence[Active]) -> None:
        end(self._decoding, self.pool, ended)
        for each in ended:
            if each.failed is None:
                self.counters.answered(each.first_token - each.request.submitted)

    def _failed(self, requests: Sequence[Request], error: Exception) -> None:
        """Retry the requests of a failed step in a smaller batch; fail a request that ran alone and used its tries."""
        if not out_of_memory(error):
            check_device(self._attached.device)
        if len(requests) > 1:
            self._narrow(requests)
            self._waiting.put_back(requests)
            return
        for request in requests:
            if self._running and not isinstance(error, DeltaMemError):
                self._waiting.alone.append(request)
                continue
            request.failures += 1
            if request.failures < TRIES and not isinstance(error, DeltaMemError):
                self._hot.clear()  # frees its memory
                self._waiting.alone.append(request)
            else:
                request.fail(told(error))
                self._most_rows = self._most_folds = self._limits.rows  # the other requests were not the cause

    def _narrow(self, failed: Sequence[Request]) -> None:
        self._narrowed = time.monotonic()
        half = len(failed) // 2
        if isinstance(failed[0], Fold):
            self._most_folds = half
        else:
            self._most_rows = min(self._most_rows, len(self._decoding) + half)

    def _widen(self) -> None:
        """Double the limits again, `NARROW_SECONDS` after they were lowered."""
        rows = self._limits.rows
        if min(self._most_rows, self._most_folds) < rows and time.monotonic() > self._narrowed + NARROW_SECONDS:
            self._narrowed = time.monotonic()
            self._most_rows, self._most_folds = min(2 * self._most_rows, rows), min(2 * self._most_folds, rows)

    def _expire(self) -> None:
        """Fail requests past their deadline, and drop waiting requests that were cancelled."""
        now = time.monotonic()
        for request in self._waiting.take_out(lambda each: each.late(now) or each.unwanted):
            request.fail(too_late(now - request.submitted) if request.late(now) else CancelledError())
        expired = [each for each in self._decoding.active if each.request.late(now)]
        for each in expired:
            each.failed, each.ended = too_late(now - each.request.submitted), True
        try:
            self._decoding.leave(expired)
        except Exception as error:
            self._interrupt(error)
        else:
            self._end(expired)


def _wanted(request: Request) -> bool:
    """Whether a request about to run was cancelled neither by its `Cancellation` nor by its future."""
    if request.unwanted:
        request.fail(CancelledError())
        return False
    return request.begin()
