"""Tool calls in generated text: JSON between ``<tool_call>`` tags, as Qwen and many others write them."""

from __future__ import annotations

import json
import re
from uuid import uuid4

from deltamem_agents.memory.results import ToolCall

_CALL = re.compile(r"<tool_call>\s*(\{.*?\})\s*</tool_call>", re.DOTALL)


def split_tool_calls(text: str) -> tuple[str, tuple[ToolCall, ...]]:
    """The text without its well-formed tool calls, and those. What does not parse stays text."""
    calls: list[ToolCall] = []

    def take(match: re.Match[str]) -> str:
        call = _parse(match.group(1))
        if call is None:
            return match.group(0)
        calls.append(call)
        return ""

    rest = _CALL.sub(take, text)
    return (rest.strip() if calls else text), tuple(calls)


def _parse(source: str) -> ToolCall | None:
    try:
        call = json.loads(source)
    except ValueError:
        return None
    name, arguments = call.get("name"), call.get("arguments", {})
    if not isinstance(name, str) or not isinstance(arguments, dict):
        return None
    return ToolCall(id=f"call_{uuid4().hex[:16]}", name=name, arguments=arguments)
