"""`Limits` of an engine, checks of numeric options from callers, and how a bad value appears in a message."""

from __future__ import annotations

import reprlib
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

from deltamem_agents.errors import ConfigError, kind_of

_BITS = 256  # longest integer shown in full; Python refuses to print very long ones

LONGEST = 1e9  # seconds; longer timeouts overflow a lock's
HOT_BYTES = 256 << 20  # default budget for keys and values of open segments
MOST = {"chunk": 1 << 30, "batch": 1 << 30, "rows": 1 << 16, "waiting": 1 << 24, "slots": 1 << 20}


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits on what runs at once.

    Args:
        chunk: Minimum tokens in one chunk of a fold, over all rows; more on a fast device, see `Pace`. Chunks of
            prompts have `PROMPT_CHUNKS` times as many.
        batch: Tokens in one batch of prompts or folds, with padding. A longer request runs alone.
        rows: Rows that are generated together.
        waiting: Requests in the queue.
        slots: States on the device.

    Raises:
        ConfigError: A limit is not a whole number, is below 1, or above `MOST`.
    """

    chunk: int
    batch: int
    rows: int = 64
    waiting: int = 4096
    slots: int = 256

    def __post_init__(self) -> None:
        for name, most in MOST.items():
            object.__setattr__(self, name, whole(name, getattr(self, name), 1, most))


def whole(name: str, value: Any, low: int, high: int) -> int:
    """Check an integer within a range; NumPy integers are accepted.

    Raises:
        ConfigError: It is not an integer, or is out of range.
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or not low <= int(value) <= high:
        raise ConfigError(f"{name} is {shown(value)}; give a whole number from {low} to {high}")
    return int(value)


def real(name: str, value: Any, low: float, high: float) -> float:
    """Check a finite number within a range; NumPy numbers are accepted.

    Raises:
        ConfigError: It is not a number, or is out of range.
    """
    if isinstance(value, bool) or not isinstance(value, Real) or not bool(low <= value <= high):  # type: ignore[operator]
        raise ConfigError(f"{name} is {shown(value)}; give a number from {low:g} to {high:g}")
    return float(value)


def deadline_seconds(timeout: Any) -> float | None:
    """Check a timeout in seconds; None for no limit. A negative one has already passed.

    Raises:
        ConfigError: It is not a number.
    """
    if timeout is None:
        return None
    if isinstance(timeout, bool) or not isinstance(timeout, Real) or timeout != timeout:
        raise ConfigError(f"timeout is {shown(timeout)}; give a number of seconds, or None")
    clipped: Any = sorted((-LONGEST, timeout, LONGEST))[1]  # a huge integer does not fit a float
    return float(clipped)


def shown(value: Any) -> str:
    """A short representation of any value for a message."""
    if isinstance(value, int) and value.bit_length() > _BITS:
        return f"an integer of {value.bit_length()} bits"
    try:
        return reprlib.repr(value)
    except Exception:  # raised by its own __repr__
        return kind_of(value)


CPU_LIMITS = Limits(chunk=64, batch=4096)
GPU_LIMITS = Limits(chunk=2048, batch=65_536)
