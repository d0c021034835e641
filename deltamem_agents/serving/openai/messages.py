"""OpenAI's messages as memory takes them; and recalled text among messages that go upstream as they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from deltamem_agents.errors import InvalidMessageError
from deltamem_agents.frameworks.messages import ROLES, FrameworkMessage
from deltamem_agents.memory import Reply
from deltamem_agents.messages import block_text, text_of
from deltamem_agents.serving.failures import HttpFailure
from deltamem_agents.tool_calls import ToolCall, tool_calls

Raw = Mapping[str, Any]
SYSTEM = ("system", "developer")
TEXTS = ("text", "input_text", "output_text", "refusal")


def conversation(given: object, *, text_only: bool, param: str = "messages") -> list[FrameworkMessage]:
    """The messages of a request.

    Args:
        text_only: Whether to refuse images and the like, which the backbone cannot read.

    Raises:
        HttpFailure: 400; they are not messages, or hold what cannot be read.
    """
    if not isinstance(given, list) or not given:
        raise HttpFailure(400, f"{param} must be a list of at least one message", "invalid_value", param=param)
    return [_message(each, f"{param}.{place}", place, text_only=text_only) for place, each in enumerate(given)]


def _message(given: object, param: str, place: int, *, text_only: bool) -> FrameworkMessage:
    role = given.get("role") if isinstance(given, Mapping) else None
    if not isinstance(given, Mapping) or role not in ("system", "developer", "user", "assistant", "tool", "function"):
        raise HttpFailure(400, f"{param} has no role that is known here", "invalid_value", param=f"{param}.role")
    content = checked_content(given.get("content"), f"{param}.content", text_only=text_only)
    try:
        calls = tool_calls(place, given)
    except InvalidMessageError as error:
        raise HttpFailure(400, str(error), "invalid_value", param=f"{param}.tool_calls") from None
    if content is None and not calls and role != "assistant":
        raise HttpFailure(400, f"{param} has no content", "invalid_value", param=f"{param}.content")
    details = {key: given[key] for key in ("name", "tool_call_id") if isinstance(given.get(key), str)}
    return FrameworkMessage(role=ROLES[str(role)], content=content, metadata=details, tool_calls=calls)


def checked_content(content: object, param: str, *, text_only: bool) -> str | list[Any] | None:
    """Content of a message, if it is text, a list of parts, or nothing.

    Raises:
        HttpFailure: 400.
    """
    if content is None or isinstance(content, str):
        return content
    if not isinstance(content, list) or not all(isinstance(each, Mapping) for each in content):
        raise HttpFailure(400, f"{param} must be text or a list of parts", "invalid_value", param=param)
    if text_only:
        strange = next((each.get("type") for each in content if each.get("type") not in TEXTS), None)
        if strange is not None or any(block_text(each) is None and "refusal" not in each for each in content):
            told = f"{param} has a part of another type than text, and the backbone reads text only; leave it out"
            raise HttpFailure(400, told, "unsupported_content", param=param)
    return [dict(each) for each in content]


def reply_message(reply: Reply) -> FrameworkMessage:
    """The backbone's reply, for the journal."""
    details = {} if reply.finished else {"finish_reason": "length"}
    return FrameworkMessage(role="assistant", content=reply.text, metadata=details, tool_calls=tuple(reply.tool_calls))


def upstream_message(message: Raw, finish_reason: object) -> FrameworkMessage | None:
    """The message of an upstream's reply, for the journal; None if it is not one."""
    content = message.get("content")
    try:
        calls: tuple[ToolCall, ...] = tool_calls(0, {"role": "assistant", "tool_calls": message.get("tool_calls")})
    except InvalidMessageError:
        calls = ()
    if not isinstance(content, str | list | None) or not (content or calls):
        return None
    details = {"finish_reason": "length"} if finish_reason == "length" else {}
    return FrameworkMessage(role="assistant", content=content, metadata=details, tool_calls=calls)


def question(messages: Sequence[FrameworkMessage]) -> str:
    """The text of the newest user message, which is the query to memory; empty if there is none."""
    return next((text_of(each.content).strip() for each in reversed(messages) if each.role == "user"), "")


def with_recalled(messages: Sequence[Raw], text: str, placement: str) -> list[dict[str, Any]]:
    """A request's own messages with recalled text in its place; all else is as it was sent."""
    found = [dict(each) for each in messages]
    if not text:
        return found
    asked = max((place for place, each in enumerate(found) if each.get("role") == "user"), default=-1)
    if placement == "last_human" and asked >= 0:
        found[asked]["content"] = _joined(text, found[asked].get("content"))
    elif found and found[0].get("role") in SYSTEM:
        found[0]["content"] = _joined(found[0].get("content"), text)
    else:
        found.insert(0, {"role": "system", "content": text})
    return found


def _joined(first: Any, second: Any) -> Any:
    if isinstance(first, str) and isinstance(second, str):
        return "\n\n".join(part for part in (first, second) if part)
    return [*_parts(first), *_parts(second)]


def _parts(content: Any) -> list[Any]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}] if content else []
    return list(content) if isinstance(content, list) else []
