"""What is journalled of a conversation (text, tool calls as blocks, both ends of a tool's result), and `Writer`.

`AgentMemory.chat` and the integrations journal the same messages in the same form.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from deltamem_agents import arguments, telemetry
from deltamem_agents.memory.async_methods import transaction
from deltamem_agents.memory.results import Reply
from deltamem_agents.memory.runtime import Runtime
from deltamem_agents.memory.sanitizing import plain_json, plain_text
from deltamem_agents.memory.tool_output import ToolOutput
from deltamem_agents.messages import block_text, check_messages
from deltamem_agents.store import Select
from deltamem_agents.tool_calls import tool_calls, with_calls

Messages = Sequence[Mapping[str, Any]]


def journalled(message: Mapping[str, Any], tools: ToolOutput | None = None, index: int = 0) -> dict[str, Any] | None:
    """A message as `AgentMemory.write` takes it; None if there is nothing to store.

    Tool calls become blocks after the text. They are visible in the journal, but neither folded nor retrieved, so an
    assistant's message with calls alone is stored too. A tool's result is shortened and, by default, not folded.

    Args:
        tools: How much of a tool's result to store.
        index: The message's position, for the error message.

    Raises:
        InvalidMessageError: The tool calls are not valid.
    """
    tools = tools or ToolOutput()
    content = message.get("content")
    if not says_something(content):
        content = None
    if message.get("role") == "tool":
        content = tools.of(content)
    content = with_calls(content, tool_calls(index, message))
    if content is None:
        return None
    kept = {key: value for key, value in message.items() if key != "tool_calls"} | {"content": content}
    return {"folded": tools.folded} | kept if message.get("role") == "tool" else kept


def journalled_chat(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The messages of a chat as they are journalled, without empty tool results.

    Raises:
        InvalidMessageError: A message cannot be journalled; the error says which and why.
    """
    check_messages([{**each, "content": "-"} if _is_empty_result(each) else each for each in _listed(messages)])
    kept = (journalled(message, index=index) for index, message in enumerate(messages))
    return [message for message in kept if message is not None]


def journalled_reply(reply: Reply) -> dict[str, Any] | None:
    """A reply as it is journalled; None if it says nothing. Metadata marks a cut-off reply as OpenAI's API does."""
    calls = [
        {"id": plain_text(call.id), "name": plain_text(call.name), "arguments": plain_json(call.arguments)}
        for call in reply.tool_calls
    ]
    message: dict[str, Any] = {"role": "assistant", "content": plain_text(reply.text), "tool_calls": calls}
    return journalled(message if reply.finished else message | {"metadata": {"finish_reason": "length"}})


def says_something(content: object) -> bool:
    """Whether content has text that is not blank, or any block that is not text."""
    if not isinstance(content, list):
        return bool(isinstance(content, str) and content.strip())
    return any(text is None or text.strip() for text in map(block_text, content))


def _listed(messages: Any) -> Any:
    """The messages, or whatever else was given, for `check_messages` to refuse."""
    return messages if isinstance(messages, Sequence) and not isinstance(messages, str | bytes) else [messages]


def _is_empty_result(message: object) -> bool:
    return isinstance(message, Mapping) and message.get("role") == "tool" and not says_something(message.get("content"))


class Writer:
    """Writes messages of one agent; see `AgentMemory.write`."""

    def __init__(self, runtime: Runtime, agent: str) -> None:
        self._runtime = runtime
        self._agent = agent

    def write(self, messages: Messages | Select, session: str, *, wait: bool = True) -> list[str]:
        """Journal messages, or those that a function selects; fold and index them now or in the background."""
        wait = arguments.flag(wait, "wait")
        self._runtime.check_open()
        with telemetry.operation(telemetry.written(messages), self._agent, session) as span:
            ids = self._write(messages, session, wait=wait)
            span.records(ids)
        return ids

    def _write(self, messages: Messages | Select, session: str, *, wait: bool) -> list[str]:
        with transaction() as journalled:
            ids = self._runtime.store.append(self._agent, messages, session)
            journalled += ids
        if not ids:
            return ids
        try:
            if wait:
                self._runtime.background.now(self._agent)
            else:
                self._runtime.background.later(self._agent)
        except BaseException as interrupt:  # Ctrl-C; all other errors are caught and counted
            interrupt.add_note(_durable(self._agent, session, ids))
            raise
        return ids


def _durable(agent: str, session: str, ids: Sequence[str]) -> str:
    """The note on an interrupt that came after the journal's commit."""
    one = len(ids) == 1
    named = f" (id {ids[0]})" if one else f" (ids {ids[0]} to {ids[-1]})" if ids else ""
    return (
        f"{len(ids)} message{'' if one else 's'} of agent {agent!r} in session {session!r}{named} "
        f"{'is' if one else 'are'} journalled: do not write {'it' if one else 'them'} again; recall folds the rest"
    )
