"""Runs the frameworks' own test files, unchanged, on this project's classes.

    python tests/frameworks/run.py --langgraph DIR

DIR is a checkout of LangGraph's repository, of a version near the installed one. Nothing of it is copied or changed:
its test folders are linked into a temporary folder, so that the installed packages are imported and not the checkout's.
The tests of LangGraph's PostgreSQL store need a server at the address in their `conftest.py`, or are left out.
"""

from __future__ import annotations

import argparse
import os
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


def run(checkout: Path, wanted: list[str]) -> int:
    """The exit code of the last package whose tests failed; 0 where none did."""
    failed = 0
    for package in wanted:
        files, needed = LANGGRAPH[package]
        tests = checkout / "libs" / package / "tests"
        if not tests.is_dir():
            sys.exit(f"{tests} is no folder; give the root of a checkout of LangGraph's repository")
        if find_spec(needed) is None:
            print(f"{package}: {needed} is not installed, left out", flush=True)
            continue
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "tests").symlink_to(tests.resolve())
            print(f"== {package}", flush=True)
            options = ["-q", "--tb=line", "-p", "langgraph_stores", "-p", "no:cacheprovider", "-c", os.devnull]
            options += ["--rootdir", folder, "-o", "asyncio_mode=auto", "-W", "ignore"]
            command = [sys.executable, "-m", "pytest", *options, *(f"tests/{file}" for file in files)]
            done = subprocess.run(command, cwd=folder, env=os.environ | {"PYTHONPATH": str(HERE)})
            failed = done.returncode or failed
    return failed


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--langgraph", type=Path, required=True, help="checkout of LangGraph's repository")
    parser.add_argument("--packages", nargs="*", choices=LANGGRAPH, default=["checkpoint", "checkpoint-sqlite"])
    given = parser.parse_args()
    sys.exit(run(given.langgraph, given.packages))
