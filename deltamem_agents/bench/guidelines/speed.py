"""The speed of a sync of an unchanged repository of 5,000 files, and of commands on it."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from deltamem_agents.bench.guidelines.repositories import Example
from deltamem_agents.guidelines import Guidelines
from deltamem_agents.memory import DeltaMem

FILES, SOURCES = 5000, 50
REPEATS = 5


def speeds(root: Path) -> dict[str, float]:
    """Median seconds of a first sync, an unchanged one, one after an edit, and of three commands."""
    tree = large().make(root)
    url = f"sqlite:///{root}.db"
    with DeltaMem.open(None, url=url) as mem:
        guidelines = Guidelines(mem, tree)
        told = {"first sync": _seconds(guidelines.sync, 1)}
        told["unchanged sync"] = _seconds(guidelines.sync)
        told["recall"] = _seconds(lambda: guidelines.recall("How do I run the tests?"))
        (tree / "AGENTS.md").write_text("# Guide\n\n- Run `make check` before each push.\n", encoding="utf-8")
        told["sync after an edit"] = _seconds(guidelines.sync, 1)
    base = [sys.executable, "-m", "deltamem_agents.cli", "guidelines"]
    for name, arguments in (
        ("command sync, unchanged", ["sync", str(tree)]),
        ("command recall", ["recall", "How do I run the tests?", "--repo", str(tree)]),
        ("command brief", ["brief", "--task", "add a test", "--repo", str(tree)]),
    ):
        command = [*base, *arguments, "--url", url]
        told[name] = _seconds(lambda command=command: subprocess.run(command, check=True, capture_output=True))  # type: ignore[misc]
    return {name: round(each, 3) for name, each in told.items()}


def large() -> Example:
    """A repository of 5,000 files, 50 of them with rules."""
    files = {f"src/p{i % 100}/m{i}.py": f"X = {i}\n" for i in range(FILES - SOURCES)}
    rules = {
        f"src/p{i}/AGENTS.md": f"# Part {i}\n\n- Values of part {i} are below {i + 10}.\n" for i in range(SOURCES - 1)
    }
    root = {"AGENTS.md": "# Guide\n\n- Run `make check` before each commit.\n"}
    return Example("large", ({"message": "Start", "files": files | rules | root},), (), (), {}, {})


def _seconds(work: Callable[[], object], repeats: int = REPEATS) -> float:
    taken = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)
