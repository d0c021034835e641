"""What a run of LangChain or LangGraph says of whose memory it is about."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from langchain_core.runnables import RunnableConfig, ensure_config
from langgraph.runtime import get_runtime


def named_in_context(context: object) -> object:
    """``agent_id`` of a run's context, whatever kind of object that is; None where it has none."""
    return context.get("agent_id") if isinstance(context, Mapping) else getattr(context, "agent_id", None)


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
