"""Convert LangChain's messages to ours and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)

from deltamem_agents.errors import ConfigError, shown
from deltamem_agents.frameworks import messages as shared
from deltamem_agents.frameworks.messages import FrameworkMessage, from_journal, own_role
from deltamem_agents.memory.tool_output import ToolOutput
from deltamem_agents.store import Entry
from deltamem_agents.tool_calls import ToolCall

# Fields of a message that are stored as metadata and restored from it.
KEPT = (
    *("name", "tool_call_id", "status", "artifact", "additional_kwargs"),
    *("usage_metadata", "response_metadata", "invalid_tool_calls"),
)
SUMMARY, SUMMARY_BEGINS = "summarization", "Here is a summary of the conversation to date:"
_OF_EVERY, _OF_TOOLS = ("name", "additional_kwargs", "response_metadata"), ("artifact",)
_OF_MODELS = ("usage_metadata", "invalid_tool_calls")
_ROLES: Sequence[tuple[type[BaseMessage], str]] = (  # their chunks are of these classes too
    (AIMessage, "assistant"),
    (HumanMessage, "user"),
    (SystemMessage, "system"),
    (ToolMessage, "tool"),
    (FunctionMessage, "tool"),
)


def from_langchain(message: BaseMessage) -> FrameworkMessage:
    """A message of LangChain as ours. A custom role counts as a user's, and is kept as metadata."""
    calls = message.tool_calls if isinstance(message, AIMessage) else []
    metadata = {key: getattr(message, key, None) for key in KEPT}
    if isinstance(message, ChatMessage):
        role, metadata["role"] = own_role(message.role), message.role
    else:
        role = next((ours for kind, ours in _ROLES if isinstance(message, kind)), own_role(message.type))
    return FrameworkMessage(
        role=role,
        content=_with_invalid_calls(message),
        id=message.id,
        metadata=metadata,
        tool_calls=tuple(ToolCall(id=call["id"] or "", name=call["name"], arguments=call["args"]) for call in calls),
    )


def to_langchain(entry: Entry) -> BaseMessage:
    """An entry of the journal as a message of LangChain.

    Any program may have written the entry. If LangChain rejects its metadata or blocks, the message has the text only.
    """
    found = from_journal(entry)
    try:
        return _message_of(found, found.metadata)
    except Exception:  # whatever its validators raise
        return _message_of(replace(found, content=entry.text), {})


def _message_of(found: FrameworkMessage, kept: Mapping[str, Any]) -> BaseMessage:
    content = found.content or ""
    if isinstance(content, list):
        content = [block for block in content if not _is_invalid_call(block)] or ""
    fields: dict[str, Any] = {"content": content, "id": found.id}
    fields |= {key: kept[key] for key in _OF_EVERY if key in kept}
    if isinstance(kept.get("role"), str):
        return ChatMessage(**fields, role=kept["role"])
    if found.role == "tool":
        fields |= {key: kept[key] for key in _OF_TOOLS if key in kept}
        return ToolMessage(**fields, tool_call_id=kept.get("tool_call_id", ""), status=kept.get("status", "success"))
    if found.role == "assistant":
        fields |= {key: kept[key] for key in _OF_MODELS if key in kept}
        calls = [{"name": c.name, "args": dict(c.arguments), "id": c.id} for c in found.tool_calls]
        return AIMessage(**fields, tool_calls=calls)
    return SystemMessage(**fields) if found.role == "system" else HumanMessage(**fields)


def for_prompt(messages: Sequence[BaseMessage]) -> list[dict[str, Any]]:
    """A whole prompt, without empty messages; see `frameworks.messages.for_prompt`."""
    return shared.for_prompt(map(from_langchain, messages))


def for_journal(messages: Sequence[BaseMessage], tools: ToolOutput | None = None) -> list[dict[str, Any]]:
    """These messages as `AgentMemory.write` takes them, without empty ones; ``tools`` cuts tools' results."""
    return shared.for_journal(map(from_langchain, messages), tools)


def is_summary(message: BaseMessage) -> bool:
    """Whether a message is LangChain's summary of earlier messages: nobody wrote it, so it is no statement or question.

    It is recognised by its text too, since clients that send their history again may keep only that.
    """
    return message.additional_kwargs.get("lc_source") == SUMMARY or (
        message.type == "human" and str(message.text).lstrip().startswith(SUMMARY_BEGINS)
    )


def without_orphans(messages: Sequence[BaseMessage]) -> list[BaseMessage]:
    """The messages without tool results whose calls are not among them, because providers refuse those."""
    called: set[str] = set()
    kept: list[BaseMessage] = []
    for message in messages:
        if isinstance(message, AIMessage):
            called.update(call["id"] for call in (*message.tool_calls, *message.invalid_tool_calls) if call["id"])
        if not isinstance(message, ToolMessage) or message.tool_call_id in called:
            kept.append(message)
    return kept


def _with_invalid_calls(message: BaseMessage) -> str | list[Any]:
    """A message's content with its malformed tool calls as blocks, because a tool message may answer them."""
    calls = message.invalid_tool_calls if isinstance(message, AIMessage) else []
    if not calls or (isinstance(message.content, list) and any(map(_is_invalid_call, message.content))):
        return message.content
    said = message.content if isinstance(message.content, list) else [message.content] if message.content else []
    return [*said, *(dict(call) for call in calls)]


def _is_invalid_call(block: Any) -> bool:
    return isinstance(block, Mapping) and block.get("type") == "invalid_tool_call"


def check_kind(messages: object) -> None:
    """Raise ConfigError unless these are LangChain's messages, in a list."""
    if not isinstance(messages, Sequence) or isinstance(messages, str | bytes):
        raise ConfigError(f"messages are {shown(messages)}; give a list of LangChain's messages")
    for each in messages:
        if not isinstance(each, BaseMessage):
            raise ConfigError(f"a message is {shown(each)}; give one of LangChain's, such as HumanMessage")
