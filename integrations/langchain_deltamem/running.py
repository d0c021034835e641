"""Which agent a run of LangChain or LangGraph names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from langchain_core.runnables import RunnableConfig, ensure_config
from langchain_core.runnables.config import var_child_runnable_config
from langgraph.runtime import get_runtime

from deltamem_agents.frameworks.ownership import Owner


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
