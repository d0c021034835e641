"""Messages of agent frameworks as the mappings that `AgentMemory` takes, and back: what the integrations share.

Knows no framework: an integration takes its own message apart into a `FrameworkMessage`, and puts one together again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any

from deltamem_agents.errors import InvalidAgentError, InvalidMessageError
from deltamem_agents.memory.results import ToolCall
from deltamem_agents.store import Entry, check_id, check_messages
from deltamem_agents.store.messages import NewMessage

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
# Blocks without text are kept in the journal, and neither folded nor retrieved.
TOOL_CALL = "tool_call"
CLEARED: Mapping[str, str] = {"type": "history_cleared"}


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameworkMessage:
    """A framework's message, taken apart.

    Args:
        role: One of ours; see `own_role`.
        content: Text, a list of blocks, or None.
        id: The framework's; None where it has none, the journal then makes one.
        metadata: Kept in the journal, as far as JSON can hold it.
        tool_calls: Those of an assistant's message.
    """

    role: str
    content: str | list[Any] | None = None
    id: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    tool_calls: tuple[ToolCall, ...] = ()

    def for_prompt(self) -> dict[str, Any] | None:
        """As `AgentMemory.generate` takes it; None for a system or assistant message that says nothing."""
        plain: dict[str, Any] = {"role": self.role, "content": self.content or ""}
        if self.tool_calls:
            return plain | {"tool_calls": [_function(call) for call in self.tool_calls]}
        return None if self.role in ("system", "assistant") and not _says_something(self.content) else plain

    def for_journal(self) -> dict[str, Any] | None:
        """As `AgentMemory.write` takes it; None where there is nothing to keep.

        Tool calls are kept as blocks after the text. Whoever reads the journal sees them; they are not folded.
        """
        content = self.content if _says_something(self.content) else None
        if self.tool_calls:
            texts = [{"type": "text", "text": content}] if isinstance(content, str) else content or []
            content = [*texts, *map(_block, self.tool_calls)]
        if content is None:
            return None
        message: dict[str, Any] = {"role": self.role, "content": content}
        if self.id:
            message["id"] = self.id
        metadata = {key: value for key, value in self.metadata.items() if _fits_json(value)}
        return message | {"metadata": metadata} if metadata else message


def for_prompt(messages: Iterable[FrameworkMessage]) -> list[dict[str, Any]]:
    """A whole prompt, less messages that say nothing.

    System messages that follow one another become one: a framework adds its own to that of an agent and to what was
    recalled, and many chat templates take one only.
    """
    prompt: list[dict[str, Any]] = []
    for message in messages:
        plain = message.for_prompt()
        if plain and prompt and plain["role"] == prompt[-1]["role"] == "system":
            prompt[-1] |= {"content": _joined(prompt[-1]["content"], plain["content"])}
        elif plain:
            prompt.append(plain)
    return prompt


def for_journal(messages: Iterable[FrameworkMessage]) -> list[dict[str, Any]]:
    """What to write of messages, less those that say nothing."""
    plain = (message.for_journal() for message in messages)
    return [message for message in plain if message is not None]


def own_role(role: str) -> str:
    """Our name of a framework's role.

    Raises:
        InvalidMessageError: No framework we know has it.
    """
    if role not in ROLES:
        raise InvalidMessageError(f"role {role!r} is none that is known; roles are {', '.join(ROLES)}")
    return ROLES[role]


def from_journal(entry: Entry) -> FrameworkMessage:
    """An entry of the journal as it was before `FrameworkMessage.for_journal`."""
    content, calls = entry.content, []
    if isinstance(content, list):
        calls = [block for block in content if isinstance(block, dict) and block.get("type") == TOOL_CALL]
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


def unwritten(log: Sequence[Entry], messages: Sequence[dict[str, Any]], *, whole: bool = False) -> list[dict[str, Any]]:
    """What a resent conversation adds to its session's journal.

    Clients that keep no state send the whole conversation each time, with new ids or none, so ids cannot tell. The
    longest beginning of ``messages`` that the journal ends with, by id or by role and text, is taken as known. Where
    the client keeps nothing of tools, the journal's calls and their results are passed over.

    Args:
        log: The session's live journal.
        messages: As `AgentMemory.write` takes them.
        whole: Whether they are the whole conversation, and so may also have gone another way than the journal, after
            an answer was drawn again or a question edited. The longest beginning that the journal has in this order is
            then known.

    Returns:
        The rest, and before it messages that kept their id and changed their text: those replace the old ones.
    """
    checked = check_messages(messages)
    log = [entry for entry in log if entry.content != [CLEARED]]
    known = _known(log, checked)
    if not any(_of_tools(message.role, message.blocks) for message in checked):
        known = max(known, _known([e for e in log if not _of_tools(e.role, _blocks(e))], checked), key=len)
    if whole:
        known = max(known, _in_order(log, checked), key=len)
    changed = [message for message, said in zip(messages, known, strict=False) if not said]
    return [*changed, *messages[len(known) :]]


def edited(log: Sequence[Entry], messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those of the messages that the session's journal has by their id, with other text."""
    known = {entry.id: entry for entry in log}
    pairs = ((message, known.get(new.id), new) for message, new in zip(messages, check_messages(messages), strict=True))
    return [message for message, old, new in pairs if old is not None and not _same(old, new)]


def clearing() -> dict[str, Any]:
    """A message after which a framework's chat history begins anew; what was said before stays in memory."""
    return {"role": "system", "content": [dict(CLEARED)]}


def since_cleared(log: Sequence[Entry]) -> list[Entry]:
    """A session's entries after the last `clearing`."""
    return list(log[max((i + 1 for i, entry in enumerate(log) if entry.content == [CLEARED]), default=0) :])


def session_name(value: object) -> str:
    """A session id from whatever a framework calls one; what the journal cannot hold as an id is hashed."""
    if value is None:
        return "default"
    name = str(value)
    try:
        return check_id(name, "session")
    except InvalidAgentError:
        return f"sha256:{hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()}"


def _known(log: Sequence[Entry], messages: Sequence[NewMessage]) -> list[bool]:
    """For each message of the longest beginning that ``log`` ends with: whether it says what it said."""
    for n in range(min(len(log), len(messages)), 0, -1):
        pairs = list(zip(log[-n:], messages[:n], strict=True))
        if all(old.id == new.id or _same(old, new) for old, new in pairs):
            return [_same(old, new) for old, new in pairs]
    return []


def _in_order(log: Sequence[Entry], messages: Sequence[NewMessage]) -> list[bool]:
    """True for each message of the longest beginning that ``log`` has in this order, whatever else it has between."""
    entries = iter(log)
    return [True for _ in takewhile(lambda new: any(_same(old, new) for old in entries), messages)]


def _same(old: Entry, new: NewMessage) -> bool:
    return new.says_the_same(old.role, old.text, _blocks(old))


def _of_tools(role: str, blocks: list[Any] | None) -> bool:
    """Whether a message is a tool's, or calls one."""
    return role == "tool" or any(isinstance(each, dict) and each.get("type") == TOOL_CALL for each in blocks or ())


def _joined(first: str | list[Any], second: str | list[Any]) -> str | list[Any]:
    if isinstance(first, str) and isinstance(second, str):
        return f"{first}\n\n{second}"
    return [block for each in (first, second) for block in (each if isinstance(each, list) else [each])]


def _blocks(entry: Entry) -> list[Any] | None:
    return entry.content if isinstance(entry.content, list) else None


def _says_something(content: str | list[Any] | None) -> bool:
    """Whether the journal takes it: text that is not blank, or any block that is not text."""
    if not isinstance(content, list):
        return bool(content and content.strip())
    for block in content:
        text = block if isinstance(block, str) else block.get("text") if isinstance(block, Mapping) else None
        if not isinstance(text, str) or text.strip():
            return True
    return False


def _function(call: ToolCall) -> dict[str, Any]:
    """A call as chat templates take it."""
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": dict(call.arguments)}}


def _block(call: ToolCall) -> dict[str, Any]:
    return {"type": TOOL_CALL, "id": call.id, "name": call.name, "args": dict(call.arguments)}


def _fits_json(value: Any) -> bool:
    if value is None or value == {} or value == []:
        return False
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return False
    return True
