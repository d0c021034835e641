"""The demo's second process: open the database that the first one left, and answer from it in every mode."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

from deltamem_agents.demo import through_langchain, through_llama_index
from deltamem_agents.demo.events import answering
from deltamem_agents.demo.rows import Row, recalled, without_memory
from deltamem_agents.errors import MissingExtraError

if TYPE_CHECKING:
    from deltamem_agents.memory import AgentMemory, DeltaMem

MODES = ("state", "vector", "hybrid")
FRAMEWORKS = {"LangChain": through_langchain.answers, "LlamaIndex": through_llama_index.answers}


def main() -> None:
    """Answer ``{"open": …, "agent": …, "stranger": …, "questions": […]}``; each row is sent as an event."""
    with answering() as (request, emit):
        emit("stage", {"text": "Process 2 loads the model"})
        from deltamem_agents import terminal
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
                except MissingExtraError as error:
                    emit("missing", {"name": name, "reason": str(error)})


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
    main()
