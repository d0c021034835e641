"""Report a recall to LangChain's callbacks, tracers and `astream_events` as a retriever's run with documents."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from langchain_core.documents import Document
from langchain_core.runnables.config import (
    ensure_config,
    get_async_callback_manager_for_config,
    get_callback_manager_for_config,
)

from deltamem_agents.frameworks.records import record_facts, record_id
from deltamem_agents.memory import AgentMemory
from deltamem_agents.recall import Record

TAGS = ["deltamem"]

T = TypeVar("T")


def documents(agent: AgentMemory, records: Sequence[Record]) -> list[Document]:
    """Records as LangChain's documents."""
    return [
        Document(page_content=each.text, id=record_id(agent.id, each), metadata=record_facts(agent.id, each))
        for each in records
    ]


def retrieved(name: str, query: str, find: Callable[[], T], shown: Callable[[T], list[Document]]) -> T:
    """Call ``find``, report it to the current run's callbacks, and return its result.

    Args:
        name: Name of the retriever's run.
        shown: Makes documents of the result.
    """
    manager = get_callback_manager_for_config(ensure_config())
    manager.add_tags(TAGS, inherit=False)
    run = manager.on_retriever_start(None, query, name=name)
    try:
        found = find()
    except BaseException as error:
        run.on_retriever_error(error)
        raise
    run.on_retriever_end(shown(found))
    return found


async def aretrieved(
    name: str, query: str, find: Callable[[], Awaitable[T]], shown: Callable[[T], list[Document]]
) -> T:
    """Async twin of `retrieved`; never blocks the event loop."""
    manager = get_async_callback_manager_for_config(ensure_config())
    manager.add_tags(TAGS, inherit=False)
    run = await manager.on_retriever_start(None, query, name=name)
    try:
        found = await find()
    except BaseException as error:
        await run.on_retriever_error(error)
        raise
    await run.on_retriever_end(shown(found))
    return found
