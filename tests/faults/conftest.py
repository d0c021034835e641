"""Running the programs of this folder, which do what must not be done in the process of the tests."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
Runner = Callable[..., str]


@pytest.fixture
def run() -> Runner:
    """Run a program of this folder to its end; what it printed."""

    def program(name: str, *arguments: object, timeout: float = 150) -> str:
        command = [sys.executable, str(FOLDER / name), *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    return program


@pytest.fixture(params=["sqlite", "postgresql"])
def shared_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of an empty database that several processes can use."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'memory.db'}"
    fresh: Callable[[], str] = request.getfixturevalue("postgresql_url")
    return fresh()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All of them take their time: part of 'make test'."""
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker(pytest.mark.slow)
