"""The command line run in this process, and as a process of its own, on a database of the test's own."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from deltamem_agents import tiny
from deltamem_agents.cli import app


@dataclass(frozen=True)
class Done:
    """What a command printed and how it ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Command = Callable[..., Done]


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'memory.db'}"


@pytest.fixture
def deltamem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Run a command in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")

    def run(
        *arguments: object,
        stdin: str | bytes | None = None,
        env: dict[str, str] | None = None,
        encoding: str = "utf-8",
    ) -> Done:
        runner = CliRunner(charset=encoding)
        result = runner.invoke(app, [str(each) for each in arguments], input=stdin, env=env)
        return Done(result.exit_code, result.stdout, result.stderr)

    return run


@pytest.fixture
def process(tmp_path: Path) -> Command:
    """Run a command as a process, as a user would."""

    def run(*arguments: object, **env: str) -> Done:
        done = subprocess.run(
            [sys.executable, "-m", "deltamem_agents.cli", *map(str, arguments)],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            env=os.environ | env,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture
def at_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Run a command in this process, with a terminal for standard input and stderr, at which someone types."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object, typed: str) -> Done:
        person, console = os.openpty()
        os.write(person, typed.encode())
        shown = io.StringIO()
        with (
            open(console, encoding="utf-8", closefd=False) as stdin,
            open(console, "w", encoding="utf-8", closefd=False) as stderr,
            monkeypatch.context() as patch,
        ):
            patch.setattr(sys, "stdin", stdin)
            patch.setattr(sys, "stdout", shown)
            patch.setattr(sys, "stderr", stderr)
            patch.setenv("TERM", "dumb")  # no bars
            with pytest.raises(SystemExit) as ended:
                app([str(each) for each in arguments])
        os.close(console)
        return Done(int(ended.value.code or 0), shown.getvalue(), _all_of(person))

    return run


def _all_of(person: int) -> str:
    """What a terminal showed, whose other end is closed."""
    read = b""
    try:
        while piece := os.read(person, 1 << 16):
            read += piece
    except OSError:
        pass  # how Linux says that the other end is closed
    finally:
        os.close(person)
    return read.decode(errors="replace").replace("\r\n", "\n")


@pytest.fixture(scope="session")
def tiny_folder() -> Path:
    return tiny.FOLDER
