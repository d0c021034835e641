"""How a journal is cut into the runs of tokens that are written in one causal context.

A segment is a run of adjacent messages of one session, filled greedily up to the write length; a longer message is
split. The cuts depend on the messages alone, so two journals with the same live messages have the same segments.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from deltamem_agents.engine.rendering import Rendering

_SENTENCE_END = re.compile(r"(?<=[.!?…。！？])\s+|\n+")


class Message(Protocol):
    """What a segment needs of a journal entry."""

    @property
    def position(self) -> int:
        """Its place in the journal, counted from 1."""

    @property
    def session(self) -> str:
        """The conversation it belongs to."""

    @property
    def role(self) -> str:
        """Who spoke."""

    @property
    def text(self) -> str:
        """What was said; not empty."""


@dataclass(slots=True)
class Segment:
    """Tokens that share one causal context.

    Args:
        start: Position of the last message before the segment; −1 if it starts in the middle of a message.
        end: Position of the last message that has its last token here; ``start`` of the next segment.
        ids: Token ids.
        messages: For each token the ordinal of its message in the segment.
        sentences: For each token the ordinal of its sentence in the segment.
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
    """Segments of live messages in journal order.

    Args:
        messages: Live messages beyond position ``after``, which must be the start of a segment.
        write_length: The most tokens in a segment.
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
    """A message's tokens, and for each the ordinal of its sentence; the role and end belong to the nearest sentence."""
    sentences = [part for part in _SENTENCE_END.split(message.text) if part.strip()] or [message.text]
    ids = rendering.message(message.role, message.text)
    if len(sentences) == 1:
        return _Rendered(ids, [0] * len(ids))
    # Where sentences end among the tokens: the rendering of the text up to there, less its closing markup.
    closing = len(rendering.message(message.role, "")) - len(rendering.opening(message.role))
    bounds: list[int] = []
    at = 0
    for sentence in sentences[:-1]:
        at = message.text.index(sentence, at) + len(sentence)
        bounds.append(len(rendering.message(message.role, message.text[:at])) - closing)
    ordinals = [sum(position >= bound for bound in bounds) for position in range(len(ids))]
    return _Rendered(ids, ordinals)


def _new(start: int, end: int, rendering: Rendering) -> Segment:
    ids = rendering.start()
    return Segment(start, end, ids, [0] * len(ids), [0] * len(ids))


def _fill(segment: Segment, rendered: _Rendered, rendering: Rendering, write_length: int) -> list[Segment]:
    """Put a message into a segment, and into fresh ones where it is longer; all of these, the one with its end last."""
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
