"""Failures after a write is durable: counted, logged once, and recorded without any message text."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from deltamem_agents.errors import DeltaMemError, EmbedderError

Kind = Literal["folding", "embedding"]
KEPT = 10_000  # failing agents remembered per kind

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureStats:
    """Failures of one kind since the memory was opened.

    Args:
        count: Attempts that failed.
        agents: Agents whose last attempt failed.
        last: Description of the last failure, without any message text; None if there was none.
        last_at: Time of the last failure.
    """

    count: int = 0
    agents: int = 0
    last: str | None = None
    last_at: datetime | None = None


class Failures:
    """Counts failures and logs new ones. Thread-safe."""

    def __init__(self) -> None:
        self._stats: dict[Kind, FailureStats] = {}
        self._failing: dict[Kind, OrderedDict[str, str]] = {"folding": OrderedDict(), "embedding": OrderedDict()}
        self._lock = threading.Lock()

    def failed(self, kind: Kind, agent: str, error: BaseException) -> str:
        """Record a failed attempt; return the description of its error.

        It is logged only if no other agent's last attempt failed in the same way, so a service that is down for an hour
        produces one line.
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
                "%s of agent %r failed; what was written is journalled, and the next recall tries again: %s",
                kind,
                agent,
                told,
            )
        else:
            log.debug("%s of agent %r failed again: %s", kind, agent, told)
        return told

    def succeeded(self, kind: Kind, agent: str) -> None:
        """Record a successful attempt."""
        if self._failing[kind]:
            with self._lock:
                self._failing[kind].pop(agent, None)

    def stats(self, kind: Kind) -> FailureStats:
        """Failures of one kind so far."""
        with self._lock:
            known = self._stats.get(kind, FailureStats())
            return FailureStats(
                count=known.count, agents=len(self._failing[kind]), last=known.last, last_at=known.last_at
            )


def described(error: BaseException) -> str:
    """Describe an error for a log: our own errors in full, others by type and number, as their text may quote messages.

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
