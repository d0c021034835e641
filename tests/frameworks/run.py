"""Runs the frameworks' own test files, unchanged, on this project's classes.

    python tests/frameworks/run.py [--langgraph DIR] [--llama-index DIR]

DIR is a checkout of the framework's repository, of a version near the installed one. Nothing of it is copied or
changed: its test folders are linked into a temporary folder, so that the installed packages are imported and not the
checkout's. Of LlamaIndex's memory tests those run that are about `Memory`, which `DeltaMemory` takes the place of.
`--packages checkpoint-postgres` runs the tests of LangGraph's PostgreSQL store; they need its package installed
(langgraph-checkpoint-postgres, psycopg-pool) and a server at the address in their `conftest.py`. Tests that cannot pass
are reported as expected failures, each with its reason.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

HERE = Path(__file__).parent
LANGGRAPH = {
    "checkpoint": (["test_store.py"], "langgraph.store.memory"),
    "checkpoint-sqlite": (["test_store.py", "test_async_store.py", "test_ttl.py"], "langgraph.store.sqlite"),
    "checkpoint-postgres": (["test_store.py", "test_async_store.py"], "langgraph.store.postgres"),
}


MEMORY = "llama-index-core/tests/memory"
OURS = re.compile(r"^from llama_index\.core\.memory(\.memory)? import .*\bMemory\b", re.MULTILINE)


def run_langgraph(checkout: Path, wanted: list[str]) -> int:
    """The exit code of the last package whose tests failed; 0 where none did."""
    failed = 0
    for package in wanted:
        files, needed = LANGGRAPH[package]
        tests = _folder(checkout / "libs" / package / "tests", "LangGraph")
        if find_spec(needed) is None:
            print(f"{package}: {needed} is not installed, left out", flush=True)
            continue
        failed = _pytest(tests, files, package, "langgraph_stores") or failed
    return failed


def run_llama_index(checkout: Path) -> int:
    """The exit code of LlamaIndex's tests of its `Memory`."""
    tests = _folder(checkout / MEMORY, "LlamaIndex")
    files, others = [], []
    for path in sorted(tests.rglob("test_*.py")):
        name = str(path.relative_to(tests))
        (files if OURS.search(path.read_text("utf-8")) else others).append(name)
    print(f"left out, as they are about other classes: {', '.join(others)}", flush=True)
    if not files:
        sys.exit(f"no test in {tests} imports LlamaIndex's Memory")
    return _pytest(tests, files, MEMORY, "llama_index_memory")


def _folder(tests: Path, project: str) -> Path:
    if not tests.is_dir():
        sys.exit(f"{tests} is not a folder; give the root of a checkout of {project}'s repository")
    return tests.resolve()


def _pytest(tests: Path, files: list[str], name: str, plugin: str) -> int:
    """Run test files from a folder that only links to theirs, with a plugin that puts our classes in place."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "tests").symlink_to(tests)
        print(f"== {name}", flush=True)
        options = ["-q", "-rx", "--tb=line", "-p", plugin, "-p", "no:cacheprovider", "-c", os.devnull]
        options += ["--rootdir", folder, "-o", "asyncio_mode=auto", "-W", "ignore"]
        command = [sys.executable, "-m", "pytest", *options, *(f"tests/{file}" for file in files)]
        return subprocess.run(command, cwd=folder, env=os.environ | {"PYTHONPATH": str(HERE)}).returncode


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--langgraph", type=Path, help="checkout of LangGraph's repository")
    parser.add_argument("--llama-index", type=Path, help="checkout of LlamaIndex's repository")
    parser.add_argument("--packages", nargs="*", choices=LANGGRAPH, default=["checkpoint", "checkpoint-sqlite"])
    given = parser.parse_args()
    if given.langgraph is None and given.llama_index is None:
        parser.error("give --langgraph DIR, --llama-index DIR, or both")
    codes = [run_langgraph(given.langgraph, given.packages)] if given.langgraph else []
    codes += [run_llama_index(given.llama_index)] if given.llama_index else []
    sys.exit(max(codes))
