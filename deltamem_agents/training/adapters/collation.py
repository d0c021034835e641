"""Rendered episodes as the padded tensors of one batch. Knows nothing about models.

Padding is on the right: in a causal model it changes nothing before it, and positions count from a row's first token.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NotRequired, TypedDict

import torch
from torch import Tensor

from deltamem_agents.core.config import WriteUnit
from deltamem_agents.engine import Segment
from deltamem_agents.training.adapters.rendered import RenderedEpisode


class Writes(TypedDict):
    """The next segment of each episode that has one left: rows of the first W episodes, at most T tokens.

    Keys:
        ids: [W, T] int64.
        mask: [W, T] int64, 1 for a real token.
        message_ids, sentence_ids: [W, T] int64, span of each token, −1 for none; absent for token writes.
    """

    ids: Tensor
    mask: Tensor
    message_ids: NotRequired[Tensor]
    sentence_ids: NotRequired[Tensor]


class EpisodeBatch(TypedDict):
    """B episodes, those with most segments first, with Q questions and N reply tokens.

    Keys:
        writes: Batches of segments, to be folded in this order.
        ids: [Q, T] int64, prompts with their replies.
        slots: [Q] int64, the episode of each question.
        rows: [N] int64, the question of each reply token.
        places: [N] int64, the column that predicts each reply token: the one before it.
        targets: [N] int64, the reply tokens.
        weights: [N] float32, 1 / (Q · tokens in the reply): each question counts once, however long its reply.
        unchanged: [N] bool, whether the bare backbone's distribution is the target.
        episodes: B.
    """

    writes: list[Writes]
    ids: Tensor
    slots: Tensor
    rows: Tensor
    places: Tensor
    targets: Tensor
    weights: Tensor
    unchanged: Tensor
    episodes: int


class EpisodeCollator:
    """Makes a batch of rendered episodes.

    Args:
        pad: Token id of padding; any will do.
        write: What the adapter averages into one write.
    """

    def __init__(self, pad: int, write: WriteUnit) -> None:
        self._pad = pad
        self._spans = write != "token"

    def __call__(self, episodes: Sequence[RenderedEpisode]) -> EpisodeBatch:
        """Pad episodes, which are put in order of their number of segments."""
        ordered = in_order(episodes)
        asked = [(slot, question) for slot, each in enumerate(ordered) for question in each.questions]
        replies = [len(question.reply) for _, question in asked]
        return EpisodeBatch(
            writes=self._writes(ordered),
            ids=_padded([[*question.prompt, *question.reply] for _, question in asked], self._pad),
            slots=torch.tensor([slot for slot, _ in asked]),
            rows=torch.tensor([row for row, length in enumerate(replies) for _ in range(length)]),
            places=torch.tensor(
                [len(each.prompt) - 1 + index for _, each in asked for index in range(len(each.reply))]
            ),
            targets=torch.tensor([token for _, question in asked for token in question.reply]),
            weights=torch.tensor([1 / (len(asked) * length) for length in replies for _ in range(length)]),
            unchanged=torch.tensor([question.unchanged for _, question in asked for _ in question.reply]),
            episodes=len(ordered),
        )

    def _writes(self, ordered: Sequence[RenderedEpisode]) -> list[Writes]:
        depth = max((len(each.segments) for each in ordered), default=0)
        return [self._write([e.segments[index] for e in ordered if index < len(e.segments)]) for index in range(depth)]

    def _write(self, segments: Sequence[Segment]) -> Writes:
        written = Writes(
            ids=_padded([each.ids for each in segments], self._pad),
            mask=_padded([[1] * len(each.ids) for each in segments], 0),
        )
        if self._spans:
            written["message_ids"] = _padded([each.messages for each in segments], -1)
            written["sentence_ids"] = _padded([each.sentences for each in segments], -1)
        return written


def in_order(episodes: Sequence[RenderedEpisode]) -> list[RenderedEpisode]:
    """Episodes in the order of a batch: those with most segments first."""
    return sorted(episodes, key=lambda each: -len(each.segments))


def _padded(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    """Rows of int64 [N, T], padded on the right."""
    made = torch.full((len(rows), max(map(len, rows))), value)
    for index, row in enumerate(rows):
        made[index, : len(row)] = torch.tensor(row)
    return made
