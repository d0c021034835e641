"""Turns replies into figures: shares with intervals, differences to the controls, and shares by kind of rule."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from deltamem_agents.bench.state.asking import HYBRID, STATE, VECTOR, WAYS, Reply
from deltamem_agents.bench.state.controls import CONTROLS, OWN, ZERO
from deltamem_agents.bench.state.intervals import Interval, difference, share
from deltamem_agents.bench.state.tasks import RULE, STATED, UNKNOWN, UNRELATED, Task

FOLLOWED, RIGHT, WRONG, SILENT, UNCHANGED = "followed", "right", "wrong", "silent", "unchanged"
MEASURES: Mapping[str, str] = {FOLLOWED: RULE, RIGHT: STATED, WRONG: STATED, SILENT: UNKNOWN, UNCHANGED: UNRELATED}
CAUSED = (FOLLOWED, RIGHT)  # what a state is claimed to do


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One share: of a task, an arm with the state that it reads, and a measure.

    Args:
        state: "own" or "zero", which the arm is meant to read, or a control in its place; see `controls`.
        measure: "followed" of requests under a rule; "right" or "wrong" of questions about what was said; "silent" of
            those about what was never said; "unchanged" of unrelated requests.
        tokens: Mean number of tokens handed over in the prompt.
    """

    task: str
    size: int
    others: int
    arm: str
    state: str
    measure: str
    share: Interval
    questions: int
    episodes: int
    tokens: float

    @property
    def meant(self) -> bool:
        """Whether the arm reads the state that it is meant to read, not a control."""
        return self.state == (OWN if self.arm in (STATE, HYBRID) else ZERO)


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """By how much an arm is better with the right state than with another, or than retrieval alone.

    Args:
        control: The state that stands in place of the right one; "vector" compares with retrieval alone.
        difference: The share with the right state less that with the control, over the same questions.
    """

    task: str
    size: int
    others: int
    arm: str
    measure: str
    control: str
    difference: Interval

    @property
    def shown(self) -> bool:
        """Whether the interval excludes zero."""
        return self.difference.excludes_zero


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleKind:
    """How often replies follow rules of one kind, over all tasks without other messages."""

    kind: str
    arm: str
    followed: float
    requests: int


@dataclass(frozen=True, slots=True)
class _Sums:
    """Hits and questions by episode."""

    hits: list[float]
    asked: list[float]


def cells(task: Task, replies: Sequence[Reply]) -> Iterator[Cell]:
    """The shares of all arms of a task, each with the state that it is meant to read and with every control."""
    for arm, which in dict.fromkeys((each.arm, each.state) for each in replies):
        of = [each for each in replies if (each.arm, each.state) == (arm, which)]
        for measure, kind in MEASURES.items():
            asked = [each for each in of if each.kind == kind]
            if asked:
                sums = _sums(task, asked, measure)
                yield Cell(
                    task=task.name,
                    size=task.size,
                    others=task.others,
                    arm=arm,
                    state=which,
                    measure=measure,
                    share=share(sums.hits, sums.asked),
                    questions=len(asked),
                    episodes=sum(bool(each) for each in sums.asked),
                    tokens=sum(each.tokens for each in asked) / len(asked),
                )


def effects(task: Task, replies: Sequence[Reply]) -> Iterator[Effect]:
    """The differences of each arm that reads a state to each control, and of both arms to retrieval alone."""
    for arm in (STATE, HYBRID):
        for measure in CAUSED:
            kind = MEASURES[measure]
            own = [each for each in replies if (each.arm, each.state, each.kind) == (arm, OWN, kind)]
            if not own:
                continue
            first = _sums(task, own, measure)
            for control in (*CONTROLS, VECTOR):
                way = (VECTOR, ZERO) if control == VECTOR else (arm, control)
                other = [each for each in replies if (each.arm, each.state, each.kind) == (*way, kind)]
                if other:
                    yield Effect(
                        task=task.name,
                        size=task.size,
                        others=task.others,
                        arm=arm,
                        measure=measure,
                        control=control,
                        difference=difference(first.hits, _sums(task, other, measure).hits, first.asked),
                    )


def by_kind(measured: Sequence[tuple[Task, Sequence[Reply]]]) -> Iterator[RuleKind]:
    """Shares by kind of rule, of tasks without other messages."""
    of = [each for task, replies in measured if not task.others for each in replies if each.rule]
    for kind in sorted({each.rule for each in of}):
        for arm, which in WAYS[:5]:
            asked = [each.right for each in of if (each.rule, each.arm, each.state) == (kind, arm, which)]
            if asked:
                yield RuleKind(kind=kind, arm=arm, followed=sum(asked) / len(asked), requests=len(asked))


def _sums(task: Task, replies: Sequence[Reply], measure: str) -> _Sums:
    sums = _Sums([0.0] * len(task.episodes), [0.0] * len(task.episodes))
    for each in replies:
        sums.asked[each.episode] += 1
        sums.hits[each.episode] += (each.answered and not each.right) if measure == WRONG else each.right
    return sums
