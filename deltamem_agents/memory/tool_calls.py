"""Tool calls in generated text: JSON between ``<tool_call>`` tags, as Qwen and many others write them."""

from __future__ import annotations

import json
import re
from uuid import uuid4

from deltamem_agents.memory.results import ToolCall

_OPENS = re.compile(r"<tool_call>\s*+(?=\{)")
_CLOSES = re.compile(r"(?<=\})\s*+</tool_call>")


def split_tool_calls(text: str) -> tuple[str, tuple[ToolCall, ...]]:
    """The text without its well-formed tool calls, and those. What does not parse stays text."""
    calls: list[ToolCall] = []
    kept: list[str] = []
    done = 0
    ends = [(end.start(), end.end()) for end in _CLOSES.finditer(text)]
    following = 0
    for begin in _OPENS.finditer(text):
        if begin.start() < done:
            continue  # within a call
        while following < len(ends) and ends[following][0] <= begin.end():
            following += 1
        if following == len(ends):
            break
        stop, after = ends[following]
        call = _parse(text[begin.end() : stop])
        kept.append(text[done : begin.start() if call else after])
        calls += [call] if call else []
        done = after
    rest = "".join([*kept, text[done:]])
    return (rest.strip() if calls else text), tuple(calls)


def _parse(source: str) -> ToolCall | None:
    try:
        call = json.loads(source)
    except (ValueError, RecursionError):
        return None
    name, arguments = call.get("name"), call.get("arguments", {})
    if not isinstance(name, str) or not isinstance(arguments, dict):
        return None
    return ToolCall(id=f"call_{uuid4().hex[:16]}", name=name, arguments=arguments)
