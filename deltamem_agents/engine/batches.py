"""Requests of one kind that run together, and what is made of them when their tokens have run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch

from deltamem_agents.core import Attached
from deltamem_agents.engine.decoding import Active, Decoding
from deltamem_agents.engine.hot import HotSegment, HotSegments
from deltamem_agents.engine.pool import StatePool, only
from deltamem_agents.engine.requests import Fold, Generate, Request, Score
from deltamem_agents.engine.runs import Row, Run


class Batch(Protocol):
    """What the scheduler takes through the model chunk by chunk."""

    run: Run

    @property
    def requests(self) -> Sequence[Request]:
        """Whose futures depend on it."""

    def finish(self) -> list[Request]:
        """After the last chunk: answer what is answered; the requests that go on waiting."""

    def abandon(self) -> None:
        """Give back what is held; the run was not finished."""


class Prompts:
    """Prompts of answers; their rows join the ones that are generated.

    Args:
        slots: Of each request's state in the pool; given back here or when the answer has ended.
        end: Called with the rows that have ended with their first token.
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
        self._end = end
        self._slots = slots
        self._pool = pool
        self._decoding = decoding
        states = pool.gather(slots)
        rows = [Row(each.ids, {n: t[i] for n, t in states.items()}) for i, each in enumerate(requests)]
        self.run = Run(attached, rows, write=False, keep=1)

    def finish(self) -> list[Request]:
        """As `Batch.finish`."""
        active = [self._decoding.activate(each, slot) for each, slot in zip(self.requests, self._slots, strict=True)]
        caches = [self.run.past(index) for index in range(len(active))]
        assert self.run.logits is not None  # the run is done
        self._end(self._decoding.join(active, caches, self.run.logits[:, -1]))
        return []

    def abandon(self) -> None:
        """As `Batch.abandon`."""
        for slot in self._slots:
            self._pool.give(slot)


class Scores:
    """The items of one request, to be scored."""

    def __init__(self, attached: Attached, request: Score) -> None:
        self._request = request
        self.requests = [request]
        rows = [Row([*prompt, *request.ids], state) for prompt, state in request.items]
        self.run = Run(attached, rows, write=False, keep=len(request.ids) + 1)

    def finish(self) -> list[Request]:
        """As `Batch.finish`."""
        assert self.run.logits is not None  # the run is done
        likely = self.run.logits[:, :-1].float().log_softmax(-1)
        ids = torch.tensor(self._request.ids, device=likely.device).view(1, -1, 1).expand(likely.shape[0], -1, 1)
        scores = likely.gather(-1, ids).squeeze(-1).mean(-1)
        self._request.answer.set_result(scores.tolist())
        return []

    def abandon(self) -> None:
        """As `Batch.abandon`."""


class Folds:
    """The next segment of each request."""

    def __init__(self, attached: Attached, hot: HotSegments, requests: Sequence[Fold]) -> None:
        self.requests = requests
        self._attached = attached
        self._hot = hot
        spans = attached.adapter.config.write != "token"
        rows = [self._row(each, spans) for each in requests]
        # Where spans are written, all tokens of a segment read the state from before it: they run at once.
        self.run = Run(attached, rows, write=True, whole=spans)

    def finish(self) -> list[Request]:
        """As `Batch.finish`."""
        self._attached.check()  # that the adapter wrote; on a GPU that is known only when the device has come so far
        going: list[Request] = []
        for index, request in enumerate(self.requests):
            segment, before = request.segment, request.before
            request.states.append(only(self.run.state, index))
            if len(request.states) < len(request.segments):
                going.append(request)
                continue
            if request.open_for is not None and self._hot.enabled:
                past = self.run.past(index)
                self._hot.put(HotSegment(request.open_for, list(segment.ids), before, request.states[-1], past))
            request.answer.set_result(request.states)
        return going

    def abandon(self) -> None:
        """As `Batch.abandon`."""

    def _row(self, request: Fold, spans: bool) -> Row:
        """What is to run of a request's next segment: of a hot one the new tokens only."""
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
    """Whether nothing of a fold is left to run. Its first segment is taken from what is hot, if it is all there."""
    if request.open_for is None or request.states:
        return False
    held = hot.take(request.open_for)
    if held is None:
        return False
    if not held.begins(request.before, request.segment.ids) or len(held.ids) < len(request.segment.ids):
        hot.put(held)
        return False
    request.states.append(held.after)
    if len(request.states) < len(request.segments):
        return False
    hot.put(held)
    return True


def end(decoding: Decoding, pool: StatePool, ended: Sequence[Active]) -> None:
    """Answer requests whose generation has ended, and give back their slots."""
    for each in ended:
        pool.give(each.slot)
        if each.failed is not None:
            each.request.fail(each.failed)
        else:
            each.request.answer.set_result(decoding.result(each))
