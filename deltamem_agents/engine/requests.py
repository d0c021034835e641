"""What callers ask of the engine: one object a request, with the future it answers. Knows nothing of batches."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from deltamem_agents.core import State
from deltamem_agents.engine.generation import Cancellation, Generation, Sampling
from deltamem_agents.engine.segments import Segment


class AgentKey(NamedTuple):
    """What tells an agent's history from every other.

    Args:
        owner: The database it is in.
        epoch: The agent's, which changes when its past does.
    """

    owner: Hashable
    agent: str
    epoch: int


StateKey = tuple[AgentKey, int]  # a history, and the position its state stands for


@dataclass(slots=True, kw_only=True, eq=False)  # a request is itself alone
class Request:
    """Something to be done under one or more states.

    Args:
        deadline: On the monotonic clock; None for none.
        cancellation: Ends it from another thread.
    """

    deadline: float | None = None
    cancellation: Cancellation = field(default_factory=Cancellation)
    submitted: float = field(default_factory=time.monotonic)
    begun: bool = False

    @property
    def future(self) -> Future[Any]:
        """What the caller waits for."""
        raise NotImplementedError

    def begin(self) -> bool:
        """Whether it is still wanted; from now on its future cannot be cancelled. May be asked again."""
        self.begun = self.begun or self.future.set_running_or_notify_cancel()
        return self.begun

    def late(self, now: float) -> bool:
        """Whether its deadline has passed."""
        return self.deadline is not None and now > self.deadline

    def fail(self, error: BaseException) -> None:
        """Answer it with an error, unless it was cancelled."""
        if self.begin():
            self.future.set_exception(error)


@dataclass(slots=True, kw_only=True, eq=False)
class Fold(Request):
    """Write segments one after another.

    Args:
        open_for: Whose last segment may go on.
        states: The state after each segment that has run.
    """

    state: State
    segments: Sequence[Segment]
    open_for: AgentKey | None = None
    states: list[State] = field(default_factory=list)
    answer: Future[list[State]] = field(default_factory=Future)

    @property
    def future(self) -> Future[Any]:
        """As `Request.future`."""
        return self.answer

    @property
    def size(self) -> int:
        """Tokens of the segment that runs next."""
        return len(self.segment.ids)

    @property
    def segment(self) -> Segment:
        """What runs next."""
        return self.segments[len(self.states)]

    @property
    def before(self) -> State:
        """The state before that."""
        return self.states[-1] if self.states else self.state


@dataclass(slots=True, kw_only=True, eq=False)
class Generate(Request):
    """Continue a prompt.

    Args:
        ids: The prompt; after an interruption what was generated as well.
        key: What its state is known by, None for a state nobody shares.
        prompt_tokens: Length of the prompt itself.
        interrupted: How far its generation had come, where it was taken out to go on later.
    """

    ids: list[int]
    state: State
    sampling: Sampling
    key: StateKey | None = None
    on_text: Callable[[str], None] | None = None
    prompt_tokens: int = 0
    interrupted: object = None
    answer: Future[Generation] = field(default_factory=Future)

    @property
    def future(self) -> Future[Any]:
        """As `Request.future`."""
        return self.answer

    @property
    def size(self) -> int:
        """Tokens of the prompt."""
        return len(self.ids)


@dataclass(slots=True, kw_only=True, eq=False)
class Score(Request):
    """How likely an answer is after each of several prompts and states."""

    items: Sequence[tuple[Sequence[int], State]]
    ids: Sequence[int]
    answer: Future[list[float]] = field(default_factory=Future)

    @property
    def future(self) -> Future[Any]:
        """As `Request.future`."""
        return self.answer
