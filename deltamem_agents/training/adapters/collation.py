"""Rendered episodes as the padded tensors of one batch. Knows nothing about models.

Padding is on the right: in a causal model it changes nothing before it, and positions count from a row's first token.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NotRequired, TypedDict, TypeVar

import torch
from torch import Tensor

from deltamem_agents.core.config import WriteUnit
from deltamem_agents.engine import Segment
from deltamem_agents.training.adapters.rendered import RenderedEpisode, RenderedQuestion

FORWARD = 128  # of a few cores; of a GPU it is more, but its batches are larger, too

T = TypeVar("T")


class Writes(TypedDict):
    """The next segments of W episodes of similar length, at most T tokens.

    Keys:
        slots: [W] int64, the episode of each row.
        ids: [W, T] int64.
        mask: [W, T] int64, 1 for a real token.
        message_ids, sentence_ids: [W, T] int64, span of each token, −1 for none; absent for token writes.
    """

    slots: Tensor
    ids: Tensor
    mask: Tensor
    message_ids: NotRequired[Tensor]
    sentence_ids: NotRequired[Tensor]


class Prompts(TypedDict):
    """P questions of similar length with their replies, n tokens of reply in all.

    Keys:
        questions: [P] int64, which of the batch's questions each row is.
        ids: [P, T] int64, prompts with their replies.
        rows: [n] int64, the row of each reply token.
        places: [n] int64, the column that predicts each reply token: the one before it.
    """

    questions: Tensor
    ids: Tensor
    rows: Tensor
    places: Tensor


class EpisodeBatch(TypedDict):
    """B episodes with Q questions and N reply tokens.

    Keys:
        writes: Batches of segments, to be folded in this order.
        prompts: Batches of questions.
        slots: [Q] int64, the episode of each question.
        asked: [N] int64, the question of each reply token, in the order of ``prompts``; so the next three.
        targets: [N] int64, the reply tokens.
        weights: [N] float32, 1 / (Q · tokens in the reply): each question counts once, however long its reply.
        unchanged: [N] bool, whether the bare backbone's distribution is the target.
        episodes: B.
    """

    writes: list[Writes]
    prompts: list[Prompts]
    slots: Tensor
    asked: Tensor
    targets: Tensor
    weights: Tensor
    unchanged: Tensor
    episodes: int


class EpisodeCollator:
    """Makes a batch of rendered episodes. Rows of similar length are padded together.

    Args:
        pad: Token id of padding; any will do.
        write: What the adapter averages into one write.
        forward: How many tokens cost as much as one more forward pass.
    """

    def __init__(self, pad: int, write: WriteUnit, *, forward: int = FORWARD) -> None:
        self._pad = pad
        self._forward = forward
        self._spans = write != "token"

    def __call__(self, episodes: Sequence[RenderedEpisode]) -> EpisodeBatch:
        """Pad episodes and their questions."""
        asked = [(slot, question) for slot, each in enumerate(episodes) for question in each.questions]
        numbered = list(enumerate(question for _, question in asked))
        groups = similar(numbered, lambda each: _length(each[1]), self._forward)
        told = [(number, question, token) for group in groups for number, question in group for token in question.reply]
        return EpisodeBatch(
            writes=self._writes(episodes),
            prompts=[self._prompts(group) for group in groups],
            slots=torch.tensor([slot for slot, _ in asked]),
            asked=torch.tensor([number for number, _, _ in told]),
            targets=torch.tensor([token for _, _, token in told]),
            weights=torch.tensor([1 / (len(asked) * len(question.reply)) for _, question, _ in told]),
            unchanged=torch.tensor([question.unchanged for _, question, _ in told]),
            episodes=len(episodes),
        )

    def _prompts(self, group: Sequence[tuple[int, RenderedQuestion]]) -> Prompts:
        questions = [question for _, question in group]
        return Prompts(
            questions=torch.tensor([number for number, _ in group]),
            ids=_padded([[*each.prompt, *each.reply] for each in questions], self._pad),
            rows=torch.tensor([row for row, each in enumerate(questions) for _ in each.reply]),
            places=torch.tensor([place for each in questions for place in _places(each)]),
        )

    def _writes(self, episodes: Sequence[RenderedEpisode]) -> list[Writes]:
        made: list[Writes] = []
        for depth in range(max((len(each.segments) for each in episodes), default=0)):
            due = [(slot, each.segments[depth]) for slot, each in enumerate(episodes) if depth < len(each.segments)]
            made.extend(self._write(group) for group in similar(due, lambda each: len(each[1].ids), self._forward))
        return made

    def _write(self, group: Sequence[tuple[int, Segment]]) -> Writes:
        segments = [segment for _, segment in group]
        written = Writes(
            slots=torch.tensor([slot for slot, _ in group]),
            ids=_padded([each.ids for each in segments], self._pad),
            mask=_padded([[1] * len(each.ids) for each in segments], 0),
        )
        if self._spans:
            written["message_ids"] = _padded([each.messages for each in segments], -1)
            written["sentence_ids"] = _padded([each.sentences for each in segments], -1)
        return written


def similar(rows: Sequence[T], length: Callable[[T], int], forward: int) -> list[list[T]]:
    """Rows in groups of similar length, longest first: of all groups, those with the least padding and the fewest.

    A group costs its padded tokens, and ``forward`` more.
    """
    ordered = sorted(rows, key=length, reverse=True)
    best: list[tuple[int, int]] = [(0, 0)]  # by number of rows: least cost, and where its last group begins
    for stop in range(1, len(ordered) + 1):
        best.append(
            min((best[start][0] + (stop - start) * length(ordered[start]) + forward, start) for start in range(stop))
        )
    groups: list[list[T]] = []
    stop = len(ordered)
    while stop:
        start = best[stop][1]
        groups.append(ordered[start:stop])
        stop = start
    return groups[::-1]


def _places(question: RenderedQuestion) -> range:
    first = len(question.prompt) - 1
    return range(first, first + len(question.reply))


def _length(question: RenderedQuestion) -> int:
    return len(question.prompt) + len(question.reply)


def _padded(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    """Rows of int64 [N, T], padded on the right."""
    made = torch.full((len(rows), max(map(len, rows))), value)
    for index, row in enumerate(rows):
        made[index, : len(row)] = torch.tensor(row)
    return made
