"""Figures, the machine they were measured on, and how they are written. Knows nothing of what is measured; no torch.

The kernels' benchmarks, which have their own rows, use the same functions for writing.
"""

from __future__ import annotations

import csv
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

ROOT = Path(__file__).resolve().parents[2]
SCALES = {"s": 1.0, "ms": 1e3, "µs": 1e6}


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One figure: the median of its rounds.

    Args:
        what: What was measured, with its sizes.
        on: What it was measured on, such as "SQLite" or "PostgreSQL".
        unit: "ms", "s", "/s", "bytes".
        reach: The target, such as "≤ 3" or "≥ 500"; empty if there is none.
        low, high: First and last decile of the rounds.
    """

    what: str
    on: str
    value: float
    unit: str
    reach: str = ""
    low: float
    high: float
    rounds: int

    @property
    def reached(self) -> bool | None:
        """Whether the target is reached; None if there is none."""
        if not self.reach:
            return None
        bound = float(self.reach[1:].replace(",", ""))
        return self.value >= bound if self.reach[0] == "≥" else self.value <= bound


def figure(what: str, on: str, values: Sequence[float], unit: str, reach: str = "") -> Figure:
    """Make a figure from the median of values and their spread."""
    ordered = sorted(values)
    tenth = len(ordered) // 10
    return Figure(
        what=what,
        on=on,
        value=statistics.median(ordered),
        unit=unit,
        reach=reach,
        low=ordered[tenth],
        high=ordered[-1 - tenth],
        rounds=len(ordered),
    )


def timed(what: str, on: str, call: Callable[[int], object], *, rounds: int, unit: str, reach: str = "") -> Figure:
    """Time a call, which is given the number of its round; a tenth as many warm-up rounds run first."""
    warm = max(1, rounds // 10)
    times: list[float] = []
    for number in range(-warm, rounds):
        started = time.perf_counter()
        call(number + warm)
        times.append((time.perf_counter() - started) * SCALES[unit])
    return figure(what, on, times[warm:], unit, reach)


def machine(**versions: str) -> dict[str, str]:
    """The facts that figures depend on: processor, versions, commit, day."""
    return {
        "machine": processor(),
        "python": platform.python_version(),
        **versions,
        "commit": commit(),
        "date": datetime.now(UTC).date().isoformat(),
    }


def write_csv(path: Path, figures: Sequence[DataclassInstance], facts: dict[str, str]) -> None:
    """Write one line per figure, all of one class, each with the machine's facts."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(figures[0])] + list(facts), lineterminator="\n")
        writer.writeheader()
        for each in figures:
            rounded = {k: f"{v:.6g}" if isinstance(v, float) else v for k, v in asdict(each).items()}
            writer.writerow(rounded | facts)


def table(figures: Sequence[Figure], facts: dict[str, str]) -> str:
    """The figures as a Markdown table."""
    lines = [
        " · ".join(f"{name} {value}" for name, value in facts.items()),
        "",
        "| what | on | to reach | measured | spread (10–90 %) |",
        "| --- | --- | --- | --- | --- |",
    ]
    for each in figures:
        mark = " **not reached**" if each.reached is False else ""
        cells = [
            each.what,
            each.on,
            f"{each.reach} {each.unit}" if each.reach else "–",
            f"{_short(each.value)} {each.unit}{mark}",
            f"{_short(each.low)}–{_short(each.high)}" if each.rounds > 1 else "",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def processor() -> str:
    """Name of the processor and number of cores."""
    info = Path("/proc/cpuinfo")
    names = []
    if info.exists():
        names = [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores"


def commit() -> str:
    """The commit of the sources, and whether they have been changed since."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:  # a machine without git
        return "unknown"
    return done.stdout.strip() or "unknown"
