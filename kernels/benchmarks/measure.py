"""Paired timing, the facts that a figure depends on, and how figures are written. Knows nothing about kernels."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

import torch

from deltamem_agents.bench.figures import commit, processor


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One figure.

    Args:
        what: What was measured, with its sizes.
        value: The median, over the rounds, of the ratio within one round; or a single figure.
        low, high: First and last decile of the rounds.
        unit: "× faster", "× time", "relative", "bytes", "µs", "of copy".
        reach: The target, such as "≥ 1500" or "≤ 1.03"; empty if there is none.
        ours, other: Median seconds of each side; 0 if there is none.
    """

    what: str
    value: float
    unit: str
    reach: str = ""
    low: float = 0.0
    high: float = 0.0
    ours: float = 0.0
    other: float = 0.0
    rounds: int = 1

    @property
    def reached(self) -> bool | None:
        """Whether the target is reached; None if there is none."""
        if not self.reach:
            return None
        bound = float(self.reach[1:].replace(",", "").split()[0])
        return self.value >= bound if self.reach[0] == "≥" else self.value <= bound


def paired(
    what: str,
    ours: Callable[[], object],
    other: Callable[[], object],
    *,
    slower: bool,
    reach: str = "",
    rounds: int = 9,
    inner: tuple[int, int] = (1, 1),
    wait: Callable[[], None] = lambda: None,
) -> Row:
    """Time two calls alternately, in one process; the order changes from round to round.

    Args:
        slower: If true, the ratio says how many times faster ours is than ``other``; if false, it is the time of ours
            as a multiple of the other's.
        inner: Calls of ours and of the other in a round, for calls too short to time alone.
        wait: Waits for the device.
    """
    for call in (ours, other):
        call()
    wait()
    times: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds):
        for side in (0, 1) if number % 2 else (1, 0):
            call = (ours, other)[side]
            started = time.perf_counter()
            for _ in range(inner[side]):
                call()
            wait()
            times[side].append((time.perf_counter() - started) / inner[side])
    ratios = sorted(b / a if slower else a / b for a, b in zip(*times, strict=True))
    return Row(
        what=what,
        value=statistics.median(ratios),
        unit="× faster" if slower else "× time",
        reach=reach,
        low=ratios[len(ratios) // 10],
        high=ratios[-1 - len(ratios) // 10],
        ours=statistics.median(times[0]),
        other=statistics.median(times[1]),
        rounds=rounds,
    )


def relative_error(a: torch.Tensor, b: torch.Tensor) -> float:
    """‖a − b‖ / ‖b‖ in float64."""
    return float(((a.double() - b.double()).norm() / b.double().norm()).detach().cpu())


def machine(device: str) -> dict[str, str]:
    """The facts that figures depend on: processor or GPU, threads, versions, commit, day."""
    name = torch.cuda.get_device_name() if device == "cuda" else processor()
    return {
        "device": name,
        "threads": str(torch.get_num_threads()),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "commit": commit(),
        "date": datetime.now(UTC).date().isoformat(),
    }


def table(rows: list[Row], facts: dict[str, str]) -> str:
    """The figures as a Markdown table."""
    lines = [
        " · ".join(f"{name} {value}" for name, value in facts.items()),
        "",
        "| what | to reach | measured | spread (10–90 %) | ours | other |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        mark = {True: "", False: " **not reached**", None: ""}[row.reached]
        cells = [
            row.what,
            row.reach or "–",
            f"{_short(row.value)} {row.unit}{mark}",
            f"{_short(row.low)}–{_short(row.high)}" if row.rounds > 1 else "",
            *(_seconds(each) if each else "" for each in (row.ours, row.other)),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _short(value: float) -> str:
    return (
        f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}" if abs(value) < 0.1 or value >= 10 else f"{value:.3f}"
    )


def _seconds(value: float) -> str:
    return f"{value * 1e6:.1f} µs" if value < 1e-3 else f"{value * 1e3:.2f} ms" if value < 1 else f"{value:.2f} s"
