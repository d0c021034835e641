"""What goes wrong after a write is durable: counted, told once in the log, and kept without any text of a message."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from deltamem_agents.errors import DeltaMemError, EmbedderError

Kind = Literal["folding", "embedding"]
KEPT = 10_000  # agents whose last attempt failed

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureStats:
    """Failures of one kind since the memory was opened.

    Args:
        count: Attempts that failed.
        agents: Agents whose last attempt failed.
        last: What the last failure was, without any text of a message; None where there was none.
        last_at: When that was.
    """

    count: int = 0
    agents: int = 0
    last: str | None = None
    last_at: datetime | None = None


class Failures:
    """Counts failures, and logs each that is new. Safe to share among threads."""

    def __init__(self) -> None:
        self._stats: dict[Kind, FailureStats] = {}
        self._failing: dict[Kind, OrderedDict[str, str]] = {"folding": OrderedDict(), "embedding": OrderedDict()}
        self._lock = threading.Lock()

    def failed(self, kind: Kind, agent: str, error: BaseException) -> str:
        """Note that an attempt failed; what is told of the error.

        It is logged where no other agent's last attempt failed in the same way, so that a service that is away for an
        hour gives one line.
        """
        told = described(error)
        with self._lock:
            failing = self._failing[kind]
            new = told not in failing.values()
            failing[agent] = told
            failing.move_to_end(agent)
            if len(failing) > KEPT:
                failing.popitem(last=False)
            count = self._stats.get(kind, FailureStats()).count + 1
            self._stats[kind] = FailureStats(count=count, last=told, last_at=datetime.now(UTC))
        if new:
            log.warning(
                "%s of agent %r failed, what was written is journalled and the next recall tries again: %s",
                kind,
                agent,
                told,
            )
        else:
            log.debug("%s of agent %r failed again: %s", kind, agent, told)
        return told

    def succeeded(self, kind: Kind, agent: str) -> None:
        """Note that an attempt succeeded."""
        if self._failing[kind]:
            with self._lock:
                self._failing[kind].pop(agent, None)

    def stats(self, kind: Kind) -> FailureStats:
        """Failures of a kind so far."""
        with self._lock:
            known = self._stats.get(kind, FailureStats())
            return FailureStats(
                count=known.count, agents=len(self._failing[kind]), last=known.last, last_at=known.last_at
            )


def described(error: BaseException) -> str:
    """An error for a log: our own words whole, of any other its kind and number, as its text may quote a message.

    >>> described(EmbedderError("embedder 'x' gave no rows")), described(ConnectionError(503, "no: My PIN is 4417"))
    ("EmbedderError: embedder 'x' gave no rows", 'ConnectionError 503')
    """
    cause = error.__cause__
    if isinstance(error, EmbedderError) and cause is not None:
        return f"EmbedderError by {described(cause)}"
    if isinstance(error, DeltaMemError):
        return f"{type(error).__name__}: {error}"
    numbers = (getattr(error, name, None) for name in ("status_code", "code", "errno"))
    number = next((each for each in numbers if isinstance(each, int)), None)
    return type(error).__name__ + ("" if number is None else f" {number}")
