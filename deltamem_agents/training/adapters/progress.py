"""Progress of a run, for who watches it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from deltamem_agents.training.adapters.run_folder import SECONDS_FILE
from deltamem_agents.training.adapters.trainer import METRIC


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterProgress:
    """State of a run after a report.

    Args:
        loss: Mean loss of the steps since the last report; None when an evaluation is reported.
        seconds_left: Estimate from the steps of this process; None before there is one.
        right: Share of right answers in the last evaluation, averaged over kinds; None before there was one.
    """

    step: int
    steps: int
    loss: float | None
    learning_rate: float
    seconds_left: float | None
    right: float | None


class Report(TrainerCallback):
    """Reports progress, and counts the seconds of all processes that took part in a run."""

    def __init__(self, on_progress: Callable[[AdapterProgress], None], folder: Path) -> None:
        self._on_progress = on_progress
        self._file = folder / SECONDS_FILE
        self._earlier = 0.0
        self._started = time.perf_counter()
        self._first_step = 0
        self._right: float | None = None

    @property
    def seconds(self) -> float:
        """Seconds of training so far."""
        return self._earlier + time.perf_counter() - self._started

    def losses(self, history: list[dict[str, float]]) -> dict[int, float]:
        """Reported losses by step."""
        return {int(each["step"]): each["loss"] for each in history if "loss" in each}

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Begin to count."""
        self._first_step = state.global_step
        if state.global_step and self._file.is_file():
            self._earlier = float(json.loads(self._file.read_text(encoding="utf-8")))
        self._started = time.perf_counter()

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Store the seconds next to the checkpoint."""
        if not args.should_save:
            return
        with suppress(OSError):  # only the card's minutes depend on it
            self._file.write_text(json.dumps(round(self.seconds, 1)), encoding="utf-8")

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        """Report a loss or an evaluation."""
        logs = logs or {}
        self._right = logs.get(f"eval_{METRIC}", self._right)
        if "loss" not in logs and f"eval_{METRIC}" not in logs:
            return
        done = state.global_step - self._first_step
        left = state.max_steps - state.global_step
        self._on_progress(
            AdapterProgress(
                step=state.global_step,
                steps=state.max_steps,
                loss=logs.get("loss"),
                learning_rate=logs.get("learning_rate", 0.0),
                seconds_left=(time.perf_counter() - self._started) / done * left if done else None,
                right=self._right,
            )
        )
