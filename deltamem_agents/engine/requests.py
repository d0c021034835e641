"""Requests to the engine, each with the future that it answers. Knows nothing of batches."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from deltamem_agents.core import State
from deltamem_agents.engine.drawing import Drawing
from deltamem_agents.engine.generation import Cancellation, Generation, Sampling
from deltamem_agents.engine.segments import AgentKey, Segment, StateKey

log = logging.getLogger(__name__)

T = TypeVar("T")


class Answer(Future[T]):
    """A future whose callbacks cannot end the engine's thread: errors that they raise there are logged."""

    def add_done_callback(self, fn: Callable[[Future[T]], object]) -> None:
        """See `Future.add_done_callback`."""
        super().add_done_callback(partial(_call, fn))


def _call(callback: Callable[[Future[T]], object], future: Future[T]) -> None:
    try:
        callback(future)
    except BaseException as error:
        if threading.current_thread() is threading.main_thread():
            raise
        log.error("a callback of an engine's future failed: %s", type(error).__name__, exc_info=error)


@dataclass(slots=True, kw_only=True, eq=False)  # requests compare by identity
class Request:
    """A request that runs with one or more states.

    Args:
        deadline: On the monotonic clock; None for no limit.
        cancellation: Cancels it from another thread.
        failures: Steps that failed while this request was alone on the device.
    """

    deadline: float | None = None
    cancellation: Cancellation = field(default_factory=Cancellation)
    submitted: float = field(default_factory=time.monotonic)
    begun: bool = False
    dropped: bool = False
    failures: int = 0

    @property
    def future(self) -> Future[Any]:
        """The future that the caller waits for."""
        raise NotImplementedError

    def begin(self) -> bool:
        """Whether the request is still wanted; its future can then no longer be cancelled. May be called again."""
        if not self.begun and not self.dropped:
            try:
                self.begun = self.future.set_running_or_notify_cancel()
            except Exception:  # the caller answered its own future
                self.begun = False
            self.dropped = not self.begun
        return self.begun

    def late(self, now: float) -> bool:
        """Whether its deadline has passed."""
        return self.deadline is not None and now > self.deadline

    @property
    def unwanted(self) -> bool:
        """Whether it was cancelled before any of its output was shown."""
        return self.cancellation.cancelled

    def succeed(self, result: object) -> None:
        """Answer it, unless it was cancelled."""
        if self.begin():
            try:
                self.future.set_result(result)
            except InvalidStateError:
                log.debug("a request had been answered already")

    def fail(self, error: BaseException) -> None:
        """Answer it with an error, unless it was cancelled."""
        if self.begin():
            try:
                self.future.set_exception(error)
            except InvalidStateError:
                log.debug("a request had been answered already")


@dataclass(slots=True, kw_only=True, eq=False)
class Fold(Request):
    """Write segments one after another.

    Args:
        open_for: Agent whose last segment may continue.
        states: The state after each segment that has run.
    """

    state: State
    segments: Sequence[Segment]
    open_for: AgentKey | None = None
    states: list[State] = field(default_factory=list)
    answer: Future[list[State]] = field(default_factory=Answer)

    @property
    def future(self) -> Future[Any]:
        """See `Request.future`."""
        return self.answer

    @property
    def agent(self) -> tuple[Hashable, str] | None:
        """Owner and name of its agent, if known."""
        return None if self.open_for is None else self.open_for[:2]

    @property
    def left(self) -> int:
        """Number of segments that have not run."""
        return len(self.segments) - len(self.states)

    @property
    def size(self) -> int:
        """Number of tokens in the next segment."""
        return len(self.segment.ids)

    @property
    def segment(self) -> Segment:
        """The next segment to run."""
        return self.segments[len(self.states)]

    @property
    def before(self) -> State:
        """The state before the next segment."""
        return self.states[-1] if self.states else self.state


@dataclass(slots=True, kw_only=True, eq=False)
class Generate(Request):
    """Continue a prompt.

    Args:
        ids: The prompt; after an interruption, also the tokens generated so far.
        drawing: Used by this request only.
        key: Names its state; None for a state that is not shared.
        prompt_tokens: Length of the prompt itself.
        interrupted: Progress of its generation, if it was interrupted and will resume.
    """

    ids: list[int]
    state: State
    sampling: Sampling
    drawing: Drawing
    key: StateKey | None = None
    on_text: Callable[[str], None] | None = None
    prompt_tokens: int = 0
    interrupted: object = None
    answer: Future[Generation] = field(default_factory=Answer)

    @property
    def future(self) -> Future[Any]:
        """See `Request.future`."""
        return self.answer

    @property
    def unwanted(self) -> bool:
        """See `Request.unwanted`; an interrupted request ends with its next token instead."""
        return self.cancellation.cancelled and self.interrupted is None

    @property
    def size(self) -> int:
        """Number of tokens in the prompt."""
        return len(self.ids)


@dataclass(slots=True, kw_only=True, eq=False)
class Score(Request):
    """Score an answer after each of several prompts and states."""

    items: Sequence[tuple[Sequence[int], State]]
    ids: Sequence[int]
    answer: Future[list[float]] = field(default_factory=Answer)

    @property
    def future(self) -> Future[Any]:
        """See `Request.future`."""
        return self.answer
