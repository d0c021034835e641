"""Answer a query from memory, and find out which part of memory the answer came from.

Two answers are generated side by side: one from the records with the zero state, one from the state without the
records. Together in one prompt they would harm each other: a state that holds more than it can tell apart overrides
what the records say (with 256 facts, it answered 0.56 of them instead of 0.93; docs/benchmarks.md). Each answer is
then scored with and without each part, in one batched forward.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from deltamem_agents.engine.generation import Generation, Sampling
from deltamem_agents.engine.segments import StateKey, cut
from deltamem_agents.memory.async_methods import Steps, cancellable
from deltamem_agents.memory.folding import Folded, state_and_key
from deltamem_agents.memory.results import Source
from deltamem_agents.recall import Record, knows_nothing, says_every_word

if TYPE_CHECKING:
    from deltamem_agents.core import State
    from deltamem_agents.engine.engine import Engine


ANSWER_TOKENS = 32
BELIEVED = 0.5  # the least confidence with which an answer is given


@dataclass(frozen=True, slots=True)
class Candidate:
    """An answer, and by how much each part of memory raises its probability; 0 for a part that is absent.

    Args:
        quoted: Whether all its content words stand in the records, or in the question; true without records.
    """

    generation: Generation
    by_state: float = 0.0
    by_records: float = 0.0
    quoted: bool = True

    @property
    def says_something(self) -> bool:
        """Whether it is neither empty nor an "I don't know"."""
        return bool(self.generation.text.strip()) and not knows_nothing(self.generation.text)


@dataclass(frozen=True, slots=True)
class Answer:
    """A short answer, where it came from, and how sure memory is of it.

    Args:
        generation: What the backbone generated, whether memory supports it or not.
        confidence: The higher of the two parts' confidences; see `core.calibration`.
        prompt_tokens: Tokens of the longest prompt.
    """

    generation: Generation
    source: Source
    confidence: float
    prompt_tokens: int

    @property
    def text(self) -> str | None:
        """The answer; None if memory does not support what the backbone said."""
        return None if self.source == "neither" else self.generation.text


@dataclass(frozen=True, slots=True)
class _Part:
    """A prompt and a state, with its key, from which an answer is generated."""

    prompt: list[int]
    state: State | None = None
    key: StateKey | None = None


def ask(engine: Engine, query: str, records: str, folded: Folded | None, scratch: State | None = None) -> Steps[Answer]:
    """Answer a query from a state, from records, or from both.

    The answer from the records has priority: they hold the messages word for word, and the newest of them.

    Args:
        records: The text of the records; empty if there are none or they do not go into the prompt.
        folded: The state; None for the zero state.
        scratch: A state that the records were written into; None if they were not.

    Raises:
        ContextLengthError: Query and records do not fit the window.
        DeltaMemError: The engine failed; see `Engine.generate` and `Engine.score`.
    """
    confidence = _Confidences(engine, folded, scratch)
    consulted = bool(records) or scratch is not None
    judged: list[Answer] = []
    drawn = yield from draw(engine, query, records, folded, scratch)
    longest = max(each.generation.prompt_tokens for each in drawn)
    for each in drawn:
        by_records, by_state = confidence.of_records(each.by_records), confidence.of_state(each.by_state)
        if not each.quoted:  # records can raise the probability of words that they do not hold
            by_records *= engine.calibration.missed  # such an answer is right only where retrieval missed it
        if consulted and by_records < BELIEVED:
            by_state = engine.calibration.unread(by_state)
        source: Source = "neither"
        if each.says_something and by_records >= BELIEVED:
            source = "both" if by_state >= BELIEVED else "records"
        elif each.says_something and by_state >= BELIEVED:
            source = "state"
        judged.append(Answer(each.generation, source, max(by_records, by_state) * each.says_something, longest))
    believed = (each for each in judged if each.text is not None)
    return next(believed, max(judged, key=lambda each: each.confidence))


def draw(
    engine: Engine, query: str, records: str, folded: Folded | None, scratch: State | None = None
) -> Steps[list[Candidate]]:
    """The answer from the records, if there are any, then the answer from the state, if there is one.

    With neither, the one candidate is what the backbone says by itself.
    """
    nothing = _Part(engine.rendering.question(query))
    read = remembered = None
    if records or scratch is not None:
        read = _Part(engine.rendering.question(query, records) if records else nothing.prompt, scratch)
    if folded is not None:
        remembered = _Part(nothing.prompt, *state_and_key(folded))
    parts = [part for part in (read, remembered) if part is not None]
    with cancellable() as cancellation:
        begun = []
        for part in parts or [nothing]:
            sampling = _short(engine.window - len(part.prompt))
            begun.append(
                engine.generate(part.prompt, part.state, part.key, sampling=sampling, cancellation=cancellation)
            )
        drawn: list[Generation] = []
        for future in begun:
            drawn.append((yield future))
    if not parts:
        return [Candidate(each) for each in drawn]
    items = [(part.prompt, part.state) for part in (nothing, *parts)]
    spoken = dict.fromkeys(each.ids for each in drawn if each.ids)  # equal answers are scored once
    scored = {ids: engine.score(items, ids) for ids in spoken}
    likelihoods = {}
    for ids, scores in scored.items():
        likelihoods[ids] = [math.exp(score) for score in (yield scores)]
    found: list[Candidate] = []
    for each in drawn:
        unaided, *aided = likelihoods[each.ids] if each.ids else [0.0] * len(items)
        gains = {id(part): value - unaided for part, value in zip(parts, aided, strict=True)}
        quoted = not records or says_every_word((records, query), each.text)
        by_state, by_records = gains.get(id(remembered), 0.0), gains.get(id(read), 0.0)
        found.append(Candidate(each, by_state=by_state, by_records=by_records, quoted=quoted))
    return found


class _Confidences:
    """Converts gains to confidences by the adapter's calibration of each part of memory."""

    def __init__(self, engine: Engine, folded: Folded | None, scratch: State | None) -> None:
        self._calibration = engine.calibration
        self._norm = engine.norm(folded.state) if folded else 0.0
        self._scratch_norm = None if scratch is None else engine.norm(scratch)

    def of_state(self, gain: float) -> float:
        return self._calibration.state(gain, self._norm) if gain > 0 else 0.0

    def of_records(self, gain: float) -> float:
        if gain <= 0:
            return 0.0
        if self._scratch_norm is not None:
            return self._calibration.state(gain, self._scratch_norm)
        return self._calibration.records(gain)


def _short(room: int) -> Sampling:
    return Sampling(max_tokens=min(ANSWER_TOKENS, max(1, room)))


def preload(engine: Engine, state: State | None, records: Sequence[Record]) -> Steps[State]:
    """A copy of a state with records written into it, oldest first; the state itself does not change.

    Args:
        state: None is the zero state.

    Raises:
        DeltaMemError: The engine failed; see `Engine.fold`.
    """
    before = engine.zero_state() if state is None else state
    oldest_first = sorted(records, key=lambda record: (record.position, record.chunk))
    segments = list(cut(oldest_first, engine.rendering, engine.config.write_length))
    states = yield engine.fold(before, segments)
    return states[-1] if states else before
