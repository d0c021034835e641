"""LangChain's messages taken apart and put together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    ChatMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)

from deltamem_agents.frameworks import messages as shared
from deltamem_agents.frameworks.messages import FrameworkMessage, from_journal, own_role
from deltamem_agents.memory.results import ToolCall
from deltamem_agents.store import Entry

KEPT = ("name", "tool_call_id", "status", "additional_kwargs")  # fields of a message that go into metadata


def taken_apart(message: BaseMessage) -> FrameworkMessage:
    """A message of LangChain as ours.

    Raises:
        InvalidMessageError: Its role is unknown.
    """
    calls = message.tool_calls if isinstance(message, AIMessage) else []
    return FrameworkMessage(
        role=own_role(message.role if isinstance(message, ChatMessage) else message.type),
        content=message.content,
        id=message.id,
        metadata={key: getattr(message, key, None) for key in KEPT},
        tool_calls=tuple(ToolCall(id=call["id"] or "", name=call["name"], arguments=call["args"]) for call in calls),
    )


def put_together(entry: Entry) -> BaseMessage:
    """An entry of the journal as a message of LangChain."""
    found = from_journal(entry)
    fields: dict[str, Any] = {"content": found.content or "", "id": found.id}
    fields |= {key: found.metadata[key] for key in ("name", "additional_kwargs") if key in found.metadata}
    if found.role == "tool":
        fields["tool_call_id"] = found.metadata.get("tool_call_id", "")
        fields["status"] = found.metadata.get("status", "success")
        return ToolMessage(**fields)
    if found.role == "assistant":
        calls = [{"name": c.name, "args": dict(c.arguments), "id": c.id} for c in found.tool_calls]
        return AIMessage(**fields, tool_calls=calls)
    return SystemMessage(**fields) if found.role == "system" else HumanMessage(**fields)


def for_prompt(messages: Sequence[BaseMessage]) -> list[dict[str, Any]]:
    """A whole prompt, less messages that say nothing; see `frameworks.messages.for_prompt`."""
    return shared.for_prompt(map(taken_apart, messages))


def for_journal(messages: Sequence[BaseMessage]) -> list[dict[str, Any]]:
    """What to write of these messages, less those that say nothing."""
    return shared.for_journal(map(taken_apart, messages))
