"""Tool calls of an assistant's messages: as models' APIs give them, as chat templates take them, as a journal has them.

It stands beside the layers, like `messages`, which puts calls into a message's blocks.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from deltamem_agents.errors import InvalidMessageError, shown

TOOL_CALL = "tool_call"  # type of a block with a tool's name and arguments; stored, but not folded or retrieved


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """A call of a tool in an assistant's message."""

    id: str
    name: str
    arguments: Mapping[str, Any]

    def as_block(self) -> dict[str, Any]:
        """The call as a content block, which is how the journal holds it."""
        return {"type": TOOL_CALL, "id": self.id, "name": self.name, "args": dict(self.arguments)}

    def as_function(self) -> dict[str, Any]:
        """The call in OpenAI's form, which chat templates expect."""
        return {"id": self.id, "type": "function", "function": {"name": self.name, "arguments": dict(self.arguments)}}


def tool_calls(index: int, message: Mapping[str, Any]) -> tuple[ToolCall, ...]:
    """The ``tool_calls`` of a message: `ToolCall` objects, or mappings as OpenAI's and other APIs have them.

    Args:
        index: The message's position, for the error message.

    Raises:
        InvalidMessageError: They are not a list of calls, or only an assistant's message may have them.
    """
    given = message.get("tool_calls")
    if not given:
        return ()
    if isinstance(given, str | bytes | Mapping) or not isinstance(given, Sequence):
        raise InvalidMessageError(f"message {index} has tool_calls {shown(given)}; give a list of mappings")
    if message.get("role") != "assistant":
        raise InvalidMessageError(
            f"message {index} of role {shown(message.get('role'))} has tool_calls, which only an assistant makes; "
            "leave them out"
        )
    return tuple(_tool_call(index, each) for each in given)


def call_arguments(value: object) -> Mapping[str, Any]:
    """The arguments of a call, from a mapping or its JSON; ``{"input": value}`` for anything else."""
    if isinstance(value, str):
        with suppress(ValueError, RecursionError):
            value = json.loads(value)
    return value if isinstance(value, Mapping) else {} if value is None else {"input": value}


def with_calls(content: Any, calls: Sequence[ToolCall]) -> Any:
    """A message's content followed by its tool calls as blocks."""
    if not calls:
        return content
    blocks = content if isinstance(content, list) else [{"type": "text", "text": content}] if content else []
    return [*blocks, *(call.as_block() for call in calls)]


def _tool_call(index: int, call: object) -> ToolCall:
    if isinstance(call, ToolCall):
        return call
    inner = call.get("function", call) if isinstance(call, Mapping) else None
    name = inner.get("name") if isinstance(inner, Mapping) else None
    if not isinstance(call, Mapping) or not isinstance(inner, Mapping) or not isinstance(name, str):
        raise InvalidMessageError(
            f'message {index} has a tool call {shown(call)}; give {{"id": …, "function": {{"name": …, '
            '"arguments": {…}}}'
        )
    arguments = inner.get("arguments", inner.get("args"))
    return ToolCall(id=str(call.get("id") or ""), name=name, arguments=call_arguments(arguments))
