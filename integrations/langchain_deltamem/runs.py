"""Runs of LangChain and LangGraph: which agent a run names, and a recall reported as a retriever's run.

Callbacks, tracers and `astream_events` see the recall with its records as documents.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from langchain_core.documents import Document
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import (
    ensure_config,
    get_async_callback_manager_for_config,
    get_callback_manager_for_config,
    var_child_runnable_config,
)
from langgraph.runtime import get_runtime

from deltamem_agents.frameworks.ownership import Owner
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


class NamesAgent(Protocol):
    """A runnable whose fields name the agent whose memory it uses."""

    agent_id: str | Callable[[RunnableConfig], str] | None
    default_agent_id: str | None
    trust_configurable: bool


def owner_of(runnable: NamesAgent, ways: str) -> Owner:
    """The `Owner` that a runnable's fields describe; ``ways`` is as for `Owner`.

    Raises:
        ConfigError: Both ids are given.
        InvalidAgentError: An id is not valid.
    """
    return Owner(
        agent_id=runnable.agent_id,
        default_agent_id=runnable.default_agent_id,
        trust_configurable=runnable.trust_configurable,
        ways=ways,
    )


def named_in_context(context: object) -> object:
    """``agent_id`` of a run's context, whether that is a mapping or an object; None if it has none."""
    return context.get("agent_id") if isinstance(context, Mapping) else getattr(context, "agent_id", None)


def in_run() -> bool:
    """Whether a chain's or an agent's run is calling, rather than the user's own code."""
    return var_child_runnable_config.get() is not None


def named_by_run(config: RunnableConfig | None) -> dict[str, Any]:
    """Keyword arguments of `Owner.id` with what the run names, inside or outside a graph."""
    whole = ensure_config(config)
    try:
        runtime: object = get_runtime()
    except (RuntimeError, KeyError):  # not within a graph
        runtime = None
    return {
        "context": named_in_context(getattr(runtime, "context", None)),
        "configurable": whole.get("configurable", {}).get("agent_id"),
        "arguments": (whole,),
    }
