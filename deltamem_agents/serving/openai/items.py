"""Items of the Responses API: what comes in as messages, and the backbone's reply as items."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from deltamem_agents.frameworks.messages import ROLES, FrameworkMessage
from deltamem_agents.messages import text_of
from deltamem_agents.serving.failures import HttpFailure
from deltamem_agents.serving.openai.messages import checked_content
from deltamem_agents.tool_calls import ToolCall, call_arguments

Item = Mapping[str, Any]


def messages_of(given: object, *, text_only: bool) -> list[FrameworkMessage]:
    """The input of a request as messages; the calls of tools that follow one another become one message.

    Raises:
        HttpFailure: 400; an item is not known, or holds what cannot be read.
    """
    if isinstance(given, str) and given:
        return [FrameworkMessage(role="user", content=given)]
    if not isinstance(given, list) or not given:
        raise HttpFailure(400, "input must be text, or a list of at least one item", "invalid_value", param="input")
    found: list[FrameworkMessage] = []
    for place, item in enumerate(given):
        param = f"input.{place}"
        if not isinstance(item, Mapping):
            raise HttpFailure(400, f"{param} must be an object", "invalid_value", param=param)
        kind = item.get("type", "message")
        if kind == "function_call":
            call = _call(item, param)
            before = found[-1] if found and found[-1].role == "assistant" else None
            if before is not None:
                found.pop()
            message = before or FrameworkMessage(role="assistant")
            found.append(replace(message, tool_calls=(*message.tool_calls, call)))
        elif kind != "reasoning":  # another model's thoughts; it was not said
            found.append(_message(item, kind, param, text_only=text_only))
    return found


def _message(item: Item, kind: object, param: str, *, text_only: bool) -> FrameworkMessage:
    if kind == "function_call_output" and isinstance(item.get("call_id"), str):
        content = checked_content(item.get("output"), f"{param}.output", text_only=text_only)
        return FrameworkMessage(role="tool", content=content or "", metadata={"tool_call_id": item["call_id"]})
    role = item.get("role")
    if kind != "message" or role not in ("user", "assistant", "system", "developer"):
        told = f"{param} is neither a message, a function_call nor a function_call_output, and no others are known here"
        raise HttpFailure(400, told, "unsupported_item", param=param)
    content = checked_content(item.get("content"), f"{param}.content", text_only=text_only)
    if not content and role != "assistant":
        raise HttpFailure(400, f"{param} has no content", "invalid_value", param=f"{param}.content")
    return FrameworkMessage(role=ROLES[str(role)], content=content)


def _call(item: Item, param: str) -> ToolCall:
    name, identity = item.get("name"), item.get("call_id")
    if not isinstance(name, str) or not isinstance(identity, str):
        raise HttpFailure(400, f"{param} must have name and call_id", "invalid_value", param=param)
    return ToolCall(id=identity, name=name, arguments=call_arguments(item.get("arguments")))


def message_item(identity: str, text: str, status: str = "completed", logprobs: Sequence[Any] = ()) -> dict[str, Any]:
    """A message of the assistant."""
    part = text_part(text, logprobs)
    return {"id": identity, "type": "message", "role": "assistant", "status": status, "content": [part]}


def text_part(text: str, logprobs: Sequence[Any] = ()) -> dict[str, Any]:
    """Text of a message."""
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": list(logprobs)}


def call_item(identity: str, call: ToolCall, arguments: str, status: str = "completed") -> dict[str, Any]:
    """A call of a tool."""
    kind = {"id": identity, "type": "function_call", "status": status}
    return kind | {"call_id": call.id, "name": call.name, "arguments": arguments}


def output_message(items: object, *, cut: bool) -> FrameworkMessage | None:
    """The output of an upstream's response as a message, for the journal; None if it says nothing."""
    texts: list[str] = []
    calls: list[ToolCall] = []
    for item in items if isinstance(items, list) else ():
        if not isinstance(item, Mapping):
            continue
        if item.get("type") == "message":
            texts.append(text_of(item.get("content")))
        elif item.get("type") == "function_call" and isinstance(item.get("name"), str):
            given = call_arguments(item.get("arguments"))
            calls.append(ToolCall(id=str(item.get("call_id")), name=item["name"], arguments=given))
    text = "\n".join(each for each in texts if each)
    if not (text or calls):
        return None
    details = {"finish_reason": "length"} if cut else {}
    return FrameworkMessage(role="assistant", content=text, metadata=details, tool_calls=tuple(calls))
