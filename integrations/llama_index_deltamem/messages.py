"""Convert LlamaIndex's messages to ours and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llama_index.core.base.llms.types import (
    CachePoint,
    ChatMessage,
    ContentBlock,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
)

from deltamem_agents.errors import ConfigError, shown
from deltamem_agents.frameworks.messages import FrameworkMessage, from_journal, own_role
from deltamem_agents.frameworks.records import without_briefs
from deltamem_agents.memory.sanitizing import plain_json
from deltamem_agents.memory.tool_output import ToolOutput
from deltamem_agents.recall.given import recalled_in, without_recalled
from deltamem_agents.store import Entry
from deltamem_agents.tool_calls import ToolCall, call_arguments

_THOUGHT, _OBSERVATION = "Thought: ", "\nObservation: "  # as LlamaIndex's ReAct agents write
KEPT = ("tool_call_id", "name")  # entries of additional_kwargs that are stored in metadata under their own names
OTHERS = "additional_kwargs"  # metadata field for all other entries


def checked(messages: object) -> list[ChatMessage]:
    """Copies of messages that any chat store can hold.

    Values in ``additional_kwargs`` and tool arguments that JSON cannot hold are replaced; see `sanitizing`.

    Raises:
        ConfigError: ``messages`` is not a list of LlamaIndex's messages.
    """
    if not isinstance(messages, list | tuple):
        raise ConfigError(f"messages are {shown(messages)}; give a list of LlamaIndex's ChatMessage")
    for each in messages:
        if not isinstance(each, ChatMessage):
            raise ConfigError(f"a message is {shown(each)}; give LlamaIndex's ChatMessage(role=…, content=…)")
    return [_plain(each).model_copy(deep=True) for each in messages]


def _plain(message: ChatMessage) -> ChatMessage:
    try:
        message.model_dump_json()
    except Exception:  # whatever an object's own serializer raises
        calls = (block for block in message.blocks if isinstance(block, ToolCallBlock))
        plain = {id(each): each.model_copy(update={"tool_kwargs": plain_json(each.tool_kwargs)}) for each in calls}
        blocks = [plain.get(id(block), block) for block in message.blocks]
        kept = plain_json(message.additional_kwargs)
        return message.model_copy(update={"blocks": blocks, "additional_kwargs": kept})
    return message


def from_llama_index(message: ChatMessage, id: str | None = None) -> FrameworkMessage:
    """A message of LlamaIndex as ours, with ``id``, as it has none itself. Thoughts and cache points are left out."""
    said = [block for block in message.blocks if not isinstance(block, CachePoint | ThinkingBlock | ToolCallBlock)]
    content: str | list[Any]
    if all(isinstance(block, TextBlock) for block in said):
        content = "\n".join(block.text for block in said if isinstance(block, TextBlock))
    else:
        content = [block.model_dump(mode="json", exclude_none=True) for block in said]
    return FrameworkMessage(
        role=own_role(message.role.value),
        content=content,
        id=id,
        metadata=_metadata(message.additional_kwargs),
        tool_calls=tuple(_call(block) for block in message.blocks if isinstance(block, ToolCallBlock)),
    )


def to_llama_index(entry: Entry) -> ChatMessage:
    """An entry of the journal as a message of LlamaIndex.

    Any program may have written the entry. If LlamaIndex rejects its metadata or blocks, the message has the text only.
    """
    found = from_journal(entry)
    try:
        return _message_of(found)
    except ValueError:  # of pydantic
        return ChatMessage(role=found.role, content=entry.text)


def _message_of(found: FrameworkMessage) -> ChatMessage:
    blocks: list[Any] = list(found.content) if isinstance(found.content, list) else []
    if isinstance(found.content, str) and found.content:
        blocks = [TextBlock(text=found.content)]
    others = found.metadata.get(OTHERS)
    kept = {**others} if isinstance(others, dict) else {}
    kept |= {key: found.metadata[key] for key in KEPT if key in found.metadata}
    return ChatMessage(role=found.role, content=[*blocks, *tool_call_blocks(found.tool_calls)], additional_kwargs=kept)


def tool_call_blocks(calls: Sequence[ToolCall]) -> list[ContentBlock]:
    """Tool calls as blocks of a LlamaIndex message."""
    return [ToolCallBlock(tool_call_id=c.id, tool_name=c.name, tool_kwargs=dict(c.arguments)) for c in calls]


def with_observations_cut(message: dict[str, Any], tools: ToolOutput) -> dict[str, Any]:
    """A message for the journal; in a ReAct agent's reasoning, tool output is cut, and the message's folding is set.

    Such an agent puts its thoughts, actions, observations and answer into one assistant message.
    """
    text = message["content"]
    if message["role"] != "assistant" or not isinstance(text, str) or not text.startswith(_THOUGHT):
        return message
    begin, end = text.find(_OBSERVATION), text.rfind(f"\n{_THOUGHT}")
    if begin < 0:
        return message
    begin += len(_OBSERVATION)
    end = end if end >= begin else len(text)
    cut = tools.of(text[begin:end])
    return message | {"content": f"{text[:begin]}{cut}{text[end:]}", "folded": tools.folded}


def without_recall(messages: Sequence[ChatMessage]) -> list[ChatMessage]:
    """The messages of a prompt without the recalled text that a memory put into them.

    A system message with nothing else in it is left out. In a user message, only the beginning can be recalled text.
    """
    return [kept for message in messages if (kept := _without_recall(message)) is not None]


def asks(message: ChatMessage) -> bool:
    """Whether a message begins a turn: it is the user's."""
    return own_role(message.role.value) == "user"


def question(messages: Sequence[ChatMessage]) -> str:
    """The text of the newest user message, which is the query to memory; empty if there is none."""
    return next(((m.content or "").strip() for m in reversed(messages) if asks(m)), "")


def texts(messages: Sequence[ChatMessage]) -> list[str]:
    """The messages' texts, so that recall does not repeat them."""
    return [message.content or "" for message in messages]


def answers(message: ChatMessage) -> bool:
    """Whether a message ends a turn: it is the assistant's, without a tool call."""
    calls = any(isinstance(block, ToolCallBlock) for block in message.blocks)
    # Integrations of OpenAI and others keep tool calls where LlamaIndex had them before it had blocks.
    calls = calls or bool(message.additional_kwargs.get("tool_calls"))
    return own_role(message.role.value) == "assistant" and not calls


def _without_recall(message: ChatMessage) -> ChatMessage | None:
    role = own_role(message.role.value)
    if role not in ("system", "user"):
        return message
    blocks, found = list[ContentBlock](), False
    for given in message.blocks:
        block = given
        if role == "system" and isinstance(block, TextBlock) and (rest := without_briefs(block.text)) != block.text:
            found = True
            block = block.model_copy(update={"text": rest})
            if not rest.strip():
                continue
        places = recalled_in(block.text) if isinstance(block, TextBlock) else []
        if not isinstance(block, TextBlock) or not places or (role == "user" and (places[0][0] > 0 or blocks)):
            blocks.append(block)
            continue
        found = True
        text = block.text[places[0][1] :].lstrip("\n") if role == "user" else without_recalled(block.text)
        if text.strip():
            blocks.append(block.model_copy(update={"text": text}))
    if not found:
        return message
    return message.model_copy(update={"blocks": blocks}) if blocks or role == "user" else None


def _metadata(given: Mapping[str, Any]) -> dict[str, Any]:
    kept = {key: given.get(key) for key in KEPT}
    return kept | {OTHERS: {key: value for key, value in given.items() if key not in KEPT}}


def _call(block: ToolCallBlock) -> ToolCall:
    return ToolCall(id=block.tool_call_id or "", name=block.tool_name, arguments=call_arguments(block.tool_kwargs))
