"""What a gain in probability is worth: the confidences of a trained model fitted to how often its answers are right.

Conversations of one to many facts are written to agents of a DeltaMem in memory and asked about, also what they do not
say; the answers that the state remembers, and those read in retrieved records, are told right or wrong. Facts are held
out, as training's would flatter the model; figures are to be measured on conversations of another seed.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deltamem_agents.core import Calibration, Logistic, state_norm
from deltamem_agents.memory import AgentMemory, DeltaMem
from deltamem_agents.memory.answering import draw
from deltamem_agents.recall import recall_text, within_budget
from deltamem_agents.training.conversations import Conversation, Shape, converse

SIZES: Mapping[int, int] = {1: 40, 2: 30, 4: 20, 8: 16, 16: 8, 32: 4, 64: 2, 128: 2}  # facts: conversations
ASKED = 24  # questions a conversation about what was said, and as many about what was not
RIDGE = 1e-3


@dataclass(frozen=True, slots=True)
class Judged:
    """An answer: its gain, the state's norm (0 for records), and whether it was right."""

    gain: float
    norm: float
    right: bool


def calibrate(folder: str | Path, *, sizes: Mapping[int, int] = SIZES, seed: int = 2_000_003) -> Calibration:
    """Fit both regressions for a folder with a backbone and its adapter."""
    remembered: list[Judged] = []
    read: list[Judged] = []
    rng = random.Random(seed)
    with DeltaMem.open(str(folder), url="sqlite://", embedder=False) as mem:
        for facts, conversations in sizes.items():
            for number in range(conversations):
                shape = Shape(facts=facts, filler=4 * facts, unknown=min(facts, ASKED), sessions=1, held_out=True)
                agent = mem.agent(f"{facts} {number}")
                for of_state, judged in judge(mem, agent, converse(rng, shape), rng):
                    (remembered if of_state else read).append(judged)
    return Calibration(state=fit(remembered), records=fit(read))


def judge(
    mem: DeltaMem, agent: AgentMemory, conversation: Conversation, rng: random.Random
) -> Iterator[tuple[bool, Judged]]:
    """Tell an agent a conversation and ask: whether an answer is the state's, and what it is worth."""
    for number, messages in enumerate(conversation.sessions):
        agent.write([{"role": role, "content": text} for role, text in messages], f"s{number}", wait=False)
    folded = mem.folder.current(agent.id)
    assert folded is not None
    norm = state_norm(folded.state)
    said = [question for question in conversation.questions if question.kind != "unknown"]
    unsaid = [question for question in conversation.questions if question.kind == "unknown"]
    for question in (*rng.sample(said, min(ASKED, len(said))), *unsaid):
        found = within_budget(mem.retriever.search(agent.id, question.text, 10), 128, mem.engine.count)
        candidates = draw(mem.engine, question.text, recall_text(found), folded)
        for each in candidates:
            if each.says_something:
                of_state = each is candidates[-1]
                right = each.generation.text == question.answer
                gain = each.by_state if of_state else each.by_records
                yield of_state, Judged(gain, norm if of_state else 0.0, right)


def fit(judged: list[Judged]) -> Logistic:
    """The regression of greatest likelihood, by Newton's method; a norm that is the same everywhere has no weight."""
    gains = np.clip([each.gain for each in judged], 1e-3, 1 - 1e-3)
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
