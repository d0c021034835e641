"""Turns a gain in probability into a confidence: logistic regression, fitted to one adapter on one backbone.

    confidence = σ(bias + slope · logit(gain) + fullness · log(1 + ‖S‖))

The gain is P(answer | memory) − P(answer | nothing). ‖S‖ is the norm of all the state's matrices together, which grows
with stored facts and hardly with small talk: for the bundled model it is 33 after one fact, 48 after four and 98 after
128, and ten times as many messages of small talk change it by less than a tenth. The fuller a state, the smaller its
gains, right or wrong: with four facts 0.85 is a bad sign, with sixteen a good one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Self

from deltamem_agents.core.state import State
from deltamem_agents.errors import shown

MISSED = 0.1  # default if nothing was measured
LARGEST = 1e6  # limit on the size of any number
LEAST = 1e-3  # gains are clipped to stay this far from 0 and 1


@dataclass(frozen=True, slots=True)
class Logistic:
    """One regression; with the default values, the confidence equals the gain."""

    bias: float = 0.0
    slope: float = 1.0
    fullness: float = 0.0

    def __call__(self, gain: float, norm: float = 0.0) -> float:
        """A confidence in 0..1."""
        kept = min(max(gain, LEAST), 1 - LEAST)
        value = self.bias + self.slope * math.log(kept / (1 - kept)) + self.fullness * math.log1p(norm)
        return 1 / (1 + math.exp(-max(min(value, 30.0), -30.0)))


@dataclass(frozen=True, slots=True)
class Calibration:
    """Regressions for answers from the state and for answers read from records.

    Args:
        missed: Share of facts told that the retrieved records do not answer. If records exist but do not support what
            the state says, the odds of that answer are multiplied by this: most likely the fact was never told. The
            confidence in an answer that was read is multiplied by it too, if the records do not contain its words.
        full: ‖S‖ above which a state does more harm than good to a prompt that contains records; None for no bound. A
            state at its capacity overrides the context.
    """

    state: Logistic = field(default_factory=Logistic)
    records: Logistic = field(default_factory=Logistic)
    missed: float = MISSED
    full: float | None = None

    def unread(self, confidence: float) -> float:
        """The state's confidence in an answer that no retrieved record supports."""
        odds = self.missed * confidence / (1 - confidence)
        return odds / (1 + odds)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read the output of `as_dict`.

        Raises:
            ValueError: The data has another form, or a number is not finite or out of range.
        """
        if not isinstance(data, Mapping):
            raise ValueError(f"a calibration is {shown(data)}, not a mapping")
        parts = {name: _logistic(name, data.get(name)) for name in ("state", "records")}
        missed = _finite("missed", data.get("missed", MISSED))
        if not 0 < missed <= 1:
            raise ValueError(f"missed is {missed}; give a share above 0 and up to 1")
        full = data.get("full")
        return cls(**parts, missed=missed, full=None if full is None else _finite("full", full))

    def as_dict(self) -> dict[str, Any]:
        """The values, ready for JSON."""
        return asdict(self)


def _logistic(name: str, given: object) -> Logistic:
    names = [each.name for each in fields(Logistic)]
    if not isinstance(given, Mapping) or len(given) != len(names) or not all(each in given for each in names):
        raise ValueError(f"{name!r} is {shown(given)}; it needs the numbers {', '.join(names)}")
    return Logistic(**{key: _finite(f"{name}.{key}", value) for key, value in given.items()})


def _finite(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= LARGEST:
        raise ValueError(f"{name} is {shown(value)}, not a finite number of at most {LARGEST:g}")
    return float(value)


def state_norm(state: State) -> float:
    """Norm of all of a state's matrices together."""
    return math.sqrt(sum(float(matrix.double().square().sum()) for matrix in state.values()))
