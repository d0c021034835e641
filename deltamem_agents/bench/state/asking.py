"""Asks the questions of episodes with one text in the prompt and one state or another, and judges the replies.

A request is answered as chat answers it: with the records found for it as the system message, or all rules ("pinned"),
or nothing. A question with one right answer is answered as recall answers it: from the records and from the state
side by side, and what memory does not support is withheld. When only the state is asked, the greedy reply counts.
All replies are greedy.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from deltamem_agents.bench.recall.facts import Advance
from deltamem_agents.bench.state.controls import ANOTHER, CONTROLS, OFF, OWN, PERMUTED, SHUFFLED, ZERO, donors, permuted
from deltamem_agents.bench.state.tasks import RULE, STATED, UNKNOWN, UNRELATED, Task, kind_of
from deltamem_agents.bench.state.telling import THREADS, Remembered
from deltamem_agents.core import State
from deltamem_agents.engine import AgentKey, Engine, Sampling, StateKey
from deltamem_agents.memory.answering import ask
from deltamem_agents.memory.async_methods import run
from deltamem_agents.memory.folding import Folded
from deltamem_agents.memory.prompting import with_recall
from deltamem_agents.recall import knows_nothing
from deltamem_agents.training.episodes import Question

NONE, STATE, VECTOR, PINNED, HYBRID = "none", "state", "vector", "pinned", "hybrid"
ARMS = (NONE, STATE, VECTOR, PINNED, HYBRID)
TOKENS = 96  # limit on a reply
SPARE = 8  # tokens that a reply may have beyond twice those of the expected one

Way = tuple[str, str]  # an arm, and the state that it reads
BARE: Way = (NONE, ZERO)
# With the zero state, what is asked of the state alone is asked of the bare backbone, and "hybrid" is "vector".
SAME: Mapping[Way, Way] = {BARE: (STATE, ZERO), (VECTOR, ZERO): (HYBRID, ZERO)}
WAYS: tuple[Way, ...] = (
    BARE,
    (STATE, OWN),
    (VECTOR, ZERO),
    (PINNED, ZERO),
    (HYBRID, OWN),
    *((arm, each) for arm in (STATE, HYBRID) for each in CONTROLS if each not in (ZERO, OFF)),
)
OFF_WAYS: tuple[Way, ...] = ((STATE, OFF), (HYBRID, OFF))  # asked of an engine with corrections switched off


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A reply to one question, judged.

    Args:
        episode: Place of the episode in its task.
        question: Place of the question in its episode.
        kind: What is asked for; see `tasks`.
        rule: Kind of the rule, if one is asked for.
        arm, state: What was in the prompt, and which state was read.
        ids: The reply's tokens; empty if it was withheld.
        right: Of a rule, whether the reply follows it; of a fact, whether it is the answer; of what was never said,
            whether it says so or is withheld; of an unrelated request, whether it is the bare backbone's.
        answered: Whether it says anything but that nothing is known.
        tokens: Tokens of records or rules in the prompt.
    """

    episode: int
    question: int
    kind: str
    rule: str
    arm: str
    state: str
    text: str
    ids: tuple[int, ...]
    right: bool
    answered: bool
    tokens: int


@dataclass(frozen=True, slots=True)
class Job:
    """A question to ask in one way."""

    place: int
    number: int
    way: Way


class Asker:
    """Asks about one task's episodes.

    Args:
        bare: Tokens of the bare backbone's reply to each question, by episode and place; filled by the first `replies`.
    """

    def __init__(self, task: Task, told: Sequence[Remembered], *, seed: int) -> None:
        self.task = task
        self.told = told
        self.bare: dict[tuple[int, int], tuple[int, ...]] = {}
        self._states: Mapping[str, Sequence[State | None]] = self._all_states(seed)

    def replies(self, engine: Engine, ways: Sequence[Way], progress: Advance = lambda *_: None) -> list[Reply]:
        """Ask every question in each way in which it makes sense. The bare backbone is asked first."""
        groups = [[way for way in ways if (way == BARE) is first] for first in (True, False)]
        jobs = [list(self._jobs(group)) for group in groups]
        found: list[Reply] = []
        with ThreadPoolExecutor(THREADS) as pool:
            for group in jobs:
                for reply in pool.map(lambda job: self._reply(engine, job), group):
                    found.append(reply)
                    if reply.arm == NONE:
                        self.bare[reply.episode, reply.question] = reply.ids
                    progress(f"{self.task}: asking", len(found), sum(map(len, jobs)))
        return found + [
            replace(each, arm=SAME[each.arm, each.state][0], state=ZERO)
            for each in found
            if (each.arm, each.state) in SAME and each.kind != UNRELATED
        ]

    def state(self, place: int, which: str) -> State | None:
        """The state of an episode, or what stands in its place; None for the zero state."""
        return self._states[OWN if which == OFF else which][place]

    def _all_states(self, seed: int) -> dict[str, Sequence[State | None]]:
        rng = random.Random(f"permuted {seed} {self.task}")
        own = [each.state for each in self.told]
        return {
            OWN: own,
            ZERO: [None] * len(own),
            ANOTHER: [own[other] for other in donors([each.episode for each in self.told])],
            PERMUTED: [permuted(each, rng) for each in own],
            SHUFFLED: [each.shuffled for each in self.told],
        }

    def _jobs(self, ways: Sequence[Way]) -> Iterator[Job]:
        for place, each in enumerate(self.told):
            for number, question in enumerate(each.episode.questions):
                for way in ways:
                    if _makes_sense(self.task, kind_of(question), way):
                        yield Job(place, number, way)

    def _reply(self, engine: Engine, job: Job) -> Reply:
        told, (arm, which) = self.told[job.place], job.way
        question = told.episode.questions[job.number]
        text = {VECTOR: told.found[job.number], HYBRID: told.found[job.number], PINNED: told.pinned}.get(arm, "")
        state = self.state(job.place, which)
        key: StateKey = (AgentKey("benchmark", f"{told.agent}, {which}", 0), 0)
        kind = kind_of(question)
        if kind in (STATED, UNKNOWN) and arm in (VECTOR, HYBRID):
            said, ids = _recalled(engine, question, text, state, key)
        else:
            if text and state is not None and (engine.fullness(state) or 0.0) > 1:
                state = None  # as chat does
            said, ids = _generated(engine, question, text, state, key)
        known = bool(said) and not knows_nothing(said)
        return Reply(
            episode=job.place,
            question=job.number,
            kind=kind,
            rule=question.kind.removeprefix("rule ") if kind == RULE else "",
            arm=arm,
            state=which,
            text=said,
            ids=ids,
            right=self._right(question, kind, job, said, ids, known=known),
            answered=known,
            tokens=engine.count(text),
        )

    def _right(self, question: Question, kind: str, job: Job, said: str, ids: tuple[int, ...], *, known: bool) -> bool:
        if kind == UNKNOWN:
            return not known
        if kind == UNRELATED:
            return job.way == BARE or ids == self.bare[job.place, job.number]
        return question.accepts(said)


def prompt_of(engine: Engine, question: Question, text: str = "") -> list[int]:
    """The prompt for a question, with recalled text: as recall makes it of a fact's, as chat does of any other."""
    if kind_of(question) in (STATED, UNKNOWN):
        return engine.rendering.question(question.messages[-1]["content"], text)
    return engine.rendering.prompt(with_recall([dict(each) for each in question.messages], text))


def _makes_sense(task: Task, kind: str, way: Way) -> bool:
    arm, state = way
    if arm == PINNED and not task.ruled:
        return False
    # An unrelated request is asked for what memory does to it, not for proof of a cause.
    return kind != UNRELATED or state == OWN or arm in (NONE, VECTOR, PINNED)


def _generated(
    engine: Engine, question: Question, text: str, state: State | None, key: StateKey
) -> tuple[str, tuple[int, ...]]:
    limit = min(TOKENS, 2 * len(engine.rendering.text(question.answer)) + SPARE)
    found = engine.generate(
        prompt_of(engine, question, text),
        state,
        None if state is None else key,
        sampling=Sampling(max_tokens=limit),
    ).result()
    return found.text, found.ids


def _recalled(
    engine: Engine, question: Question, text: str, state: State | None, key: StateKey
) -> tuple[str, tuple[int, ...]]:
    """The answer that recall gives; empty if it is withheld."""
    folded = None if state is None else Folded(state, key[1], key[0])
    answer = run(ask(engine, question.messages[-1]["content"], text, folded))
    return (answer.text, answer.generation.ids) if answer.text is not None else ("", ())
