"""How far confidences can be trusted: whether they separate what was said from what was not, and are calibrated."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from deltamem_agents.bench.recall.facts import Asked

BINS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Separation:
    """How well confidence separates stated facts from others.

    Args:
        area: Area under the ROC curve: 1 separates all, 0.5 is chance.
    """

    facts: int
    mode: str
    area: float
    stated: int
    unstated: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Bin:
    """Answers of similar confidence: their mean confidence, the share that was right, and their number."""

    mode: str
    confidence: float
    right: float
    answers: int


def separations(asked: Sequence[Asked]) -> Iterator[Separation]:
    """The separation for each mode with confidences, at each number of facts."""
    for facts, mode in dict.fromkeys((each.facts, each.mode) for each in asked):
        of = [each for each in asked if (each.facts, each.mode) == (facts, mode)]
        stated = np.array([each.confidence for each in of if each.kind != "unknown"])
        unstated = np.array([each.confidence for each in of if each.kind == "unknown"])
        if len(stated) and len(unstated) and not np.isnan(stated).any():
            yield Separation(
                facts=facts,
                mode=mode,
                area=area_under_curve(stated, unstated),
                stated=len(stated),
                unstated=len(unstated),
            )


def area_under_curve(higher: np.ndarray, lower: np.ndarray) -> float:
    """The share of pairs in which the one that should be higher is higher; ties count half."""
    return float((np.greater.outer(higher, lower) + 0.5 * np.equal.outer(higher, lower)).mean())


def bins(asked: Sequence[Asked], mode: str) -> list[Bin]:
    """A mode's answers by confidence, in `BINS` bins of equal width; "I don't know" counts as no answer."""
    said = [each for each in asked if each.mode == mode and each.said is not None]
    places = [min(int(each.confidence * BINS), BINS - 1) for each in said]
    found: list[Bin] = []
    for place in sorted(set(places)):
        of = [each for each, at in zip(said, places, strict=True) if at == place]
        mean = float(np.mean([each.confidence for each in of]))
        found.append(
            Bin(mode=mode, confidence=mean, right=float(np.mean([each.right for each in of])), answers=len(of))
        )
    return found


def calibration_error(found: Sequence[Bin]) -> float:
    """Expected calibration error: mean of |confidence − share right| over all answers; NaN if there are none."""
    total = sum(each.answers for each in found)
    if not total:
        return float("nan")
    return sum(each.answers * abs(each.confidence - each.right) for each in found) / total
