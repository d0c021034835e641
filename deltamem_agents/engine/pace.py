"""How long a chunk may be, so that other requests do not wait long for it. Knows nothing of models."""

from __future__ import annotations

SECONDS = 0.03  # target maximum for a chunk of a fold; other requests may be waiting for it to end
GROWTH = 2  # maximum ratio of a chunk to the one before


class Pace:
    """Tokens in a chunk of a fold: about as many as have recently run in `SECONDS`, adjusted by `GROWTH`.

    Args:
        least: Minimum tokens in a chunk, however long it takes.
    """

    def __init__(self, least: int) -> None:
        self._least = least
        self.tokens = least

    def ran(self, tokens: int, allowed: int, seconds: float) -> None:
        """Adjust to a chunk of ``tokens`` out of ``allowed``; one below half of that says nothing about longer ones."""
        if tokens * GROWTH <= allowed:
            return
        patience = SECONDS * allowed / self.tokens  # longer if more was allowed than a fold gets
        fitting = tokens / max(seconds, 1e-6) * patience
        if fitting >= allowed * GROWTH:
            self.tokens *= GROWTH
        elif fitting < allowed and self.tokens > self._least:
            self.tokens //= GROWTH
