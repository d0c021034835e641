"""Several rankings into one. Knows nothing of records."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TypeVar

RRF_CONSTANT = 60  # of Cormack, Clarke and Büttcher, SIGIR 2009

Item = TypeVar("Item", bound=Hashable)


def reciprocal_rank(rankings: Sequence[Sequence[Item]], constant: int = RRF_CONSTANT) -> dict[Item, float]:
    """Scores of items that appear in any of the rankings (best first, no item twice in one): Σ 1 / (constant + rank).

    An item that a ranking lacks gets the rank behind its last: a short ranking is no reason to lose what another one
    puts first.
    """
    items = dict.fromkeys(item for ranking in rankings for item in ranking)
    scores: dict[Item, float] = dict.fromkeys(items, 0.0)
    for ranking in rankings:
        ranks = {item: rank for rank, item in enumerate(ranking, start=1)}
        for item in items:
            scores[item] += 1.0 / (constant + ranks.get(item, len(ranking) + 1))
    return scores
