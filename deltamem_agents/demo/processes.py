"""The demo's two processes, ``python -m deltamem_agents.demo.processes tell`` and ``… ask``.

The first tells agents facts and ends; the second opens the database that is left, and answers from it in every mode.
Each reads a request from stdin and writes events to stdout, all in JSON.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from deltamem_agents import terminal
from deltamem_agents.demo.frameworks import through_langchain, through_llama_index
from deltamem_agents.demo.rows import Row, recalled, without_memory
from deltamem_agents.errors import DeltaMemError, MissingExtraError, UnsupportedModelError

if TYPE_CHECKING:
    from deltamem_agents.memory import AgentMemory, DeltaMem

Emit = Callable[[str, Mapping[str, Any]], None]

MODES = ("state", "vector", "hybrid")
FRAMEWORKS = {"LangChain": through_langchain, "LlamaIndex": through_llama_index}


def tell() -> None:
    """The first process: write every agent's sessions, ``{"open": …, "agents": {id: [[message, …], …]}}``."""
    with _request() as (request, emit):
        emit("stage", {"text": "Process 1 loads the model"})
        from deltamem_agents.memory import DeltaMem

        terminal.quiet_bars()
        with DeltaMem.open(**request["open"]) as mem:
            emit("stage", {"text": "Process 1 tells the agent its facts"})
            for agent, sessions in request["agents"].items():
                started = time.perf_counter()
                for number, messages in enumerate(sessions, 1):
                    mem.agent(agent).write(messages, f"session {number}")
                emit(
                    "told",
                    {
                        "pid": os.getpid(),
                        "agent": agent,
                        "messages": sum(map(len, sessions)),
                        "sessions": len(sessions),
                        "seconds": time.perf_counter() - started,
                    },
                )


def ask() -> None:
    """The second process: answer ``{"open": …, "agent": …, "stranger": …, "questions": […]}``; each row is an event."""
    with _request() as (request, emit):
        emit("stage", {"text": "Process 2 loads the model"})
        from deltamem_agents.memory import DeltaMem

        terminal.quiet_bars()
        questions: list[str] = request["questions"]
        with DeltaMem.open(**request["open"]) as mem:
            memory, stranger = mem.agent(request["agent"]), mem.agent(request["stranger"])
            _warm_up(mem)
            emit("opened", {"pid": os.getpid(), "messages": len(memory.log()), "notes": list(mem.notes)})
            for question in questions:
                emit("stage", {"text": f"Process 2 answers: {question}"})
                for row in _answers(mem, memory, stranger, question):
                    emit("row", asdict(row))
                records = memory.recall(question, k=1, generate=False).records
                emit("found", {"question": question, "record": records[0].text if records else None})
            for name, answers in FRAMEWORKS.items():
                emit("stage", {"text": f"Process 2 asks through {name}"})
                try:
                    for row in answers(mem, memory.id, questions):
                        emit("row", asdict(row))
                except (MissingExtraError, UnsupportedModelError) as error:
                    emit("missing", {"name": name, "reason": str(error)})


@contextmanager
def _request() -> Iterator[tuple[dict[str, Any], Emit]]:
    """Yield the request and a function that sends an event. Our own errors are sent as events and end the process.

    stdout is reserved for events: everything else prints to stderr.
    """
    terminal.quiet_libraries()
    out, sys.stdout = sys.stdout, sys.stderr

    def emit(event: str, values: Mapping[str, Any]) -> None:
        out.write(json.dumps({"event": event, **values}) + "\n")
        out.flush()

    try:
        yield json.load(sys.stdin), emit
    except DeltaMemError as error:
        emit("error", {"kind": type(error).__name__, "message": str(error)})
        sys.exit(1)


def _answers(mem: DeltaMem, memory: AgentMemory, stranger: AgentMemory, question: str) -> Iterator[Row]:
    from deltamem_agents.memory.answering import ask
    from deltamem_agents.memory.async_methods import run

    for mode in MODES:
        yield recalled(mem, question, mode, memory.recall(question, mode=mode))
    yield without_memory(question, "no state", run(ask(mem.engine, question, "", None)))
    yield recalled(mem, question, "stranger", stranger.recall(question, mode="state"))


def _warm_up(mem: DeltaMem) -> None:
    """Run one forward, as the first in a process is slower and its time would count for the first question."""
    from deltamem_agents.memory.answering import ask
    from deltamem_agents.memory.async_methods import run

    run(ask(mem.engine, "Hello.", "", None))


if __name__ == "__main__":
    {"tell": tell, "ask": ask}[sys.argv[1]]()
