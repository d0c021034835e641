"""Several signals about an agent's records into one score each. Arrays only: knows no record, no database, no model.

    score = WORDS (z(words) + z(words around)) + z(meaning) + AROUND z(meaning around)
            + NAMED [speaker named in the query] + OWN [query and record speak of their speaker]
    fused = score + SESSION z(best score of the session) + ANSWERING max(score of the question before, 0)

z subtracts the mean over the agent's records and divides by their standard deviation, so that signals of different
units add up. What stands around a record is often what it is about: "Three times a week" answers the message before
it. The weights are the same for every agent.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

REACH = 2  # records on either side, of the same session
WORDS = 0.35
AROUND = 0.5
NAMED = 2.0
OWN = 2.0
SESSION = 0.5
ANSWERING = 0.3


@dataclass(frozen=True, slots=True)
class Sessions:
    """How N records follow one another.

    Args:
        order: [N] records by session, and in the journal's order within one.
        of: [N] number of the session of each place in ``order``.
    """

    order: NDArray[np.int64]
    of: NDArray[np.int64]

    @classmethod
    def from_numbers(cls, sessions: NDArray[np.int64]) -> Sessions:
        """From each record's session, records being in the journal's order."""
        order = np.argsort(sessions, kind="stable")
        return cls(order, sessions[order])

    def around(self, values: Floats, reach: int = REACH) -> Floats:
        """Sums over each record and its neighbours; ``values`` is [N] or [N, D]."""
        sorted_values = values[self.order]
        sums = sorted_values.copy()
        for distance in range(1, min(reach, len(values) - 1) + 1):
            same = self.of[distance:] == self.of[:-distance]
            same = same.reshape(-1, *[1] * (values.ndim - 1))
            sums[distance:] += np.where(same, sorted_values[:-distance], 0)
            sums[:-distance] += np.where(same, sorted_values[distance:], 0)
        return self._back(sums)

    def before(self, values: Floats) -> Floats:
        """The value of the record before each, 0 where it is the session's first."""
        shifted = np.zeros_like(values)
        sorted_values = values[self.order]
        shifted[1:] = np.where(self.of[1:] == self.of[:-1], sorted_values[:-1], 0)
        return self._back(shifted)

    def best(self, values: Floats) -> Floats:
        """The greatest value of each record's session."""
        starts = np.flatnonzero(np.diff(self.of, prepend=-1))
        highest = np.maximum.reduceat(values[self.order], starts)
        return self._back(np.repeat(highest, np.diff([*starts, len(values)])))

    def _back(self, sorted_values: Floats) -> Floats:
        result = np.empty_like(sorted_values)
        result[self.order] = sorted_values
        return result


@dataclass(frozen=True, slots=True, kw_only=True)
class Signals:
    """What is known of N records and a query.

    Args:
        words: BM25 scores [N], 0 where no word is shared.
        meaning: Cosines [N] with the query; None without an embedder.
        around: Cosines [N] of the query with the mean of each record's neighbourhood.
        named: [N] whether the query names who said it, and nobody else who spoke.
        own: [N] whether record and query both speak of their speaker ("my dog").
        asks: [N] whether a record is a question.
    """

    words: Floats
    meaning: Floats | None
    around: Floats | None
    named: NDArray[np.bool_]
    own: NDArray[np.bool_]
    asks: NDArray[np.bool_]


def fuse(signals: Signals, sessions: Sessions, weights: Floats | None = None) -> Floats:
    """One score [N] a record, higher for better; comparable within one query and agent only.

    Args:
        weights: How many of the agent's records each [N] stands for; None where these are all there are.
    """
    z = partial(standardised, weights=weights)
    score = WORDS * (z(signals.words) + z(sessions.around(signals.words)))
    if signals.meaning is not None and signals.around is not None:
        score = score + z(signals.meaning) + AROUND * z(signals.around)
    score = (score + NAMED * signals.named + OWN * signals.own).astype(np.float32)
    asked = sessions.before(np.where(signals.asks, np.maximum(score, 0), 0))
    result: Floats = score + SESSION * z(sessions.best(score)) + ANSWERING * asked
    return result.astype(np.float32)


def standardised(values: Floats, weights: Floats | None = None) -> Floats:
    """With mean 0 and standard deviation 1, of as many as each stands for; zeros where all are the same."""
    if weights is None:
        mean, deviation = (values.mean(), values.std()) if len(values) else (0.0, 0.0)
    else:
        mean = np.average(values, weights=weights)
        deviation = np.sqrt(np.average((values - mean) ** 2, weights=weights))
    if deviation < 1e-9:
        return np.zeros_like(values)
    result: Floats = ((values - mean) / deviation).astype(values.dtype)
    return result
