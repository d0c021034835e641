"""Numbers that callers give as options: what they may be, and what is said of those that they may not."""

from __future__ import annotations

import reprlib
from numbers import Integral, Real
from typing import Any

from deltamem_agents.errors import ConfigError, kind_of

_BITS = 256  # of an integer that is shown in full; Python refuses to print very long ones


LONGEST = 1e9  # seconds; longer ones overflow a lock's timeout


def whole(name: str, value: Any, low: int, high: int) -> int:
    """An integer within a range; NumPy's are taken too.

    Raises:
        ConfigError: It is something else, or out of range.
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or not low <= int(value) <= high:
        raise ConfigError(f"{name} is {shown(value)}; give a whole number from {low} to {high}")
    return int(value)


def real(name: str, value: Any, low: float, high: float) -> float:
    """A finite number within a range; NumPy's are taken too.

    Raises:
        ConfigError: It is something else, or out of range.
    """
    if isinstance(value, bool) or not isinstance(value, Real) or not bool(low <= value <= high):  # type: ignore[operator]
        raise ConfigError(f"{name} is {shown(value)}; give a number from {low:g} to {high:g}")
    return float(value)


def deadline_seconds(timeout: Any) -> float | None:
    """A timeout in seconds; None for none. A negative one has passed already.

    Raises:
        ConfigError: It is not a number.
    """
    if timeout is None:
        return None
    if isinstance(timeout, bool) or not isinstance(timeout, Real) or timeout != timeout:
        raise ConfigError(f"timeout is {shown(timeout)}; give a number of seconds, or None")
    clipped: Any = sorted((-LONGEST, timeout, LONGEST))[1]  # a huge integer cannot become a float
    return float(clipped)


def shown(value: Any) -> str:
    """A value for a message, short whatever it is."""
    if isinstance(value, int) and value.bit_length() > _BITS:
        return f"an integer of {value.bit_length()} bits"
    try:
        return reprlib.repr(value)
    except Exception:  # of its own __repr__
        return kind_of(value)
