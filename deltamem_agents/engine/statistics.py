"""Statistics of an engine."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass

REMEMBERED = 1024  # latest times and batch sizes kept


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """A snapshot of an engine; rates and percentiles cover its latest steps and requests.

    Args:
        waiting: Requests in the queue.
        generating: Rows that are being generated now.
        answered: Generations so far.
        batch: Mean rows per generation step.
        tokens_per_second: Generation rate, not counting idle time.
        first_token_seconds: Percentiles 50, 90 and 99 of the time from a request to its first token; None before any.
        tokens_read: Tokens of prompts and folds so far, with padding.
        slots, slots_used, evictions: Of the pool of states on the device.
        pool_bytes, hot_bytes: Size of that pool, and of the keys and values kept for open segments.
        failure: Why the engine has stopped by itself and takes no more requests; None while it works.
    """

    waiting: int
    generating: int
    answered: int
    batch: float
    tokens_per_second: float
    first_token_seconds: dict[int, float] | None
    tokens_read: int
    slots: int
    slots_used: int
    evictions: int
    pool_bytes: int
    hot_bytes: int
    failure: str | None = None


class Counters:
    """Counters that the engine's thread updates and any thread reads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._steps: deque[tuple[int, float]] = deque(maxlen=REMEMBERED)  # rows, seconds
        self._first: deque[float] = deque(maxlen=REMEMBERED)
        self.answers = 0
        self.tokens_read = 0

    def read(self, tokens: int) -> None:
        """Count a chunk."""
        self.tokens_read += tokens

    def wrote(self, rows: int, seconds: float) -> None:
        """Count a generation step."""
        with self._lock:
            self._steps.append((rows, seconds))

    def answered(self, first_token: float) -> None:
        """Count a generation that has ended; ``first_token`` is the time to its first token in seconds."""
        with self._lock:
            self.answers += 1
            self._first.append(first_token)

    def rates(self) -> tuple[float, float, dict[int, float] | None]:
        """Mean rows per step, tokens per second, and percentiles of the time to first token."""
        with self._lock:
            steps, first = list(self._steps), sorted(self._first)
        rows, seconds = sum(each[0] for each in steps), sum(each[1] for each in steps)
        percentiles = {p: first[min(len(first) - 1, p * len(first) // 100)] for p in (50, 90, 99)} if first else None
        return (rows / len(steps) if steps else 0.0), (rows / seconds if seconds else 0.0), percentiles
