"""The episodes of a run by number, so that an interrupted run goes on with the very next one.

Each number from 0 to the run's last episode has one sample, whatever came before it: which episode of a file (in an
order drawn anew for each pass), or which generated one, and which of its questions are asked.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache

from torch.utils.data import Dataset

from deltamem_agents.training.adapters.rendered import EpisodeRenderer, RenderedEpisode
from deltamem_agents.training.episodes import Episode

Source = Callable[[int], Episode]  # the episode with that number, from 0


class EpisodeSamples(Dataset[RenderedEpisode]):
    """Rendered episodes of a training run.

    Args:
        source: Gives each episode by its number.
        count: Number of episodes in the run.
        questions: Maximum number of questions per episode.
    """

    def __init__(self, source: Source, render: EpisodeRenderer, *, count: int, questions: int, seed: int) -> None:
        self._source = source
        self._render = render
        self._count = count
        self._questions = questions
        self._seed = seed

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> RenderedEpisode:
        if not 0 <= index < self._count:
            raise IndexError(index)
        rendered = self._render(self._source(index))
        if len(rendered.questions) <= self._questions:
            return rendered
        chosen = random.Random(f"{self._seed} {index}").sample(rendered.questions, self._questions)
        return replace(rendered, questions=chosen)


def repeated(episodes: Sequence[Episode], seed: int) -> Source:
    """A source that passes over a list of episodes again and again, each time in another order."""

    @lru_cache(maxsize=2)
    def order(number: int) -> list[int]:
        places = list(range(len(episodes)))
        random.Random(f"{seed} pass {number}").shuffle(places)
        return places

    return lambda index: episodes[order(index // len(episodes))[index % len(episodes)]]
