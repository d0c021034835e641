"""Which stored states are kept. A state saves folding; none is needed for its own sake, as the journal is the truth."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta
from typing import Literal

from deltamem_agents.errors import ConfigError, shown

Retention = Literal["thin", "all"] | int  # all of the last day and then one a day; all; the newest n

DAY = timedelta(days=1)


def check_retention(value: object) -> Retention:
    """``value``, if it is a retention.

    Raises:
        ConfigError: It is not.
    """
    if isinstance(value, str) and value in ("thin", "all"):
        return "thin" if value == "thin" else "all"
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return value
    raise ConfigError(f"retention is {shown(value)}; give 'thin', 'all', or how many states to keep, 1 or more")


def surplus(
    stored: Sequence[tuple[int, datetime]], retention: Retention, keep: Collection[int], now: datetime
) -> list[int]:
    """Positions whose states go.

    Args:
        stored: Positions and times of the states of one agent and fingerprint, newest position first. The newest stays
            in any case.
        keep: Positions that stay.
    """
    if retention == "all":
        return []
    if retention == "thin":
        kept, days = set[int](), set[object]()
        for position, at in stored:
            day = at.astimezone(UTC).date()
            # A day's newest; those from the future too, which a clock that was set back leaves behind.
            if now - at < DAY or day not in days:
                kept.add(position)
                days.add(day)
    else:
        kept = {position for position, _ in stored[:retention]}
    kept |= {*keep, *(position for position, _ in stored[:1])}
    return [position for position, _ in stored if position not in kept]
