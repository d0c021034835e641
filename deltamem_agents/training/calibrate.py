"""Calibrates gains in probability: fits a trained model's confidences to how often its answers are right.

Conversations of one to many facts are written to agents of a DeltaMem in memory, which are then asked about the facts
and about things that were never said. Answers from the state, and answers read in retrieved records, are judged right
or wrong. Facts are held out, as training facts would flatter the model; measure figures with another seed.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from deltamem_agents.core import Calibration, Logistic, state_norm
from deltamem_agents.core.calibration import LEAST
from deltamem_agents.engine import Sampling
from deltamem_agents.memory import AgentMemory, DeltaMem
from deltamem_agents.memory.answering import ANSWER_TOKENS, draw
from deltamem_agents.memory.async_methods import run
from deltamem_agents.memory.folding import state_and_key
from deltamem_agents.recall import current
from deltamem_agents.training.conversations import Shape, converse

SIZES: Mapping[int, int] = {1: 40, 2: 30, 4: 20, 8: 16, 16: 8, 32: 4, 64: 2, 128: 2}  # facts: conversations
ASKED = 24  # questions per conversation about what was said, and as many about what was not
RECORDS, BUDGET = 10, 128  # limits on the records and their tokens
RIDGE = 1e-3


@dataclass(frozen=True, slots=True)
class Gained:
    """An answer: its gain, the state's norm (0 for records), and whether it was right."""

    gain: float
    norm: float
    right: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A question with its answers, None if they say nothing, and whether state and records in one prompt answer it.

    Args:
        norm: Norm of the state.
        stated: Whether the answer was said at all.
        together: Whether the answer from one prompt with both state and records is right.
    """

    norm: float
    stated: bool
    remembered: Gained | None
    read: Gained | None
    together: bool


class Asked(Protocol):
    """A question with its answer; ``kind`` is "unknown" if that was never said."""

    @property
    def text(self) -> str:
        """The question."""

    @property
    def answer(self) -> str:
        """The one right answer."""

    @property
    def kind(self) -> str:
        """Kind of the answer."""


class Told(Protocol):
    """What an agent is told, and then asked."""

    @property
    def sessions(self) -> Sequence[Sequence[tuple[str, str]]]:
        """Roles and texts of each session's messages."""

    @property
    def questions(self) -> Sequence[Asked]:
        """The questions."""


def calibrate(folder: str | Path, *, sizes: Mapping[int, int] = SIZES, seed: int = 2_000_003) -> Calibration:
    """Fit both regressions for a folder with a backbone and its adapter.

    Raises:
        ConfigError, BackboneFileError, AdapterFileError: The folder cannot be loaded; see `DeltaMem.open`.
    """
    judged: list[Judged] = []
    rng = random.Random(seed)
    with DeltaMem.open(str(folder), url="sqlite://", embedder=False) as mem:
        for facts, conversations in sizes.items():
            for number in range(conversations):
                shape = Shape(facts=facts, filler=4 * facts, unknown=min(facts, ASKED), sessions=1, held_out=True)
                agent = mem.agent(f"{facts} {number}")
                judged += judge(mem, agent, converse(rng, shape), rng)
    return fitted(judged)


def fitted(judged: Sequence[Judged]) -> Calibration:
    """Fit both regressions to judged questions, of which at least one was about what was stated."""
    return Calibration(
        state=fit([each.remembered for each in judged if each.remembered]),
        records=fit([each.read for each in judged if each.read]),
        missed=missed([each for each in judged if each.stated]),
        full=fullness([each for each in judged if each.stated]),
    )


def tell(agent: AgentMemory, conversation: Told) -> None:
    """Write a conversation session by session; it is folded and indexed at the end."""
    for number, messages in enumerate(conversation.sessions, 1):
        last = number == len(conversation.sessions)
        agent.write([{"role": role, "content": text} for role, text in messages], f"s{number}", wait=last)


def judge(mem: DeltaMem, agent: AgentMemory, conversation: Told, rng: random.Random) -> Iterator[Judged]:
    """Write a conversation to an agent and ask about it."""
    tell(agent, conversation)
    folded = mem.runtime.folder.current(agent.id)
    assert folded is not None
    norm = state_norm(folded.state)
    said = [question for question in conversation.questions if question.kind != "unknown"]
    unsaid = [question for question in conversation.questions if question.kind == "unknown"]
    for question in (*rng.sample(said, min(ASKED, len(said))), *unsaid):
        found = agent.recall(question.text, mode="vector", k=RECORDS, budget=BUDGET, generate=False).records
        records = mem.backbone.form.text(current(found), "")
        prompt = mem.engine.rendering.question(question.text, records)
        together = mem.engine.generate(prompt, *state_and_key(folded), sampling=Sampling(max_tokens=ANSWER_TOKENS))
        candidates = run(draw(mem.engine, question.text, records, folded))
        right = [each.generation.text == question.answer for each in candidates]
        last = candidates[-1]
        first = candidates[0] if records else None
        yield Judged(
            norm=norm,
            stated=question.kind != "unknown",
            remembered=Gained(last.by_state, norm, right[-1]) if last.says_something else None,
            read=Gained(first.by_records, 0.0, right[0]) if first and first.says_something and first.quoted else None,
            together=together.result().text == question.answer,
        )


def missed(judged: Sequence[Judged]) -> float:
    """Share of statements not answered from records; Laplace's estimate, which is above 0."""
    found = sum(each.read is not None and each.read.right for each in judged)
    return round((len(judged) - found + 1) / (len(judged) + 2), 4)


def fullness(judged: Sequence[Judged]) -> float | None:
    """The norm up to which a prompt with records is better with the state; None if it is better for all norms."""
    by_norm = sorted(judged, key=lambda each: each.norm)
    lead = accumulate(each.together - (each.read is not None and each.read.right) for each in by_norm)
    gained = [0, *lead]  # right answers gained by using the state for the n lowest norms
    best = max(range(len(gained)), key=lambda count: (gained[count], count))
    while 0 < best < len(by_norm) and by_norm[best].norm == by_norm[best - 1].norm:
        best -= 1  # keeps a conversation on one side
    if best == len(by_norm):
        return None
    return round(by_norm[best - 1].norm if best else 0.0, 2)


def fit(judged: Sequence[Gained]) -> Logistic:
    """Fit the maximum-likelihood regression by Newton's method; a constant norm gets no weight."""
    if not judged:  # the model never answers
        return Logistic()
    gains = np.clip([each.gain for each in judged], LEAST, 1 - LEAST)
    norms = np.log1p([each.norm for each in judged])
    columns: list[NDArray[np.float64]] = [np.ones(len(judged)), np.log(gains / (1 - gains))]
    if np.ptp(norms) > 0:
        columns.append(norms)
    inputs = np.stack(columns, axis=1)
    right = np.array([each.right for each in judged], np.float64)
    weights = np.zeros(inputs.shape[1])
    for _ in range(50):
        expected = 1 / (1 + np.exp(-inputs @ weights))
        slope = inputs.T @ (right - expected) - RIDGE * weights
        curvature = (inputs * (expected * (1 - expected))[:, None]).T @ inputs + RIDGE * np.eye(len(weights))
        step = np.linalg.solve(curvature, slope)
        weights += step
        if np.abs(step).max() < 1e-9:
            break
    return Logistic(*(round(float(weight), 4) for weight in weights))
