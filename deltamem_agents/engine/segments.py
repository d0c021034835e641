"""Cuts a journal into segments: runs of tokens that are written in one causal context. Also defines `AgentKey`.

A segment is a run of adjacent messages of one session, filled greedily up to the write length; a longer message is
split. The cuts depend on the messages alone, so two journals with the same live messages have the same segments.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from deltamem_agents.engine.rendering import Rendering

_SENTENCE_END = re.compile(r"(?<=[.!?…。！？])\s+|\n+")


class AgentKey(NamedTuple):
    """Identifies one agent's history.

    Args:
        owner: The database that holds it.
        epoch: The agent's epoch, which changes when its past does.
    """

    owner: Hashable
    agent: str
    epoch: int


StateKey = tuple[AgentKey, int]  # a history, and the position its state stands for


class Message(Protocol):
    """What `cut` needs to know about a journal entry."""

    @property
    def position(self) -> int:
        """Its place in the journal, counted from 1."""

    @property
    def session(self) -> str:
        """The conversation it belongs to."""

    @property
    def role(self) -> str:
        """Role of its author."""

    @property
    def text(self) -> str:
        """Its text; not empty."""


@dataclass(slots=True)
class Segment:
    """Tokens that share one causal context.

    Args:
        start: Position of the last message before the segment; −1 if it starts in the middle of a message.
        end: Position of the last message whose last token is here; ``start`` of the next segment.
        ids: Token ids.
        messages: Ordinal of each token's message in the segment.
        sentences: Ordinal of each token's sentence in the segment.
    """

    start: int
    end: int
    ids: list[int] = field(default_factory=list)
    messages: list[int] = field(default_factory=list)
    sentences: list[int] = field(default_factory=list)


@dataclass(slots=True)
class _Rendered:
    ids: list[int]
    sentences: list[int]


def cut(messages: Iterable[Message], rendering: Rendering, write_length: int, *, after: int = 0) -> Iterator[Segment]:
    """Cut live messages, in journal order, into segments.

    Args:
        messages: Live messages after position ``after``, which must be the start of a segment.
        write_length: Maximum number of tokens in a segment.
    """
    current: Segment | None = None
    session = ""
    done = after
    for message in messages:
        rendered = render(message, rendering)
        room = write_length - len(current.ids) if current else 0
        if current is None or message.session != session or len(rendered.ids) > room:
            if current:
                yield current
            current = _new(done, done, rendering)
        session = message.session
        *full, current = _fill(current, rendered, rendering, write_length)
        yield from full
        current.end = done = message.position
    if current:
        yield current


def render(message: Message, rendering: Rendering) -> _Rendered:
    """A message's tokens with the ordinal of each one's sentence; the markup belongs to the nearest sentence.

    A token belongs to the sentence that contains its first character. Runs in time linear in the text.
    """
    before, after = rendering.around(message.role)
    ends = _sentence_ends(message.text)
    if not ends:
        ids = [*before, *rendering.text(message.text), *after]
        return _Rendered(ids, [0] * len(ids))
    ids, starts = rendering.text_with_starts(message.text)
    ordinals = [0] * len(before)
    ordinal = 0
    for start in starts:
        while ordinal < len(ends) and start >= ends[ordinal]:
            ordinal += 1
        ordinals.append(ordinal)
    return _Rendered([*before, *ids, *after], ordinals + [ordinal] * len(after))


def _sentence_ends(text: str) -> list[int]:
    """End of each sentence but the last; the space between two sentences belongs to the second."""
    ends: list[int] = []
    start = end = 0
    spoken = False  # whether a sentence has ended that another may follow
    for gap in chain(_SENTENCE_END.finditer(text), [None]):
        stop = len(text) if gap is None else gap.start()
        if text[start:stop].strip():
            if spoken:
                ends.append(end)
            spoken, end = True, stop
        start = len(text) if gap is None else gap.end()
    return ends


def _new(start: int, end: int, rendering: Rendering) -> Segment:
    ids = rendering.start()
    return Segment(start, end, ids, [0] * len(ids), [0] * len(ids))


def _fill(segment: Segment, rendered: _Rendered, rendering: Rendering, write_length: int) -> list[Segment]:
    """Append a message to a segment, and to new ones if it is longer; return them all, the one with its end last."""
    filled = [segment]
    at = 0
    while True:
        segment = filled[-1]
        room = max(1, write_length - len(segment.ids))
        piece = slice(at, at + room)
        message = segment.messages[-1] + 1 if segment.messages else 0
        first = segment.sentences[-1] + 1 if segment.sentences else 0
        sentences = rendered.sentences[piece]
        segment.ids += rendered.ids[piece]
        segment.messages += [message] * len(sentences)
        segment.sentences += [first + ordinal - sentences[0] for ordinal in sentences]
        at += room
        if at >= len(rendered.ids):
            return filled
        filled.append(_new(-1, segment.end, rendering))
