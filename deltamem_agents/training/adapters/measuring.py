"""Measures an adapter on held-out episodes, next to two controls: the zero state, and another episode's state."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from deltamem_agents.training.adapters.collation import EpisodeBatch, EpisodeCollator, in_order
from deltamem_agents.training.adapters.episode_loss import EpisodeLoss
from deltamem_agents.training.adapters.rendered import RenderedEpisode

ARMS = ("state", "zero", "donor")  # the right state, the zero state, another episode's


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One figure of an evaluation.

    Args:
        kind: Kind of the questions.
        arm: Which state they read, one of `ARMS`.
        right: Share of replies that greedy decoding gives exactly.
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

    def __init__(self, episodes: Sequence[RenderedEpisode], collator: EpisodeCollator, *, size: int) -> None:
        self._batches: list[tuple[EpisodeBatch, list[str]]] = []
        size = max(2, size)
        starts = list(range(0, len(episodes), size))
        if len(starts) > 1 and len(episodes) - starts[-1] == 1:
            starts.pop()  # one alone joins the batch before
        for start, stop in zip(starts, [*starts[1:], len(episodes)], strict=True):
            batch = in_order(episodes[start:stop])
            self._batches.append((collator(batch), [each.kind for one in batch for each in one.questions]))

    def measure(self, module: EpisodeLoss) -> list[Measured]:
        """Measure all kinds in all arms."""
        right: dict[tuple[str, str], list[float]] = defaultdict(list)
        loss: dict[tuple[str, str], list[float]] = defaultdict(list)
        for batch, kinds in self._batches:
            for arm, rights, losses in self._scored(module, batch):
                for kind, one, other in zip(kinds, rights, losses, strict=True):
                    right[kind, arm].append(one)
                    loss[kind, arm].append(other)
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

    @staticmethod
    @torch.no_grad()
    def _scored(module: EpisodeLoss, batch: EpisodeBatch) -> Iterator[tuple[str, list[float], list[float]]]:
        batch = module.placed(batch)
        state, slots = module.fold(batch), batch["slots"]
        chosen = {"state": slots, "zero": torch.full_like(slots, -1), "donor": (slots + 1) % batch["episodes"]}
        for arm in ARMS:
            scored = module.score(batch, state, chosen[arm])
            yield arm, scored.right.float().tolist(), scored.loss.tolist()


def summary(measured: Sequence[Measured]) -> dict[str, float]:
    """What a trainer logs: each kind's right answers in each arm, and the mean over kinds with the right state."""
    figures = {f"{each.kind}_{each.arm}": each.right for each in measured}
    own = [each for each in measured if each.arm == "state"]
    figures["right"] = sum(each.right for each in own) / len(own)
    figures["loss"] = sum(each.loss * each.questions for each in own) / sum(each.questions for each in own)
    return figures
