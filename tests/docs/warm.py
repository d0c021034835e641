"""A Python that has imported what takes seconds to import, and forks for each program that it is to run.

It reads lines of JSON, ``{"program": file, "arguments": […], "folder": …, "out": file, "err": file}``, and writes the
exit code of each program, a line. A program runs in a process of its own, as the main module, and ends as any other.
Nothing is opened and no thread started before the fork.
"""

from __future__ import annotations

import importlib
import json
import os
import runpy
import signal
import sys
from typing import Any

MODULES = """
    deltamem_agents.memory deltamem_agents.recall langchain_deltamem llama_index_deltamem sentence_transformers
    langchain.agents langgraph.store.base llama_index.core.agent.workflow
""".split()
LONGEST = 120  # seconds that a program may take


def become(request: dict[str, Any]) -> None:
    """Be the program, in the forked process; returns where it ends."""
    signal.alarm(LONGEST)
    for descriptor, file in ((0, os.devnull), (1, request["out"]), (2, request["err"])):
        opened = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
        os.dup2(opened, descriptor)
        os.close(opened)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115  # what the parent had read ahead is not for this one
    os.chdir(request["folder"])
    sys.argv = [request["program"], *request["arguments"]]
    sys.path[0] = os.path.dirname(os.path.abspath(request["program"]))
    runpy.run_path(request["program"], run_name="__main__")


def main() -> None:
    for module in MODULES:
        importlib.import_module(module)
    # A line is read without a buffer: what a forked process inherits of it would be read twice.
    while line := os.read(0, 1 << 16):
        child = os.fork()
        if child == 0:
            become(json.loads(line))
            return
        _, status = os.waitpid(child, 0)
        os.write(1, f"{os.waitstatus_to_exitcode(status)}\n".encode())


if __name__ == "__main__":
    main()
