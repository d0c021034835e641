"""Batches of requests of one kind, and what happens when their tokens have run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch

from deltamem_agents.core import Attached, State
from deltamem_agents.engine.decoding import Active, Decoding
from deltamem_agents.engine.failures import out_of_memory
from deltamem_agents.engine.hot import HotSegment, HotSegments
from deltamem_agents.engine.pool import StatePool, only
from deltamem_agents.engine.requests import Fold, Generate, Request, Score
from deltamem_agents.engine.runs import Row, Run


class Batch(Protocol):
    """A batch that the scheduler runs through the model chunk by chunk."""

    run: Run

    @property
    def requests(self) -> Sequence[Request]:
        """The requests whose futures depend on this batch."""

    def finish(self) -> Sequence[Request]:
        """Answer the finished requests after the last chunk; return those that still wait.

        If it fails, it has answered none.
        """

    def abandon(self) -> Sequence[Request]:
        """Release resources after a failed step; return the requests that must run again."""


class Prompts:
    """Prompts of requests that generate; their rows then join `Decoding`.

    Args:
        slots: The pool slot of each request's state; freed in `abandon` or when the answer has ended. If the adapter
            writes while answering, no other request has that slot, and the prompt is written into it.
        end: Called with the rows that ended with their first token.
    """

    def __init__(
        self,
        attached: Attached,
        pool: StatePool,
        decoding: Decoding,
        requests: Sequence[Generate],
        slots: Sequence[int],
        end: Callable[[Sequence[Active]], None],
    ) -> None:
        self.requests = requests
        self._attached = attached
        self._end = end
        self._pool = pool
        self._slots = slots
        self._decoding = decoding
        states = pool.gather(slots)
        rows = [Row(each.ids, {n: t[i] for n, t in states.items()}) for i, each in enumerate(requests)]
        self.run = Run(attached, rows, write=attached.adapter.config.answer_writes, keep=1)
        self._active = [decoding.activate(each, slot) for each, slot in zip(requests, slots, strict=True)]

    def finish(self) -> Sequence[Request]:
        """See `Batch.finish`."""
        if self.run.write:
            self._attached.check()  # raises if the adapter wrote nothing
            self._pool.put(self._slots, self.run.state)
        caches = [self.run.past(index) for index in range(len(self._active))]
        assert self.run.logits is not None  # the run is done
        self._end(self._decoding.join(self._active, caches, self.run.logits[:, -1]))
        return []

    def abandon(self) -> Sequence[Request]:
        """See `Batch.abandon`. Some rows may already have drawn their first token."""
        self._end([each for each in self._active if each.ended])
        return interrupt(self._pool, [each for each in self._active if not each.ended])


class Scores:
    """The items of one scoring request; an adapter that writes while answering also writes during scoring."""

    def __init__(self, attached: Attached, request: Score) -> None:
        self._request = request
        self.requests = [request]
        rows = [Row([*prompt, *request.ids], state) for prompt, state in request.items]
        self.run = Run(attached, rows, write=attached.adapter.config.answer_writes, keep=len(request.ids) + 1)

    def finish(self) -> list[Request]:
        """See `Batch.finish`."""
        assert self.run.logits is not None  # the run is done
        likely = self.run.logits[:, :-1].float().log_softmax(-1)
        ids = torch.tensor(self._request.ids, device=likely.device).view(1, -1, 1).expand(likely.shape[0], -1, 1)
        scores = likely.gather(-1, ids).squeeze(-1).mean(-1)
        self._request.succeed(scores.tolist())
        return []

    def abandon(self) -> Sequence[Request]:
        """See `Batch.abandon`."""
        return self.requests


class Folds:
    """The next segment of each request."""

    def __init__(self, attached: Attached, hot: HotSegments, requests: Sequence[Fold]) -> None:
        self.requests = requests
        self._attached = attached
        self._hot = hot
        spans = attached.adapter.config.write != "token"
        rows = [self._row(each, spans) for each in requests]
        # With span writes, all tokens of a segment read the state from before the segment, so they run in one chunk.
        self.run = Run(attached, rows, write=True, spans=spans)

    def finish(self) -> Sequence[Request]:
        """See `Batch.finish`."""
        self._attached.check()  # raises if the adapter wrote nothing; on a GPU this waits for the device
        after = [only(self.run.state, index) for index in range(len(self.requests))]
        hot = [self._kept(index, state) for index, state in enumerate(after)]
        for request, state, segment in zip(self.requests, after, hot, strict=True):  # nothing below can fail
            request.states.append(state)
            if segment is not None:
                self._hot.put(segment)
            if not request.left:
                request.succeed(request.states)
        return [request for request in self.requests if request.left]

    def abandon(self) -> Sequence[Request]:
        """See `Batch.abandon`."""
        return self.requests

    def _kept(self, index: int, after: State) -> HotSegment | None:
        """The hot segment to keep of a request whose last segment has run, if memory allows."""
        request = self.requests[index]
        if request.left > 1 or request.open_for is None or not self._hot.enabled:
            return None
        try:
            past = self.run.past(index)
        except Exception as error:
            if out_of_memory(error):
                return None
            raise
        return HotSegment(request.open_for, list(request.segment.ids), request.before, after, past)

    def _row(self, request: Fold, spans: bool) -> Row:
        """The row for a request's next segment; if the segment is hot, only its new tokens."""
        segment, before = request.segment, request.before
        hot = self._hot.take(request.open_for) if request.open_for and not request.states else None
        if hot is None or not hot.begins(before, segment.ids):
            return Row(segment.ids, before, messages=segment.messages, sentences=segment.sentences)
        done = len(hot.ids)
        return Row(
            segment.ids[done:],
            hot.after,
            read_state=before if spans else None,
            past=hot.past,
            messages=segment.messages[done:],
            sentences=segment.sentences[done:],
        )


def all_hot(hot: HotSegments, request: Fold) -> bool:
    """Whether a fold has nothing left to run. Its first segment is taken from the hot ones if it is all there."""
    if request.open_for is None or request.states:
        return False
    held = hot.take(request.open_for)
    if held is None:
        return False
    if not held.begins(request.before, request.segment.ids) or len(held.ids) < len(request.segment.ids):
        hot.put(held)
        return False
    request.states.append(held.after)
    if request.left:
        return False
    hot.put(held)
    return True


def interrupt(pool: StatePool, rows: Sequence[Active]) -> list[Generate]:
    """Remove rows from generation, to resume later after the tokens they have; return their requests."""
    for each in rows:
        pool.give(each.slot)
        each.request.interrupted = each.pause()
    return [each.request for each in rows]


def end(decoding: Decoding, pool: StatePool, ended: Sequence[Active]) -> None:
    """Answer requests whose generation has ended, and free their slots."""
    for each in ended:
        pool.give(each.slot)
        try:
            result = decoding.result(each) if each.failed is None else None
        except Exception as error:
            each.failed = error
        if each.failed is not None:
            each.request.fail(each.failed)
        else:
            each.request.succeed(result)
