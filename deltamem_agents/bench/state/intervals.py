"""Shares over episodes and differences of them, each with a 95 % bootstrap interval over episodes. Needs SciPy.

An episode is drawn with all its questions, as these share a state and are not independent. Intervals are those of the
percentile bootstrap; a share of exactly 0 or 1 has an interval of no width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deltamem_agents.errors import MissingExtraError

LEVEL, RESAMPLES = 0.95, 9_999
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure with the ends of its interval."""

    value: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether all of the interval is on one side of zero."""
        return self.low > 0 or self.high < 0

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def share(sums: Sequence[float], weights: Sequence[float], *, seed: int = 0) -> Interval:
    """The sum of ``sums`` over that of ``weights``, one pair an episode: right answers of questions, as an example.

    Episodes of weight 0 count for nothing.

    Raises:
        MissingExtraError: SciPy is not installed.
    """
    kept = [(a, b) for a, b in zip(sums, weights, strict=True) if b]
    return _interval(_ratio, [[a for a, _ in kept], [b for _, b in kept]], seed)


def difference(first: Sequence[float], second: Sequence[float], weights: Sequence[float], *, seed: int = 0) -> Interval:
    """The share of ``first`` less that of ``second``, of the same questions of the same episodes.

    Raises:
        MissingExtraError: SciPy is not installed.
    """
    apart = [a - b for a, b in zip(first, second, strict=True)]
    return share(apart, weights, seed=seed)


def import_scipy_stats() -> Any:
    """Import and return ``scipy.stats``.

    Raises:
        MissingExtraError: It is not installed.
    """
    try:
        from scipy import stats
    except ImportError as error:
        raise MissingExtraError("intervals need scipy; pip install 'deltamem-agents[bench]'") from error
    return stats


def _ratio(sums: Floats, weights: Floats, axis: int = -1) -> Floats:
    found: Floats = sums.sum(axis=axis) / weights.sum(axis=axis)
    return found


def _interval(statistic: Any, samples: Sequence[Sequence[float]], seed: int) -> Interval:
    arrays = [np.asarray(each, np.float64) for each in samples]
    if not len(arrays[0]):
        return Interval(float("nan"), float("nan"), float("nan"))
    value = float(statistic(*arrays))
    if len(arrays[0]) < 2:  # one episode says nothing of others
        return Interval(value, float("nan"), float("nan"))
    found = import_scipy_stats().bootstrap(
        arrays,
        statistic,
        n_resamples=RESAMPLES,
        confidence_level=LEVEL,
        method="percentile",
        paired=True,
        vectorized=True,
        rng=np.random.default_rng(seed),
    )
    ends = found.confidence_interval
    return Interval(value, float(ends.low), float(ends.high))
