"""Paired timing, the facts that a figure depends on, and how figures are written. Knows nothing about kernels."""

from __future__ import annotations

import hashlib
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata

import torch

from deltamem_agents.bench.figures import ROOT, commit, processor

SOURCES = ("deltamem_agents/**/*.py", "kernels/**/*.py", "kernels/**/*.[ch]")
Timer = Callable[[Callable[[], object], int], float]


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
        return self.value >= self._bound if self.reach[0] == "≥" else self.value <= self._bound

    @property
    def crosses(self) -> bool:
        """Whether the target lies within the spread of the rounds, so that another run may tell otherwise."""
        return bool(self.reach) and self.rounds > 1 and self.low <= self._bound <= self.high

    @property
    def _bound(self) -> float:
        return float(self.reach[1:].replace(",", "").split()[0])


def on_cpu(call: Callable[[], object], times: int) -> float:
    """Seconds of one call, the mean of ``times``."""
    started = time.perf_counter()
    for _ in range(times):
        call()
    return (time.perf_counter() - started) / times


def on_gpu(call: Callable[[], object], times: int) -> float:
    """Seconds of one call on the current device, the mean of ``times``, between two events of its stream."""
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    first.record()
    for _ in range(times):
        call()
    last.record()
    last.synchronize()
    return first.elapsed_time(last) / 1e3 / times


def paired(
    what: str,
    ours: Callable[[], object],
    other: Callable[[], object],
    *,
    slower: bool,
    reach: str = "",
    rounds: int = 9,
    inner: tuple[int, int] = (1, 1),
    timer: Timer = on_cpu,
) -> Row:
    """Time two calls alternately, in one process; the order changes from round to round.

    Args:
        slower: If true, the ratio says how many times faster ours is than ``other``; if false, it is the time of ours
            as a multiple of the other's.
        inner: Calls of ours and of the other in a round, for calls too short to time alone.
        timer: `on_cpu` or `on_gpu`.
    """
    for call in (ours, other):
        timer(call, 1)
    times: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds):
        for side in (0, 1) if number % 2 else (1, 0):
            times[side].append(timer((ours, other)[side], inner[side]))
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


def seconds(what: str, call: Callable[[], object], timer: Timer, *, rounds: int, inner: int, reach: str = "") -> Row:
    """Time one call: the median of the rounds, in microseconds, after one round that is not counted."""
    timer(call, 1)
    found = sorted(timer(call, inner) * 1e6 for _ in range(rounds))
    return Row(
        what=what,
        value=statistics.median(found),
        unit="µs",
        reach=reach,
        low=found[len(found) // 10],
        high=found[-1 - len(found) // 10],
        ours=statistics.median(found) / 1e6,
        rounds=rounds,
    )


def relative_error(a: torch.Tensor, b: torch.Tensor) -> float:
    """‖a − b‖ / ‖b‖ in float64."""
    return float(((a.double() - b.double()).norm() / b.double().norm()).detach().cpu())


def machine(device: str) -> dict[str, str]:
    """The facts that figures depend on: processor or GPU, driver, threads, versions, commit, day."""
    on_gpu = device.startswith("cuda")
    return {
        "device": torch.cuda.get_device_name(device) if on_gpu else processor(),
        "driver": driver() if on_gpu else "none",
        "threads": str(torch.get_num_threads()),
        "python": platform.python_version(),
        "torch": torch.__version__,
        **{name: version(name) for name in ("triton", "transformers", "numpy")},
        "commit": commit(),
        "sources": sources(),
        "date": datetime.now(UTC).date().isoformat(),
    }


def version(package: str) -> str:
    """The installed version of a package, or "none"."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "none"


def driver() -> str:
    """The version of the GPU's driver."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return done.stdout.strip().splitlines()[0] if done.stdout.strip() else "unknown"


def sources() -> str:
    """The first 12 digits of the sha256 of the sources: they name the code where there is no repository."""
    digest = hashlib.sha256()
    for path in sorted({path for pattern in SOURCES for path in ROOT.glob(pattern)}):
        digest.update(str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


def table(rows: list[Row], facts: dict[str, str]) -> str:
    """The figures as a Markdown table."""
    lines = [
        " · ".join(f"{name} {value}" for name, value in facts.items()),
        "",
        "| what | to reach | measured | spread (10–90 %) | ours | other |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        mark = " **not reached**" if row.reached is False else ""
        mark += " (the spread crosses the bar)" if row.crosses else ""
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
