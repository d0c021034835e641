"""What `deltamem doctor` reports: what is in use on this machine, and why. Read-only; loads no model.

May import everything but the command line and the demo.
"""

from __future__ import annotations

import os
import platform
import re
import sqlite3
import sys
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from deltamem_agents import __version__, terminal, tiny
from deltamem_agents.errors import ConfigError, MissingExtraError, StoreError
from deltamem_agents.recall import default_embedder
from deltamem_agents.store import Backlog, masked, versions
from deltamem_agents.store.statistics import backlog as backlog_of
from deltamem_kernels import explain_backend
from deltamem_kernels.cpu import compiled

if TYPE_CHECKING:
    from rich.console import Console

DISTRIBUTION = "deltamem-agents"
EXTRAS = ("langchain", "llama-index", "retrieval", "postgres", "train", "mcp")
LIBRARIES = ("torch", "transformers", "triton", "sqlalchemy")
MODEL_FILES = ("config.json", "model.safetensors", "tokenizer.json", "adapter/deltamem_adapter.safetensors")
NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")


@dataclass(frozen=True, slots=True)
class Problem:
    """Something slower or worse than it could be, with its remedy."""

    problem: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Device:
    """A device that torch can use. ``scan`` says which form of the delta-rule scan runs on it, and why."""

    device: str
    name: str
    memory_bytes: int | None
    scan: str


@dataclass(frozen=True, slots=True)
class DatabaseFacts:
    """What was found out about a database. ``error`` is None if it is usable, ``version`` None if it has no tables.

    ``backlog`` is what the next recalls will fold, index and embed; None if it was not counted.
    """

    url: str
    version: str | None
    error: str | None
    backlog: Backlog | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkup:
    """The result of a checkup.

    Args:
        versions: Version by name; None for what is not installed.
        devices: The CPU first.
        compiled_scan: Instruction sets that the compiled scan can use here, the one in use last; empty without it.
        extras: Missing distributions by extra; an extra with none missing is installed.
        embedder: The embedder that recall searches by meaning with; None for full text alone.
        model: Folder of the bundled model; None if some of its files are missing.
        database: None if no database was named.
    """

    versions: dict[str, str | None]
    devices: list[Device]
    compiled_scan: list[str]
    threads: int
    extras: dict[str, list[str]]
    embedder: str | None
    model: str | None
    database: DatabaseFacts | None
    problems: list[Problem]

    @property
    def failure(self) -> str | None:
        """The error of the database that was named; None if it works."""
        return None if self.database is None else self.database.error

    def as_dict(self) -> dict[str, Any]:
        """The checkup as JSON-ready values."""
        return asdict(self)

    def show(self, console: Console) -> None:
        """Print the checkup for a person."""
        console.print(terminal.table(("version", ""), [(name, has or "–") for name, has in self.versions.items()]))
        console.print()
        devices = [(each.device, _described(each), each.scan) for each in self.devices]
        console.print(terminal.table(("device", "", "delta-rule scan"), devices))
        if all(not each.device.startswith("cuda") for each in self.devices):
            console.print("CUDA devices: none", style="dim")
        console.print()
        extras = [
            (name, f"{DISTRIBUTION}[{name}] is not installed: no {', '.join(missing)}" if missing else "installed")
            for name, missing in self.extras.items()
        ]
        console.print(terminal.table(("extra", ""), extras))
        console.print()
        rows = [("embedder", self.embedder or "none: full text alone"), ("bundled model", self.model or "incomplete")]
        if self.database is not None:
            version = self.database.version
            tables = "no tables yet" if version is None else f"tables of version {version}"
            rows.append(("database", f"{self.database.url}: {'cannot be used' if self.database.error else tables}"))
            if (backlog := self.database.backlog) is not None:
                unfolded = f"{terminal.counted(backlog.unfolded, 'message')} not folded"
                unindexed = f"{terminal.counted(backlog.unindexed, 'message')} not indexed"
                unembedded = f"{terminal.counted(backlog.unembedded, 'record')} without embedding"
                rows.append(
                    ("backlog", f"{unfolded}, {unindexed}, {unembedded}; the next recall of each agent does it")
                )
        console.print(terminal.table(("memory", ""), rows))
        console.print()
        if not self.problems:
            console.print("No problems found.", style="bold")
        for number, each in enumerate(self.problems, start=1):
            text = terminal.printable(f"{number}. {each.problem}\n   remedy: {each.remedy}")
            console.print(text, markup=False)


def check_up(url: str | None = None, schema: str | None = None) -> Checkup:
    """Check this machine, and read the database at ``url`` if it exists."""
    versions = _versions()
    devices = _devices()
    embedder, note = default_embedder()
    missing_files = [name for name in MODEL_FILES if not _has_bytes(tiny.FOLDER / name)]
    database = None if url is None else _database(url, schema)
    problems = [
        *_engine_problems(),
        *_compiled_problems(),
        *_thread_problems(),
        *_cuda_problems(devices),
        *_sqlite_problems(),
    ]
    if embedder is None:
        what, _, remedy = (note or "").partition(": ")
        problems.append(Problem(f"no embedder is installed, so recall searches by {what}", remedy))
    if missing_files:
        problems.append(
            Problem(
                f"the bundled model in {tiny.FOLDER} lacks {', '.join(missing_files)}",
                f"install {DISTRIBUTION} again, or give --backbone",
            )
        )
    if database is not None and database.backlog is not None and database.backlog.unindexed:
        problems.append(
            Problem(
                f"full text does not find {terminal.counted(database.backlog.unindexed, 'message')} of {database.url}",
                "bring the database up to date with 'deltamem db upgrade', or restore it from an export",
            )
        )
    if database is not None and database.error is not None:
        what, _, remedy = database.error.partition("; ")
        problems.append(Problem(what, remedy))
    return Checkup(
        versions=versions,
        devices=devices,
        compiled_scan=list(compiled.targets()),
        threads=torch.get_num_threads(),
        extras=_missing_by_extra(),
        embedder=None if embedder is None else embedder.name,
        model=None if missing_files else str(tiny.FOLDER),
        database=database,
        problems=problems,
    )


def _versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {DISTRIBUTION: __version__, "python": platform.python_version()}
    found |= {name: _installed(name) for name in LIBRARIES}
    found["torch"] = torch.__version__  # includes its build, such as +cpu
    return found | {"sqlite": sqlite3.sqlite_version}


def _installed(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _devices() -> list[Device]:
    kernel = compiled.targets()[-1] if compiled.targets() else "no compiled scan"
    threads = terminal.counted(torch.get_num_threads(), "thread")
    found = [Device("cpu", f"{platform.machine()}, {kernel}, {threads}", None, explain_backend("cpu"))]
    for index in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(index)
        name = f"cuda:{index}"
        found.append(Device(name, facts.name, facts.total_memory, explain_backend(name)))
    if torch.backends.mps.is_available():
        found.append(Device("mps", platform.machine(), None, explain_backend("mps")))
    return found


def _described(device: Device) -> str:
    return device.name if device.memory_bytes is None else f"{device.name}, {device.memory_bytes / 2**30:.0f} GiB"


def _missing_by_extra() -> dict[str, list[str]]:
    """The distributions of each extra that are not installed, read from our own metadata."""
    try:
        requirements = metadata.requires(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:  # run from a source tree that was never installed
        return {}
    missing: dict[str, list[str]] = {name: [] for name in EXTRAS}
    for requirement in requirements:
        extra = re.search(r"""extra\s*==\s*['"]([\w-]+)['"]""", requirement)
        distribution = re.match(r"[\w.-]+", requirement)
        if extra and distribution and extra[1] in missing and _installed(distribution[0]) is None:
            missing[extra[1]].append(distribution[0])
    return missing


def _engine_problems() -> list[Problem]:
    """Report engines of this process that have stopped, for a program that calls `check_up`."""
    engine = sys.modules.get("deltamem_agents.engine.engine")  # an import here would take seconds
    if engine is None:
        return []
    remedy = "close every DeltaMem that uses it and open it again, and report the error"
    return [Problem(f"an engine in this process has stopped: {each}", remedy) for each in engine.stopped_engines()]


def _compiled_problems() -> list[Problem]:
    reason = compiled.unavailable()
    if reason is None:
        return []
    what, _, remedy = reason.partition("; ")
    return [
        Problem(f"scans on the CPU run without the compiled library: {what}", remedy or f"reinstall {DISTRIBUTION}")
    ]


def _thread_problems() -> list[Problem]:
    """Report fewer threads than half the processors: torch leaves out the second thread of each core."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = torch.get_num_threads()
    if 2 * threads >= cores:
        return []
    return [
        Problem(
            f"torch uses {terminal.counted(threads, 'thread')} where {cores} processors are available",
            "set OMP_NUM_THREADS to their number, or unset it",
        )
    ]


def _cuda_problems(devices: list[Device]) -> list[Problem]:
    problems = []
    for each in devices:
        if each.device.startswith("cuda") and not each.scan.startswith("triton"):
            _, _, reason = each.scan.partition("; ")
            what, _, remedy = reason.partition("; ")
            problems.append(
                Problem(f"{each.device} runs without the Triton kernels: {what}", remedy or "install triton")
            )
    if NVIDIA_DRIVER.exists() and not torch.cuda.is_available():
        problems.append(
            Problem(
                f"this machine has an NVIDIA driver, and torch {torch.__version__} finds no CUDA device",
                "install a torch built for CUDA (https://pytorch.org/get-started), and check CUDA_VISIBLE_DEVICES",
            )
        )
    return problems


def _sqlite_problems() -> list[Problem]:
    connection = sqlite3.connect(":memory:")
    try:
        connection.execute("CREATE VIRTUAL TABLE probe USING fts5(text)")
    except sqlite3.Error as error:
        return [Problem(f"SQLite lacks full text search: {error}", "use a Python whose SQLite has the FTS5 extension")]
    finally:
        connection.close()
    return []


def _has_bytes(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0


def _database(url: str, schema: str | None) -> DatabaseFacts:
    """Open and read an existing database; the error names its remedy after a semicolon."""
    name, damage = masked(url), list[str]()
    try:
        database, version = versions.open_to_look(url, schema)
        try:
            name, backlog = database.name, None
            if version == versions.LATEST:
                damage = versions.damage(database)
                backlog = None if damage else database.read(lambda connection: backlog_of(connection, None, None))
        finally:
            database.close()
    except (ConfigError, MissingExtraError, StoreError) as error:
        return DatabaseFacts(name, None, str(error))
    if version not in (None, versions.LATEST):
        return DatabaseFacts(name, version, versions.mismatch(name, version))
    if damage:
        return DatabaseFacts(name, version, f"{name} is damaged: {damage[0]}; 'deltamem db check' shows all damage")
    return DatabaseFacts(name, version, None, backlog)
