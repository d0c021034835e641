"""Learning rate schedule (warm-up, linear decay), and what a training step reports."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Progress:
    """State after ``step`` of ``steps``: loss, and the share of answer tokens predicted right in that batch."""

    step: int
    steps: int
    loss: float
    right: float


def learning_rate(step: int, steps: int, peak: float, *, warmup: int = 50) -> float:
    """Rise linearly to ``peak`` over ``warmup`` steps (at most a tenth of all), then fall linearly to 2 % of it."""
    warmup = max(1, min(warmup, steps // 10))
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * max(0.02, 1 - (step - warmup) / max(1, steps - warmup))
