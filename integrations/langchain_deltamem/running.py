"""What a run of LangChain or LangGraph says of whose memory it is about."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from langchain_core.runnables import RunnableConfig, ensure_config
from langchain_core.runnables.config import var_child_runnable_config
from langgraph.runtime import get_runtime

from deltamem_agents.frameworks.ownership import Owner


class NamesAgent(Protocol):
    """A runnable with the fields by which its constructor says whose memory it works on."""

    agent_id: str | Callable[[RunnableConfig], str] | None
    default_agent_id: str | None
    trust_configurable: bool


def owner_of(runnable: NamesAgent, ways: str) -> Owner:
    """Whose memory a runnable works on, by its fields; ``ways`` is as for `Owner`."""
    return Owner(
        agent_id=runnable.agent_id,
        default_agent_id=runnable.default_agent_id,
        trust_configurable=runnable.trust_configurable,
        ways=ways,
    )


def named_in_context(context: object) -> object:
    """``agent_id`` of a run's context, whatever kind of object that is; None where it has none."""
    return context.get("agent_id") if isinstance(context, Mapping) else getattr(context, "agent_id", None)


def in_run() -> bool:
    """Whether this is called from within the run of a chain or an agent, and not by the user's own code."""
    return var_child_runnable_config.get() is not None


def named_by_run(config: RunnableConfig | None) -> dict[str, Any]:
    """Keyword arguments of `Owner.id`: what the run names, in a graph or out of one."""
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
