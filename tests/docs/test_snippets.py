"""Every Python block of README and docs runs, in an empty folder and a process of its own, and so do the examples."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
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


Program = Callable[..., subprocess.CompletedProcess[str]]


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


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """Runs a file as a program: in a process of its own, which finds torch and the frameworks imported, see `warm`."""
    command = [sys.executable, str(Path(__file__).with_name("warm.py"))]
    python = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert python.stdin is not None and python.stdout is not None
    out, err = (tmp_path_factory.mktemp("program") / name for name in ("out", "err"))

    def run(file: Path, *arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
        for each in (out, err):
            each.write_bytes(b"")
        request = dict(program=str(file), arguments=arguments, folder=str(folder), out=str(out), err=str(err))
        python.stdin.write(json.dumps(request).encode() + b"\n")
        python.stdin.flush()
        code = int(python.stdout.readline())
        return subprocess.CompletedProcess(sys.argv, code, out.read_text(), err.read_text())

    yield run
    python.stdin.close()
    python.wait(30)


@pytest.mark.slow
@pytest.mark.parametrize("code", SNIPPETS)
def test_snippet_runs(code: str, tmp_path: Path, program: Program) -> None:
    (tmp_path / "snippet.py").write_text(code, encoding="utf-8")
    done = program(tmp_path / "snippet.py", folder=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]


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
def test_langgraph_store_lasts(tmp_path: Path, program: Program) -> None:
    for _ in range(2):
        script = ROOT / "examples" / "langgraph_store.py"
        done = program(script, "--url", "sqlite:///memory.db", folder=tmp_path)
        assert done.returncode == 0, done.stderr[-3000:]
        printed = done.stdout
        assert "best: ('users', 'alice') drink Alice drinks green tea." in printed
        assert "heavy: ['dog']" in printed and "dog: None" in printed


@pytest.mark.slow
def test_langchain_agent_knows_on_tuesday(tmp_path: Path, program: Program) -> None:
    done = program(ROOT / "examples" / "langchain_agent.py", folder=tmp_path)
    assert done.returncode == 0 and "- user: My favourite colour is teal." in done.stdout, done.stderr[-3000:]


@pytest.mark.slow
def test_a_coding_agent_follows_the_rules(tmp_path: Path) -> None:
    printed = run([str(ROOT / "examples" / "coding_agent.py"), "--folder", str(tmp_path)], tmp_path)
    assert "tests passed" in printed and "AGENTS.md:5" in printed
    assert '\n  """The area' in (tmp_path / "repository" / "src" / "area.py").read_text()  # two spaces


def test_there_are_snippets() -> None:
    assert len(SNIPPETS) >= 4


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    targets = [link for link in LINK.findall(page.read_text(encoding="utf-8")) if "://" not in link]
    assert not [link for link in targets if not (page.parent / link).exists()]
