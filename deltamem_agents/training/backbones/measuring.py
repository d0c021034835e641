"""Measures how well a backbone reads: the share of held-out questions whose greedy reply is exactly right, by kind."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from transformers import PreTrainedTokenizerFast, SmolLM3ForCausalLM

from deltamem_agents.training.adapters.phases import MEASURED, Curriculum
from deltamem_agents.training.backbones.config import BackboneTrainingConfig
from deltamem_agents.training.backbones.rows import Rows
from deltamem_agents.training.batches import Row
from deltamem_agents.training.episodes import draw_episode

SEED = 3_000_017
TOKENS = 8192  # in a forward


@dataclass(frozen=True, slots=True)
class Reading:
    """Share of the questions of one kind whose greedy reply is exactly the expected one."""

    kind: str
    right: float
    questions: int


@torch.inference_mode()
def measure_reading(
    model: SmolLM3ForCausalLM, tokenizer: PreTrainedTokenizerFast, config: BackboneTrainingConfig
) -> Iterator[Reading]:
    """Measure on held-out episodes, each question after what was told, or after its records."""
    rows = Rows(tokenizer)
    mixture = replace(Curriculum(config.mixture).measured, held_out=MEASURED)
    asked: list[tuple[str, Row]] = []
    for number in range(config.evaluation):
        episode = draw_episode(SEED, number, mixture)
        kinds = [_kind(question.kind) for question in episode.questions]
        asked += zip(kinds, rows.each_question(episode), strict=True)
    asked.sort(key=lambda each: len(each[1]))
    found: dict[str, list[bool]] = defaultdict(list)
    training = model.training
    model.eval()  # type: ignore[no-untyped-call]
    batch: list[tuple[str, Row]] = []
    for place, each in enumerate(asked, 1):
        batch.append(each)
        if place == len(asked) or (len(batch) + 1) * len(asked[place][1]) > TOKENS:
            for (kind, _), right in zip(batch, _right(model, rows, [row for _, row in batch]), strict=True):
                found[kind].append(right)
            batch = []
    model.train(training)
    for kind, rights in sorted(found.items()):
        yield Reading(kind, sum(rights) / len(rights), len(rights))


def _right(model: SmolLM3ForCausalLM, rows: Rows, batch: list[Row]) -> list[bool]:
    padded = rows.batch(batch)
    hidden = model.model(input_ids=padded.ids, use_cache=False).last_hidden_state[:, :-1]
    wanted = padded.weights[:, 1:] > 0
    hits = torch.ones_like(wanted)
    hits[wanted] = model.lm_head(hidden[wanted]).argmax(-1) == padded.ids[:, 1:][wanted]
    return [bool(each) for each in hits.all(1)]


def _kind(kind: str) -> str:
    """The kind of a question, without that of a rule."""
    if not kind.startswith("rule "):
        return kind
    return "rule read" if kind.endswith(" read") else "rule"
