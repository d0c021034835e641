"""Measures an adapter on held-out episodes, next to two controls: the zero state, and another episode's state."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, takewhile
from typing import Any

import torch
from torch import Tensor

from deltamem_agents.core import State
from deltamem_agents.engine import Rendering
from deltamem_agents.training.adapters.collation import EpisodeBatch, EpisodeCollator
from deltamem_agents.training.adapters.episode_loss import EpisodeLoss
from deltamem_agents.training.adapters.rendered import RenderedEpisode, RenderedQuestion

TOKENS = 96  # limit on a generated reply
ARMS = ("state", "zero", "donor")  # the right state, the zero state, another episode's


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One figure of an evaluation.

    Args:
        kind: Kind of the questions.
        arm: Which state they read, one of `ARMS`.
        right: Share of questions whose greedy reply is right: the expected one, or one that the checker accepts.
        loss: Mean loss of a reply under the whole vocabulary.
        questions: Number of questions.
    """

    kind: str
    arm: str
    right: float
    loss: float
    questions: int


class HeldOut:
    """Held-out episodes, ready to be measured again and again.

    Args:
        size: Episodes in a batch; at least 2, as a donor's state comes from the same batch.
    """

    def __init__(
        self, episodes: Sequence[RenderedEpisode], collator: EpisodeCollator, rendering: Rendering, *, size: int
    ) -> None:
        self._rendering = rendering
        self._batches: list[tuple[EpisodeBatch, list[RenderedQuestion]]] = []
        size = max(2, size)
        starts = list(range(0, len(episodes), size))
        if len(starts) > 1 and len(episodes) - starts[-1] == 1:
            starts.pop()  # one alone joins the batch before
        for start, stop in pairwise([*starts, len(episodes)]):
            batch = episodes[start:stop]
            self._batches.append((collator(batch), [each for one in batch for each in one.questions]))

    def measure(self, module: EpisodeLoss) -> list[Measured]:
        """Measure all kinds in all arms."""
        right: dict[tuple[str, str], list[float]] = defaultdict(list)
        loss: dict[tuple[str, str], list[float]] = defaultdict(list)
        for batch, questions in self._batches:
            for arm, rights, losses in self._scored(module, batch, questions):
                for question, one, other in zip(questions, rights, losses, strict=True):
                    right[question.kind, arm].append(one)
                    loss[question.kind, arm].append(other)
        return [
            Measured(
                kind=kind,
                arm=arm,
                right=sum(found) / len(found),
                loss=sum(loss[kind, arm]) / len(found),
                questions=len(found),
            )
            for (kind, arm), found in sorted(right.items(), key=lambda each: (each[0][0], ARMS.index(each[0][1])))
        ]

    @torch.no_grad()
    def _scored(
        self, module: EpisodeLoss, batch: EpisodeBatch, questions: Sequence[RenderedQuestion]
    ) -> Iterator[tuple[str, list[bool], list[float]]]:
        batch = module.placed(batch)
        state, slots = module.fold(batch), batch["slots"]
        chosen = {"state": slots, "zero": torch.full_like(slots, -1), "donor": (slots + 1) % batch["episodes"]}
        for arm in ARMS:
            yield arm, *judged(module, self._rendering, batch, questions, state, chosen[arm])


@torch.no_grad()
def judged(
    module: EpisodeLoss,
    rendering: Rendering,
    batch: EpisodeBatch,
    questions: Sequence[RenderedQuestion],
    state: State,
    slots: Tensor,
    *,
    tokens: int | None = None,
) -> tuple[list[bool], list[float]]:
    """Whether the greedy reply to each question is right, and the loss of the expected one.

    Args:
        questions: Those of the batch, in its order.
        state: A pool of states.
        slots: [Q] the row of the pool that each question reads, −1 for the zero state.
        tokens: Limit on a reply that a checker judges; by default twice the longest expected one, `TOKENS` at most.
    """
    scored = module.score(batch, state, slots)
    right: list[bool] = scored.right.tolist()
    open_ones = [row for row, each in enumerate(questions) if each.asked.checker and not right[row]]
    if open_ones:  # another reply than the expected one may be right too
        prompts = [questions[row].prompt for row in open_ones]
        limit = tokens or min(TOKENS, 2 * max(len(questions[row].reply) for row in open_ones))
        said = greedy_replies(module, rendering, prompts, state, slots[open_ones], tokens=limit)
        for row, reply in zip(open_ones, said, strict=True):
            right[row] = questions[row].asked.accepts(reply)
    return right, scored.loss.tolist()


def greedy_replies(
    module: EpisodeLoss,
    rendering: Rendering,
    prompts: Sequence[Sequence[int]],
    state: State,
    slots: Tensor,
    *,
    tokens: int,
) -> list[str]:
    """What the backbone says to each prompt under a row of the state, greedily.

    Args:
        slots: Row of the state that each prompt reads, −1 for the zero state.
        tokens: Maximum number of tokens in a reply.
    """
    model: Any = module.backbone
    longest = max(map(len, prompts))
    ids = torch.zeros(len(prompts), longest, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = torch.tensor(prompt)
        mask[row, longest - len(prompt) :] = 1
    own = model.generation_config.eos_token_id
    ends = {*(own if isinstance(own, list) else [own] if own is not None else []), *rendering.end()}
    with module.attached.bind(state, slots, module.adapter.config.answer_writes, eos_token_id=sorted(ends)):
        given = {"input_ids": ids.to(module.attached.device), "attention_mask": mask.to(module.attached.device)}
        found = model.generate(
            **given, max_new_tokens=tokens, do_sample=False, eos_token_id=sorted(ends) or None, pad_token_id=0
        )
    said = found[:, longest:].tolist()
    return [_text(rendering, reply, ends) for reply in said]


def _text(rendering: Rendering, reply: list[int], ends: set[int]) -> str:
    kept = list(takewhile(lambda token: token not in ends, reply))
    return str(rendering.tokenizer.decode(kept, skip_special_tokens=True)).strip()


def summary(measured: Sequence[Measured]) -> dict[str, float]:
    """What a trainer logs: each kind's right answers in each arm, and the mean over kinds with the right state."""
    figures = {f"{each.kind}_{each.arm}": each.right for each in measured}
    own = [each for each in measured if each.arm == "state"]
    figures["right"] = sum(each.right for each in own) / len(own)
    figures["loss"] = sum(each.loss * each.questions for each in own) / sum(each.questions for each in own)
    return figures
