"""The shape of a message: its keys and limits, the text of its content, and how a journal holds it.

A message comes in as a mapping and is checked here, once. The module stands beside the layers because the store, which
appends messages, lies below `memory`, which renders them. It knows nothing of SQL, models or frameworks. A resent
conversation is recognized by the `wording` of its messages.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple
from uuid import uuid4

from deltamem_agents import arguments, bounded_json
from deltamem_agents.errors import ConfigError, InvalidMessageError, shown
from deltamem_agents.search_form import compared_form
from deltamem_agents.tool_calls import TOOL_CALL, tool_calls, with_calls

ROLES = ("system", "user", "assistant", "tool")
ID_LIMIT = 255  # characters of an agent, session, message or model id
# Limits of one message, so that an archive of it can be read within bounds; a quarter if it is not plain ASCII.
TEXT_BYTES = 10 << 20  # bytes of each text in UTF-8
TEXT_AS_JSON = 15 << 20  # bytes of a text in an archive, where quotes and control characters take two to six bytes
BLOCKS_BYTES = 16 << 20  # bytes of the blocks as JSON; enough for a few images
DETAILS_BYTES = 4 << 20  # bytes of the metadata as JSON
IN_METADATA = ("name", "tool_call_id")  # keys in the APIs of models that are stored as metadata
KEYS = ("role", "content", "id", "metadata", "created_at", "folded", "tool_calls", *IN_METADATA)
TEXT_TYPES = (None, "text", "input_text", "output_text")  # the frameworks' names for a block of text
VERSION = "version"  # a block of this type distinguishes messages with the same text


@dataclass(frozen=True, slots=True, kw_only=True)
class NewMessage:
    """A checked message that is not in the journal yet.

    ``blocks`` is None if the content is plain text. ``named`` says whether the caller gave the id, ``folded`` whether
    the text goes into the state.
    """

    id: str
    role: str
    text: str
    blocks: list[Any] | None
    metadata: dict[str, Any]
    created_at: datetime
    named: bool = True
    folded: bool = True

    def says_the_same(self, role: str, text: str, blocks: list[Any] | None) -> bool:
        """Whether a stored message says the same as this one.

        Blocks count only if the messages have no text; blocks of type "version" always count.
        """
        if self.role != role or self.text != text:
            return False
        return _versions(self.blocks) == _versions(blocks) if text else self.blocks == blocks


class MessageRef(NamedTuple):
    """Identifies a message within its agent; message ids are unique only within their session."""

    session: str
    id: str

    def as_dict(self) -> dict[str, str]:
        """The fields as a mapping for JSON."""
        return self._asdict()


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A message of an agent's journal.

    ``content`` is as the caller gave it (text, or a list of blocks); ``text`` is its text parts joined by newlines.
    ``position`` counts from 1 within the agent, ``created_at`` is in UTC, and ``folded`` says whether the text goes
    into the state.
    """

    id: str
    position: int
    session: str
    role: str
    content: str | list[Any]
    text: str
    metadata: dict[str, Any]
    created_at: datetime
    folded: bool = True

    @property
    def ref(self) -> MessageRef:
        """The session and id that identify the message within its agent."""
        return MessageRef(self.session, self.id)


def text_of(content: object) -> str:
    """The text of a message's content: the text itself, or its text blocks joined by newlines, without blank ones.

    Other blocks do not count: thoughts ("reasoning", "thinking"), calls, images.

    >>> text_of([{"type": "reasoning", "text": "Easy."}, {"type": "text", "text": "Four."}, "Or 4."])
    'Four.\\nOr 4.'
    """
    if isinstance(content, str):
        return content
    texts = map(block_text, content) if isinstance(content, list) else ()
    return "\n".join(text for text in texts if text and text.strip())


def block_text(block: object) -> str | None:
    """The text of one content block; None for a block that is not text."""
    if isinstance(block, str):
        return block
    text = block.get("text") if isinstance(block, Mapping) and is_text_block(block) else None
    return text if isinstance(text, str) else None


def is_text_block(block: Mapping[str, Any]) -> bool:
    """Whether a block is text, by its ``type`` (LlamaIndex: ``block_type``) or, without one, by its ``text``."""
    kind = block.get("type", block.get("block_type"))
    return kind in TEXT_TYPES and (kind is not None or block.get("text") is not None)


def _in_metadata(message: Mapping[str, Any]) -> dict[str, Any]:
    return {key: message[key] for key in IN_METADATA if message.get(key) is not None}


def in_utc(value: datetime) -> datetime:
    """An aware time in UTC; a time without a zone is taken as UTC."""
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def check_id(value: object, kind: str = "agent") -> str:
    """Check an agent or session id: a non-empty string of at most 255 characters that any database can hold.

    Raises:
        InvalidAgentError: The value is not such a string.
    """
    return arguments.identifier(value, kind, ID_LIMIT)


def check_messages(messages: object) -> list[NewMessage]:
    """Check all messages of one write before any is stored.

    Args:
        messages: A sequence of mappings with ``role`` and ``content``, optionally ``id``, ``metadata``, ``created_at``,
            ``folded``, ``name`` and ``tool_call_id``, which become metadata, and ``tool_calls``, which become blocks
            after the text.

    Raises:
        InvalidMessageError: A message cannot be journalled; the error says which and why.
    """
    if isinstance(messages, (str, bytes, Mapping)) or not isinstance(messages, Sequence):
        raise InvalidMessageError(
            f"messages must be a list of mappings, got {type(messages).__name__}; "
            'write [{"role": "user", "content": "…"}]'
        )
    now = datetime.now(UTC)
    return [_check_message(index, message, now) for index, message in enumerate(messages)]


def _versions(blocks: list[Any] | None) -> list[Any]:
    return [block for block in blocks or () if isinstance(block, dict) and block.get("type") == VERSION]


def _check_message(index: int, message: object, now: datetime) -> NewMessage:
    if not isinstance(message, Mapping):
        raise InvalidMessageError(
            f'message {index} is {shown(message)}, not a mapping; give {{"role": "user", "content": "…"}}'
        )
    unknown = [key for key in message if key not in KEYS]
    if unknown:
        raise InvalidMessageError(
            f"message {index} has an unknown key {shown(unknown[0])}; keys are {', '.join(KEYS)}: "
            "put anything else into metadata"
        )
    role = message.get("role")
    if role not in ROLES:
        raise InvalidMessageError(f"message {index} has role {shown(role)}; roles are {', '.join(ROLES)}")
    text, blocks = _check_content(index, with_calls(message.get("content"), tool_calls(index, message)))
    given = message.get("id")
    fault = None if given is None else arguments.identifier_fault(given, ID_LIMIT)
    if fault:
        raise InvalidMessageError(
            f"message {index} has an id {shown(given)} that {fault}; leave it out to have one made, "
            f"or give a non-empty string of up to {ID_LIMIT} characters without NUL"
        )
    metadata = message.get("metadata")
    if metadata is not None and not isinstance(metadata, Mapping):
        raise InvalidMessageError(f"message {index} has metadata {shown(metadata)}; give a mapping, or leave it out")
    return NewMessage(
        id=uuid4().hex if given is None else given,
        role=role,
        text=text,
        blocks=blocks,
        metadata=_as_json(index, "metadata", dict(metadata or {}) | _in_metadata(message), DETAILS_BYTES),
        created_at=_check_time(index, message.get("created_at"), now),
        named=given is not None,
        folded=_check_folded(index, message.get("folded"), role),
    )


def _check_folded(index: int, value: object, role: str) -> bool:
    """Whether the message is folded; by default all are except tool results."""
    if value is None:
        return role != "tool"
    if isinstance(value, bool):
        return value
    raise InvalidMessageError(
        f"message {index} has folded {shown(value)}; give True or False, or leave it out to fold all but results of "
        "tools"
    )


def _check_content(index: int, content: object) -> tuple[str, list[Any] | None]:
    if isinstance(content, str):
        _check_text(index, content)
        if not content.strip():
            raise InvalidMessageError(f"message {index} has empty content {shown(content)}; leave empty messages out")
        return content, None
    if not isinstance(content, list):
        raise InvalidMessageError(
            f"message {index} has content {shown(content)} of type {type(content).__name__}; "
            "give a string or a list of blocks"
        )
    texts: list[str] = []
    others = 0
    for block in content:
        text = _block_text(index, block)
        if text is None:
            others += 1
        elif text.strip():
            texts.append(text)
    if not texts and not others:
        raise InvalidMessageError(f"message {index} has only empty blocks {shown(content)}; leave empty messages out")
    blocks: list[Any] = _as_json(index, "content", content, BLOCKS_BYTES)
    return "\n".join(texts), blocks


def _block_text(index: int, block: object) -> str | None:
    """The text of a text block; None for any other block."""
    if not isinstance(block, str) and (not isinstance(block, Mapping) or not block):
        raise InvalidMessageError(f"message {index} has a block {shown(block)}; blocks are strings or mappings")
    text = block_text(block)
    if text is None and isinstance(block, Mapping) and is_text_block(block):
        raise InvalidMessageError(
            f"message {index} has a text block whose text is {shown(block.get('text'))}; give a string"
        )
    if text is not None:
        _check_text(index, text)
    return text


def _check_text(index: int, text: str) -> None:
    if "\0" in text:
        raise InvalidMessageError(
            f"message {index} has a NUL character at {text.index(chr(0))}, which databases refuse; remove it"
        )
    try:
        size = len(text.encode("utf-8"))
    except UnicodeEncodeError as error:
        raise InvalidMessageError(
            f"message {index} has a lone surrogate {text[error.start]!a} at {error.start}, which is not text; "
            "decode the bytes it came from with errors='replace'"
        ) from None
    if size > TEXT_BYTES:
        raise InvalidMessageError(
            f"message {index} has a text of {size} bytes, the limit is {TEXT_BYTES}; write it as several messages"
        )
    if size > TEXT_AS_JSON // 6 and (escaped := len(json.dumps(text, ensure_ascii=False).encode())) > TEXT_AS_JSON:
        raise InvalidMessageError(
            f"message {index} has a text of {escaped} bytes as JSON, the limit is {TEXT_AS_JSON}; write it as several "
            "messages"
        )


def _check_time(index: int, value: object, now: datetime) -> datetime:
    if value is None:
        return now
    try:
        time = datetime.fromisoformat(value) if isinstance(value, str) else value
        if isinstance(time, datetime):
            return in_utc(time)
    except (ValueError, OverflowError):
        pass  # falls through to the one error below
    raise InvalidMessageError(
        f"message {index} has created_at {shown(value)}; give a datetime or an ISO 8601 string (UTC where no zone is)"
    )


def _as_json(index: int, name: str, value: Any, limit: int) -> Any:
    """``value`` as a JSON column returns it, so that a message reads the same before and after it is stored."""
    try:
        data = json.dumps(value, allow_nan=False, ensure_ascii=False).encode()  # no lone surrogates
        return bounded_json.loads(data, limit=limit)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidMessageError(
            f"message {index} has {name} that JSON cannot hold ({error}); use strings, numbers, lists and mappings"
        ) from error


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


def check_descriptions(metadata: object) -> None:
    """Check new metadata of messages.

    Raises:
        ConfigError: It does not map positions to JSON objects.
    """
    if not isinstance(metadata, Mapping):
        raise ConfigError(f"metadata is {shown(metadata)}; give a mapping from position to metadata")
    for position, details in metadata.items():
        arguments.whole(position, "a position")
        arguments.mapping(details, "metadata")
        arguments.jsonable(details, "metadata")
