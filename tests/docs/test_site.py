"""The documentation builds without a warning, and the commands that made its figures exist."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main

from deltamem_agents.cli import app

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]
FIGURES = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
COMMAND = re.compile(r"`((?:make|deltamem|python3?) [^`]+)`")
COMMANDS = sorted({found for page in PAGES for found in COMMAND.findall(page.read_text(encoding="utf-8"))})


@pytest.mark.slow
def test_site_builds_strictly(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    env = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    reference = (tmp_path / "site" / "api" / "memory" / "index.html").read_text(encoding="utf-8")
    assert "AgentMemory" in reference
    assert "Journal messages, then fold them into the state" in reference
    home = (tmp_path / "site" / "index.html").read_text(encoding="utf-8")
    assert "examples/notebooks</code>" in home


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_named_in_the_docs_exist(command: str) -> None:
    program, *words = command.split()
    if program == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert [word for word in words if word in targets], f"the Makefile has none of {words}"
    elif program == "deltamem":
        found = typer.main.get_command(app)
        for word in words:
            if not hasattr(found, "commands") or not re.fullmatch(r"[a-z][a-z-]*", word):
                break
            assert word in found.commands, f"deltamem has no command {word!r}"
            found = found.commands[word]
    elif words[0] == "-m":
        module = ROOT / words[1].replace(".", "/")
        assert module.with_suffix(".py").exists() or (module / "__main__.py").exists(), words[1]
    else:
        assert (ROOT / words[0]).exists(), words[0]


def test_figures_name_their_commands() -> None:
    sections = re.split(r"^## ", FIGURES, flags=re.MULTILINE)[1:]
    measured = [section for section in sections if "| measured |" in section or "commit" in section]
    assert len(measured) > 5
    for section in measured:
        assert re.search(r"`(make|deltamem|python)[ \w]", section), section.splitlines()[0]
