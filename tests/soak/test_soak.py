"""A minute of many processes on one SQLite file, killed and interrupted while they write; half a minute of a server."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SOAK = Path(__file__).with_name("soak.py")
SERVING = Path(__file__).with_name("serving.py")


@pytest.mark.slow  # a minute, and half of one to start and to compare
def test_a_minute_of_kills_interrupts_erasures_and_forks() -> None:
    command = [sys.executable, str(SOAK), "--seconds", "60"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, f"{done.stdout[-20_000:]}{done.stderr[-5_000:]}"


@pytest.mark.slow  # half a minute, and as long to start and to compare
def test_half_a_minute_of_clients_lose_and_double_no_turn() -> None:
    command = [
        sys.executable,
        str(SERVING),
        "--seconds",
        "30",
        "--clients",
        "24",
        "--agents",
        "6",
        "--concurrency",
        "16",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, f"{done.stdout[-20_000:]}{done.stderr[-5_000:]}"
