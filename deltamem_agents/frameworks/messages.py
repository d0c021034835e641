"""Converts messages of agent frameworks to the mappings that `AgentMemory` takes, and back.

Knows no framework: an integration converts its own messages to `FrameworkMessage`, and back.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from deltamem_agents.errors import InvalidAgentError
from deltamem_agents.memory.journalling import journalled
from deltamem_agents.memory.sanitizing import plain_json, plain_text
from deltamem_agents.memory.tool_output import ToolOutput, are_cuts
from deltamem_agents.messages import TEXT_TYPES, NewMessage, text_of
from deltamem_agents.store import Entry, check_id, check_messages, wording_of
from deltamem_agents.tool_calls import TOOL_CALL, ToolCall

log = logging.getLogger(__name__)

ROLES: Mapping[str, str] = {
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "ai": "assistant",
    "chatbot": "assistant",
    "model": "assistant",
    "system": "system",
    "developer": "system",
    "tool": "tool",
    "function": "tool",
}
SANITIZED = "sanitized"  # metadata key: names the parts of the message that were changed to fit the journal
CLEARED: Mapping[str, str] = {"type": "history_cleared"}


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameworkMessage:
    """A framework's message in a neutral form.

    Args:
        role: One of our roles; see `own_role`.
        content: Text, a list of blocks, or None.
        id: The framework's id; if None, the journal creates one.
        metadata: Stored in the journal, as far as JSON can hold it.
        tool_calls: The tool calls of an assistant message.
    """

    role: str
    content: str | list[Any] | None = None
    id: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    tool_calls: tuple[ToolCall, ...] = ()

    def for_prompt(self) -> dict[str, Any] | None:
        """The message as `AgentMemory.generate` takes it; None for a system or assistant message without text."""
        content = _plain_content(self.content)
        plain: dict[str, Any] = {"role": self.role, "content": content or ""}
        if self.id:
            plain["id"] = id_name(self.id)
        if self.tool_calls:
            return plain | {"tool_calls": [_plain_call(call).as_function() for call in self.tool_calls]}
        return None if self.role in ("system", "assistant") and not text_of(content).strip() else plain

    def for_journal(self, tools: ToolOutput | None = None) -> dict[str, Any] | None:
        """The message as `AgentMemory.write` takes it; None if there is nothing to store.

        See `memory.journalling`. Values that the journal cannot hold are replaced, see `memory.sanitizing`; the
        metadata then lists the changed parts under `SANITIZED`.

        Args:
            tools: How much of a tool's result to store.
        """
        content = _plain_content(self.content)
        calls = [_plain_call(call) for call in self.tool_calls]
        metadata = {plain_text(key): plain_json(value) for key, value in self.metadata.items() if not _is_empty(value)}
        changed = [
            name
            for name, given, kept in (
                ("content", self.content, content),
                ("tool_calls", [call.arguments for call in self.tool_calls], [call.arguments for call in calls]),
                ("metadata", {key: value for key, value in self.metadata.items() if not _is_empty(value)}, metadata),
            )
            if not _equal(given, kept)
        ]
        message: dict[str, Any] = {"role": self.role, "content": content, "tool_calls": calls}
        if self.id:
            message["id"] = id_name(self.id)
        kept = journalled(message, tools)
        if kept is None:
            return None
        if changed:
            metadata[SANITIZED] = changed
            _tell_once()
        return kept | {"metadata": metadata} if metadata else kept


def for_prompt(messages: Iterable[FrameworkMessage]) -> list[dict[str, Any]]:
    """A whole prompt without empty messages.

    Adjacent system messages are joined: a framework adds its own to the agent's and to recalled text, and many chat
    templates accept only one.
    """
    prompt: list[dict[str, Any]] = []
    for message in messages:
        plain = message.for_prompt()
        if plain and prompt and plain["role"] == prompt[-1]["role"] == "system":
            prompt[-1] |= {"content": _joined(prompt[-1]["content"], plain["content"])}
        elif plain:
            prompt.append(plain)
    return prompt


def for_journal(messages: Iterable[FrameworkMessage], tools: ToolOutput | None = None) -> list[dict[str, Any]]:
    """Messages as `AgentMemory.write` takes them, without empty ones; ``tools`` says how tool results are stored."""
    plain = (message.for_journal(tools) for message in messages)
    return [message for message in plain if message is not None]


def own_role(role: str) -> str:
    """Our role for a framework's role; an unknown role becomes "user"."""
    return ROLES.get(role, "user")


def from_journal(entry: Entry) -> FrameworkMessage:
    """Convert a journal entry back to what `FrameworkMessage.for_journal` was called on."""
    content, calls = entry.content, []
    if isinstance(content, list):
        calls = [block for block in content if _is_call(block)]
        content = [block for block in content if block not in calls]
        if calls and (not content or content == [{"type": "text", "text": entry.text}]):
            content = entry.text
    return FrameworkMessage(
        role=entry.role,
        content=content,
        id=entry.id,
        metadata=entry.metadata,
        tool_calls=tuple(ToolCall(id=call["id"], name=call["name"], arguments=call["args"]) for call in calls),
    )


def _is_call(block: object) -> bool:
    """Whether a block is a tool call as `FrameworkMessage.for_journal` writes it; other writers may use other forms."""
    return (
        isinstance(block, dict)
        and block.get("type") == TOOL_CALL
        and isinstance(block.get("id"), str)
        and isinstance(block.get("name"), str)
        and isinstance(block.get("args"), dict)
    )


def edited(log: Sequence[Entry], messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The messages whose id the session's journal has with other text.

    Raises:
        InvalidMessageError: A message cannot be journalled.
    """
    known = {entry.id: entry for entry in log}
    pairs = ((message, known.get(new.id), new) for message, new in zip(messages, check_messages(messages), strict=True))
    return [message for message, old, new in pairs if old is not None and not _same(old, new)]


def clearing() -> dict[str, Any]:
    """A message that marks a cleared chat history; earlier messages stay in memory."""
    return {"role": "system", "content": [dict(CLEARED)]}


def since_cleared(log: Sequence[Entry]) -> list[Entry]:
    """A session's entries after the last `clearing`."""
    return list(log[max((i + 1 for i, entry in enumerate(log) if entry.content == [CLEARED]), default=0) :])


def session_name(value: object) -> str:
    """A session id from a framework's value, "default" for None; hashed if the journal cannot hold it as an id."""
    return "default" if value is None else id_name(value)


def id_name(value: object) -> str:
    """A session or message id from a framework's value; hashed if the journal cannot hold it as an id."""
    name = str(value)
    try:
        return check_id(name, "session")
    except InvalidAgentError:
        return f"sha256:{hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()}"


def _same(old: Entry, new: NewMessage) -> bool:
    if wording_of(old) == wording_of(new):
        return True
    # A tool result journalled with another limit, or before there was a limit.
    return old.role == new.role == "tool" and are_cuts(old.text, new.text)


def _joined(first: str | list[Any], second: str | list[Any]) -> str | list[Any]:
    if isinstance(first, str) and isinstance(second, str):
        return f"{first}\n\n{second}"
    return [block for each in (first, second) for block in (each if isinstance(each, list) else [each])]


def _plain_content(content: Any) -> str | list[Any] | None:
    """Content in a form that the journal accepts: text, or a list of texts and mappings; None stays None."""
    if content is None or isinstance(content, str):
        return content if content is None else plain_text(content)
    blocks = content if isinstance(content, list | tuple) else [content]
    return [_plain_block(block) for block in blocks if block is not None and block != {}]


def _plain_block(block: Any) -> str | dict[str, Any]:
    plain = plain_json(block)
    if not isinstance(plain, dict):
        return plain if isinstance(plain, str) else json.dumps(plain)
    kind = plain.get("type", plain.get("block_type"))
    if kind in TEXT_TYPES and (kind is not None or "text" in plain) and not isinstance(plain.get("text"), str):
        text = plain.get("text")
        return plain | {"text": "" if text is None else json.dumps(text)}
    return plain


def _equal(given: Any, kept: Any) -> bool:
    try:
        return bool(given == kept)
    except Exception:  # whatever an object's `__eq__` raises
        return False


def _plain_call(call: ToolCall) -> ToolCall:
    return ToolCall(id=plain_text(call.id), name=plain_text(call.name), arguments=plain_json(call.arguments))


def _is_empty(value: Any) -> bool:
    return value is None or (isinstance(value, dict | list | tuple | str) and not value)


@cache
def _tell_once() -> None:
    log.warning(
        "a message held what a journal cannot (NUL, bytes, NaN, an object…); it was replaced, and metadata[%r] of such "
        "messages says where. This is logged once",
        SANITIZED,
    )
