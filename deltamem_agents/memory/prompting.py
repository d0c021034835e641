"""Convert chat messages to what a chat template takes, and put recalled text into them."""

from __future__ import annotations

import json
import re
from bisect import bisect_left
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import pairwise
from typing import Any
from uuid import uuid4

from deltamem_agents.errors import InvalidMessageError, kind_of, shown
from deltamem_agents.memory.options import Placement
from deltamem_agents.messages import ROLES, text_of
from deltamem_agents.recall import Record, split_text
from deltamem_agents.recall.records import RECORD_LIMIT
from deltamem_agents.tool_calls import ToolCall, tool_calls

TURNS = 2  # turns before a question that are used with it
SPARE = 20  # records to search for beyond k, to make up for those that the prompt already contains
UNIQUE_ID = 16  # characters; an id of this length or more is taken to be unique across sessions
LONG = 200  # characters; a shorter record may occur in another text by chance


def prompt_messages(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Messages with text content, for a prompt.

    Unlike in the journal, an assistant message with tool calls may have no text.

    Raises:
        InvalidMessageError: There are none, a role is unknown, or a content is neither text nor a list of blocks.
    """
    if isinstance(messages, str | bytes | Mapping) or not isinstance(messages, Sequence) or not messages:
        raise InvalidMessageError('give at least one message: [{"role": "user", "content": "…"}]')
    return [_prompt_message(index, message) for index, message in enumerate(messages)]


def last_question(messages: Sequence[Mapping[str, Any]]) -> str:
    """The text of the newest user message, which is the query to memory; empty if there is none."""
    return next((str(m["content"]) for m in reversed(messages) if m["role"] == "user"), "")


def turns_before(messages: Sequence[Mapping[str, Any]]) -> list[str]:
    """The turns before the newest user message, which may depend on them ("And Germany?")."""
    spoken = [m for m in messages if m["role"] == "user" or (m["role"] == "assistant" and m["content"])]
    said = [(m["role"], str(m["content"])) for m in spoken]
    newest = max((place for place, (role, _) in enumerate(said) if role == "user"), default=0)
    return [text for _, text in said[:newest]][-TURNS:]


def with_recall(
    messages: Sequence[dict[str, Any]], text: str, placement: Placement | str = "system"
) -> list[dict[str, Any]]:
    """The messages with recalled text at the end of the system message; adds a system message if there is none.

    Args:
        placement: "last_human" puts it at the beginning of the newest user message instead, if there is one.
    """
    if not text:
        return list(messages)
    asked = max((place for place, each in enumerate(messages) if each["role"] == "user"), default=-1)
    if placement == "last_human" and asked >= 0:
        question = dict(messages[asked], content=f"{text}\n\n{messages[asked]['content']}")
        return [*messages[:asked], question, *messages[asked + 1 :]]
    if messages[0]["role"] == "system":
        system = dict(messages[0], content="\n\n".join(part for part in (messages[0]["content"], text) if part))
        return [system, *messages[1:]]
    return [{"role": "system", "content": text}, *messages]


def search_size(k: int, said: Sequence[str]) -> int:
    """How many records to search for so that `not_in_prompt` leaves k."""
    return k + min(len(said), SPARE)


def not_in_prompt(
    records: Sequence[Record], said: Sequence[str], given: Collection[tuple[str | None, str]] = ()
) -> list[Record]:
    """The records that a prompt does not contain yet: neither their text nor the message they come from.

    Args:
        said: The prompt's texts.
        given: Session and id of the prompt's messages, as far as known. Earlier versions of these messages are left out
            too. If the session is None, the id matches in any session, provided that it has `UNIQUE_ID` characters.
    """
    refs = set(given)
    anywhere = {id for session, id in refs if session is None and len(id) >= UNIQUE_ID}
    left = [each for each in records if each.ref not in refs and each.message_id not in anywhere]
    if not left:
        return []
    whole = {_plain(text) for text in said}
    pieces = whole | {_plain(piece) for text in said if len(text) > RECORD_LIMIT for piece in split_text(text)}
    return [record for record in left if not _within(_plain(record.text), pieces, whole)]


def newest_that_fit(
    messages: Sequence[dict[str, Any]], fits: Callable[[Sequence[dict[str, Any]]], bool]
) -> list[dict[str, Any]]:
    """Drop the oldest messages, as few as needed, until the rest fits.

    The system message, the newest user message and the last message always stay. Tool results are dropped together
    with the message that called the tools.
    """
    starts = [i for i, message in enumerate(messages) if message["role"] != "tool" or i == 0]
    groups = [range(start, end) for start, end in pairwise([*starts, len(messages)])]
    asked = max((i for i, message in enumerate(messages) if message["role"] == "user"), default=len(messages) - 1)
    kept = [asked in group or group is groups[-1] for group in groups]
    kept[0] = kept[0] or messages[0]["role"] == "system"
    can_go = [group for group, stays in zip(groups, kept, strict=True) if not stays]

    def without(number: int) -> list[dict[str, Any]]:
        gone = {i for group in can_go[:number] for i in group}
        return [message for i, message in enumerate(messages) if i not in gone]

    number = bisect_left(range(len(can_go)), True, key=lambda each: fits(without(each)))
    return without(number)


def _within(text: str, pieces: set[str], whole: set[str]) -> bool:
    """Whether a record is one of these pieces or, if it is long, part of one of the whole texts."""
    return text in pieces or (len(text) >= LONG and any(text in other for other in whole))


def _plain(text: str) -> str:
    """The text with every run of whitespace as one space."""
    return " ".join(text.split())


def _prompt_message(index: int, message: object) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        raise InvalidMessageError(f'message {index} is {kind_of(message)}; give {{"role": …, "content": …}}')
    role, content = message.get("role"), message.get("content")
    if role not in ROLES:
        raise InvalidMessageError(f"message {index} has role {shown(role)}; roles are {', '.join(ROLES)}")
    calls = tool_calls(index, message)
    if isinstance(content, list) or (content is None and calls):
        content = text_of(content)
    if not isinstance(content, str):
        raise InvalidMessageError(f"message {index} has content {shown(content)}; give a string or a list of blocks")
    if not (content or calls or role == "tool"):
        raise InvalidMessageError(f"message {index} {_without_text(message.get('content'))}")
    plain: dict[str, Any] = {"role": role, "content": content.encode("utf-8", "replace").decode()}
    return plain | {"tool_calls": [call.as_function() for call in calls]} if calls else plain


def _without_text(content: object) -> str:
    """Describe what is wrong with content that has no text."""
    if not isinstance(content, list) or not content:
        return f"has empty content {shown(content)}; give some text, or leave the message out"
    kinds = sorted({str(each.get("type", "unknown")) if isinstance(each, Mapping) else "text" for each in content})
    return f"has no text, only blocks of type {shown(', '.join(kinds))}; the backbone reads only text: add some"


_OPENS = re.compile(r"<tool_call>\s*+(?=\{)")
_CLOSES = re.compile(r"(?<=\})\s*+</tool_call>")


def split_tool_calls(text: str) -> tuple[str, tuple[ToolCall, ...]]:
    """The text without its well-formed tool calls, and these calls. Calls that do not parse stay in the text."""
    calls: list[ToolCall] = []
    kept: list[str] = []
    done = 0
    ends = [(end.start(), end.end()) for end in _CLOSES.finditer(text)]
    following = 0
    for begin in _OPENS.finditer(text):
        if begin.start() < done:
            continue  # inside a call
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
