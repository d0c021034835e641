"""Fits a trained adapter's confidences to held-out episodes: what a gain in probability is worth on this backbone."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from deltamem_agents.core import Adapter, Calibration
from deltamem_agents.memory import DeltaMem
from deltamem_agents.training.calibrate import Judged, fitted, judge
from deltamem_agents.training.episodes import Episode

LEAST = 100  # questions; a regression through fewer answers says little


@dataclass(frozen=True, slots=True)
class _Asked:
    text: str
    answer: str
    kind: str


@dataclass(frozen=True, slots=True)
class _Told:
    sessions: list[list[tuple[str, str]]]
    questions: list[_Asked]


def calibrated(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    adapter: Adapter,
    episodes: Iterable[Episode],
    *,
    seed: int,
) -> Calibration | None:
    """Write episodes to agents of a memory that is gone afterwards, ask them, and fit confidences to the answers.

    Only questions with one right answer and without messages before them are asked: those that a user could ask. None
    if there are fewer than `LEAST`, or nothing was ever stated.

    Raises:
        DeltaMemError: The memory cannot be opened; see `DeltaMem.open`.
    """
    told = [each for each in map(_told, episodes) if each.sessions and each.questions]
    if sum(len(each.questions) for each in told) < LEAST:
        return None
    judged: list[Judged] = []
    rng = random.Random(seed)
    with DeltaMem.open(model=model, tokenizer=tokenizer, adapter=adapter, url="sqlite://", embedder=False) as mem:
        for number, each in enumerate(told):
            judged += judge(mem, mem.agent(str(number)), each, rng)
    return fitted(judged) if any(each.stated for each in judged) else None


def _told(episode: Episode) -> _Told:
    return _Told(
        [[(message["role"], message["content"]) for message in session] for session in episode.sessions],
        [
            _Asked(each.messages[0]["content"], each.answer, each.kind)
            for each in episode.questions
            if len(each.messages) == 1 and each.checker is None and each.reference == "answer"
        ],
    )
