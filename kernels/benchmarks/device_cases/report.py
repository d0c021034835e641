"""The files of a run: rows as they come, and a summary that is renewed after every case."""

from __future__ import annotations

import csv
import subprocess
import time
from dataclasses import asdict, dataclass, fields
from importlib import metadata
from pathlib import Path

from measure import Row, machine, table

TIMES = ("× faster", "× time", "µs", "of copy", "GB/s", "TFLOP/s", "tokens/s")
CHECKED = ("relative", "absolute", "count")


@dataclass(frozen=True, slots=True)
class Result:
    """How a case ended.

    Args:
        how: "ran", "failed", "stopped" at its limit, "died", or "not run".
        message: A traceback, or why.
    """

    how: str
    seconds: float
    message: str


class Report:
    """Rows and results, and the files they are written to.

    Args:
        started: When the command began, on the monotonic clock.
    """

    def __init__(self, folder: Path, device: str, started: float) -> None:
        self._folder, self._started = folder, started
        self.log = folder / "3-log.txt"
        self.log.write_text("", encoding="utf-8")
        self._facts = machine(device)
        self._rows: list[tuple[str, Row]] = []
        self._results: dict[str, Result] = {}
        self._csv = (folder / "2-rows.csv").open("w", newline="", encoding="utf-8", buffering=1)
        names = ["case", *(each.name for each in fields(Row)), "reached", *self._facts]
        self._writer = csv.DictWriter(self._csv, names, lineterminator="\n")
        self._writer.writeheader()
        (folder / "5-machine.txt").write_text(_installed(), encoding="utf-8")
        self._write()

    def add(self, case: str, row: Row) -> None:
        """Write one row, at once."""
        self._rows.append((case, row))
        found = {key: f"{each:.6g}" if isinstance(each, float) else each for key, each in asdict(row).items()}
        reached = {True: "yes", False: "no", None: ""}[row.reached]
        self._writer.writerow({"case": case, **found, "reached": reached, **self._facts})
        self._csv.flush()
        mark = "   NOT REACHED" if row.reached is False else ""
        print(f"{case}: {row.what}: {row.value:.4g} {row.unit} {row.reach}{mark}", flush=True)

    def ended(self, case: str, result: Result) -> None:
        """Note how a case ended, and renew the summary."""
        self._results[case] = result
        print(f"-- {case}: {result.how}, {result.seconds:.1f} s", flush=True)
        self._write()

    @property
    def fine(self) -> bool:
        """Whether every case ran and every target was reached."""
        return all(each.how == "ran" for each in self._results.values()) and not self._missed()

    def text(self) -> str:
        """The summary."""
        checks = [row for _, row in self._rows if row.unit in CHECKED and row.reach]
        wrong = [row for row in checks if row.reached is False]
        ran = sum(each.how == "ran" for each in self._results.values())
        lines = [
            "# Kernels and a model with memory, on one device",
            "",
            f"{ran} of {len(self._results)} cases ran; {len(checks) - len(wrong)} of {len(checks)} checks of results "
            f"are within their bars; {len(self._missed()) - len(wrong)} other targets are not reached; "
            f"{time.monotonic() - self._started:.0f} s in all.",
            "",
        ]
        broken = {name: each for name, each in self._results.items() if each.how != "ran"}
        if broken:
            lines += ["## Cases that did not end", ""]
            for name, each in broken.items():
                last = each.message.strip().splitlines()[-1:] or [""]
                lines.append(f"- {name}: {each.how} after {each.seconds:.0f} s: {last[0][:300]}")
            lines.append("")
        if self._missed():
            lines += ["## Not reached", ""]
            for case, row in self._missed():
                lines.append(f"- {case}: {row.what}: {row.value:.4g} {row.unit}, to reach {row.reach}")
            lines.append("")
        times = [row for _, row in self._rows if row.unit not in CHECKED or not row.reach]
        times = [row for row in times if not row.what.startswith("sweep")]
        lines += ["## Times", "", table(times, self._facts), "", *self._best(), "## Cases", ""]
        lines += ["| case | | s | checks | worst, of its bar |", "| --- | --- | --- | --- | --- |"]
        for name, each in self._results.items():
            own = [row for case, row in self._rows if case == name and row.unit in CHECKED and row.reach]
            shares = [row.value / float(row.reach[1:]) for row in own if row.unit == "relative"]
            worst = f"{max(shares):.2f}" if shares else ""
            lines.append(f"| {name} | {each.how} | {each.seconds:.1f} | {len(own)} | {worst} |")
        return "\n".join(lines) + "\n"

    def _missed(self) -> list[tuple[str, Row]]:
        return [(case, row) for case, row in self._rows if row.reached is False]

    def _best(self) -> list[str]:
        """The fastest of the sweep."""
        swept = sorted((row for _, row in self._rows if row.what.startswith("sweep")), key=lambda row: row.value)
        return ["## Sweep, fastest first", "", *(f"- {row.what}: {row.value:.1f} µs" for row in swept[:12]), ""]

    def _write(self) -> None:
        (self._folder / "1-summary.md").write_text(self.text(), encoding="utf-8")


def _installed() -> str:
    """What nvidia-smi says, and the packages."""
    try:
        done = subprocess.run(["nvidia-smi"], capture_output=True, text=True, timeout=20, check=False)
        said = done.stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        said = f"nvidia-smi: {error}\n"
    packages = sorted({f"{each.metadata['Name']} {each.version}" for each in metadata.distributions()})
    return said + "\n" + "\n".join(packages) + "\n"
