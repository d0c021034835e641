"""Processes that fork with a memory open, and processes that end with one open; see processes.py."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PROGRAM = Path(__file__).with_name("processes.py")


def run(folder: Path, what: str, *options: str, threads: str = "1") -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(PROGRAM), str(folder), what, *options],
        capture_output=True,
        text=True,
        timeout=600,
        env=os.environ | {"OMP_NUM_THREADS": threads, "TOKENIZERS_PARALLELISM": "false"},
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_process_is_told_and_opens_its_own(tmp_path: Path) -> None:
    assert run(tmp_path, "forks") == {
        "parent before": True,
        "inherited": 0,
        "fresh": 0,
        "fresh in a child of a child": 0,
        "inherited, then fresh": 0,
        "inherited, at the interpreter's own end": 0,
        "at work": [0] * 4,
        "locks held": 0,
        "multiprocessing": 0,
        "journalled": 1,
        "parent after": True,
    }


def check_exits(codes: dict[str, list[int]], times: int) -> None:
    assert codes == {name: [1 if name == "with_an_error" else 3] * times for name in codes} and len(codes) == 6


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_process_ends_with_its_own_exit_code(tmp_path: Path) -> None:
    check_exits(run(tmp_path, "exits", "1", threads="2"), 1)


@pytest.mark.slow  # half a minute
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_many_processes_end_with_their_own_exit_codes(tmp_path: Path) -> None:
    check_exits(run(tmp_path, "exits", "3", threads="2"), 3)
