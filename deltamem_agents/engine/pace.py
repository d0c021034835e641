"""How long a chunk may be, so that nobody waits long for it. Knows nothing of models."""

from __future__ import annotations

SECONDS = 0.03  # that a chunk of a fold should take at most; others may be waiting for it to end
GROWTH = 2  # no chunk is longer than the one before by more than this factor


class Pace:
    """Tokens a chunk of a fold has: as many as have lately run in `SECONDS`, by steps of a factor.

    Args:
        least: Whatever it takes, a chunk has so many.
    """

    def __init__(self, least: int) -> None:
        self._least = least
        self.tokens = least

    def ran(self, tokens: int, allowed: int, seconds: float) -> None:
        """A chunk has run, that might have had so many tokens; a shorter one tells nothing of longer ones."""
        if tokens * GROWTH <= allowed:
            return
        patience = SECONDS * allowed / self.tokens  # more where more was allowed than to a fold
        fitting = tokens / max(seconds, 1e-6) * patience
        if fitting >= allowed * GROWTH:
            self.tokens *= GROWTH
        elif fitting < allowed and self.tokens > self._least:
            self.tokens //= GROWTH
