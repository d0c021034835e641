"""Requests that carry one conversation of six messages, in each way in which it can reach a journal.

    at_once.py URL ROUNDS WAY…      sends it from two processes at once, to a session each round

`WAYS` serves the tests, too.
"""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from deltamem_agents import DeltaMem
from deltamem_agents.frameworks.resent import unwritten

TALK = [
    ("user", "I live in Oslo."),
    ("assistant", "Noted: Oslo."),
    ("user", "My boat is called Petrel."),
    ("assistant", "A fine name."),
    ("user", "I like tea."),
    ("assistant", "So do I."),
]
PROCESSES = 2
WAIT = 60.0  # seconds that a process waits for the other


def named(session: str) -> list[dict[str, Any]]:
    return [{"role": role, "content": text, "id": f"{session}-{i}"} for i, (role, text) in enumerate(TALK)]


def write(mem: DeltaMem, session: str) -> None:
    mem.agent("alice").write(named(session), session, wait=False)


async def awrite(mem: DeltaMem, session: str) -> None:
    await mem.agent("alice").awrite(named(session), session, wait=False)


def _missing(session: str) -> Any:
    said = [{"role": role, "content": text} for role, text in TALK]
    return partial(unwritten, agent="alice", session=session, messages=said)


def aligned(mem: DeltaMem, session: str) -> None:
    mem.agent("alice").write_selected(_missing(session), session, wait=False)


async def aaligned(mem: DeltaMem, session: str) -> None:
    await mem.agent("alice").awrite_selected(_missing(session), session, wait=False)


def _langchain() -> list[Any]:
    from langchain_core.messages import AIMessage, HumanMessage

    return [(HumanMessage if role == "user" else AIMessage)(text) for role, text in TALK]


def history(mem: DeltaMem, session: str) -> None:
    from langchain_deltamem import DeltaMemChatMessageHistory

    DeltaMemChatMessageHistory(mem, "alice", session, on_error="raise").add_messages(_langchain())


async def ahistory(mem: DeltaMem, session: str) -> None:
    from langchain_deltamem import DeltaMemChatMessageHistory

    await DeltaMemChatMessageHistory(mem, "alice", session, on_error="raise").aadd_messages(_langchain())


def _agent(mem: DeltaMem) -> Any:
    from langchain.agents import create_agent
    from langchain_core.language_models import FakeListChatModel

    from langchain_deltamem import DeltaMemMiddleware

    middleware = DeltaMemMiddleware(mem, "alice", mode="vector", on_error="raise")
    return create_agent(FakeListChatModel(responses=[TALK[-1][1]]), middleware=[middleware])


def middleware(mem: DeltaMem, session: str) -> None:
    thread: Any = {"configurable": {"thread_id": session}}
    _agent(mem).invoke({"messages": _langchain()[:-1]}, thread)


async def amiddleware(mem: DeltaMem, session: str) -> None:
    thread: Any = {"configurable": {"thread_id": session}}
    await _agent(mem).ainvoke({"messages": _langchain()[:-1]}, thread)


def _llama_index() -> list[Any]:
    from llama_index.core.llms import ChatMessage

    return [ChatMessage(role=role, content=text) for role, text in TALK]


def _memory(mem: DeltaMem, session: str) -> Any:
    from llama_index_deltamem import DeltaMemory

    return DeltaMemory.from_defaults(mem, "alice", session, on_error="raise")


def memory(mem: DeltaMem, session: str) -> None:
    _memory(mem, session).set(_llama_index())


async def amemory(mem: DeltaMem, session: str) -> None:
    await _memory(mem, session).aset(_llama_index())


def answered(mem: DeltaMem, session: str) -> None:
    """As a chat engine does: the history with the question, then the answer."""
    kept, (*asked, answer) = _memory(mem, session), _llama_index()
    kept.set(asked)
    kept.put(answer)


async def aanswered(mem: DeltaMem, session: str) -> None:
    kept, (*asked, answer) = _memory(mem, session), _llama_index()
    await kept.aset(asked)
    await kept.aput(answer)


def _block(mem: DeltaMem, session: str) -> tuple[Any, list[Any]]:
    from llama_index_deltamem import DeltaMemoryBlock

    messages = _llama_index()
    for each in messages:
        each.additional_kwargs["session_id"] = session
    return DeltaMemoryBlock(mem, "alice", on_error="raise"), messages


async def ablock(mem: DeltaMem, session: str) -> None:
    kept, messages = _block(mem, session)
    for place in range(0, len(messages), 2):
        await kept.aput(messages[place : place + 2])


def block(mem: DeltaMem, session: str) -> None:
    from llama_index_deltamem.sync_methods import finished

    finished(ablock(mem, session))


WAYS: dict[str, tuple[Callable[[DeltaMem, str], None], Callable[[DeltaMem, str], Any]]] = {
    "write": (write, awrite),
    "aligned": (aligned, aaligned),
    "history": (history, ahistory),
    "middleware": (middleware, amiddleware),
    "memory": (memory, amemory),
    "answered": (answered, aanswered),
    "block": (block, ablock),
}


def journalled(mem: DeltaMem, session: str) -> list[tuple[str, str]]:
    return [(entry.role, entry.text) for entry in mem.agent("alice").log(session)]


def _send(url: str, rounds: int, ways: list[str], together: Any) -> None:
    with DeltaMem.open(None, url=url, embedder=False) as mem:
        for way in ways:
            for number in range(-1, rounds):  # the first imports what it needs
                together.wait(WAIT)
                WAYS[way][0](mem, f"{way}-{number}")


def main(url: str, rounds: int, ways: list[str]) -> int:
    DeltaMem.open(None, url=url, embedder=False).close()
    fork = multiprocessing.get_context("fork")
    together = fork.Barrier(PROCESSES)
    processes = [fork.Process(target=_send, args=(url, rounds, ways, together)) for _ in range(PROCESSES)]
    for each in processes:
        each.start()
    for each in processes:
        each.join()
    return max(abs(each.exitcode or 0) for each in processes)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2]), sys.argv[3:]))
