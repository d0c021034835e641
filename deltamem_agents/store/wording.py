"""The wording of a message, by which a resent conversation is recognized. Knows nothing of SQL."""

from __future__ import annotations

import json
from typing import Any

from deltamem_agents.search_form import compared_form
from deltamem_agents.store.messages import VERSION, Entry, NewMessage

TOOL_CALL = "tool_call"  # type of a block with a tool's name and arguments; stored, but not folded or retrieved


def wording(role: str, text: str, blocks: list[Any] | None) -> str:
    """A string equal for messages that say the same, ignoring whitespace, Unicode form and invisible characters.

    Blocks count only if there is no text, except those of type "version", which always count. The id of a tool call
    does not count.

    >>> wording("user", "I like tea.\\n", None) == wording("user", "I like  tea.", None)
    True
    """
    squeezed = compared_form(text)
    chosen = blocks or []
    if squeezed:
        chosen = [each for each in chosen if isinstance(each, dict) and each.get("type") == VERSION]
    told = json.dumps([_without_id(each) for each in chosen], sort_keys=True) if chosen else ""
    return f"{role}\0{squeezed}\0{told}"


def wording_of(message: Entry | NewMessage) -> str:
    """The `wording` of a journalled or new message."""
    if isinstance(message, NewMessage):
        return wording(message.role, message.text, message.blocks)
    return wording(message.role, message.text, message.content if isinstance(message.content, list) else None)


def _without_id(block: Any) -> Any:
    if not isinstance(block, dict) or block.get("type") != TOOL_CALL:
        return block
    return {name: value for name, value in block.items() if name != "id"}
