"""Every Python block of README and docs runs, in an empty folder and a process of its own."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
SNIPPETS = [
    pytest.param(code, id=f"{page.relative_to(ROOT)}-{number}")
    for page in PAGES
    for number, code in enumerate(BLOCK.findall(page.read_text(encoding="utf-8")), 1)
]
LINK = re.compile(r"\]\(([^)#]+)")


def run(arguments: list[str], folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=os.environ,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("code", SNIPPETS)
def test_snippet_runs(code: str, tmp_path: Path) -> None:
    (tmp_path / "snippet.py").write_text(code, encoding="utf-8")
    run(["snippet.py"], tmp_path)


@pytest.mark.slow
def test_quickstart_remembers_its_first_run(tmp_path: Path) -> None:
    script = str(ROOT / "examples" / "quickstart.py")
    first, second = run([script], tmp_path), run([script], tmp_path)
    assert "remembered" not in first
    assert "3 messages are remembered" in second


@pytest.mark.slow
def test_time_travel_and_erasure(tmp_path: Path) -> None:
    printed = run([str(ROOT / "examples" / "time_travel_and_erasure.py"), "--url", "sqlite:///memory.db"], tmp_path)
    assert '"status": "complete"' in printed and printed.count("We indent with tabs.") == 1
    assert b"4711" not in b"".join(file.read_bytes() for file in tmp_path.iterdir())


@pytest.mark.slow
def test_langgraph_store_lasts(tmp_path: Path) -> None:
    script = str(ROOT / "examples" / "langgraph_store.py")
    for _ in range(2):
        printed = run([script, "--url", "sqlite:///memory.db"], tmp_path)
        assert "best: ('users', 'alice') drink Alice drinks green tea." in printed
        assert "heavy: ['dog']" in printed and "dog: None" in printed


@pytest.mark.slow
def test_langchain_agent_knows_on_tuesday(tmp_path: Path) -> None:
    printed = run([str(ROOT / "examples" / "langchain_agent.py")], tmp_path)
    assert "- user: My favourite colour is teal." in printed


def test_there_are_snippets() -> None:
    assert len(SNIPPETS) >= 4


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    targets = [link for link in LINK.findall(page.read_text(encoding="utf-8")) if "://" not in link]
    assert not [link for link in targets if not (page.parent / link).exists()]
