"""How much an engine runs at once."""

from __future__ import annotations

from dataclasses import dataclass

from deltamem_agents.engine.options import whole

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
