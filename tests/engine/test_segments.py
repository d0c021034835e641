"""Segments are a pure function of the live messages, and can be cut from any segment's start."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deltamem_agents import tiny
from deltamem_agents.engine import Rendering, cut
from deltamem_agents.engine.rendering import PART
from deltamem_agents.engine.segments import render

WRITE_LENGTH = 24


@pytest.fixture(scope="module")
def rendering() -> Rendering:
    from transformers import AutoTokenizer

    return Rendering(AutoTokenizer.from_pretrained(tiny.FOLDER))


def cuts(messages, rendering, after=0):
    segments = cut(messages, rendering, WRITE_LENGTH, after=after)
    return [(s.start, s.end, s.ids, s.messages, s.sentences) for s in segments]


journals = st.lists(st.tuples(st.sampled_from(["s1", "s1", "s2"]), st.integers(1, 60)), min_size=1, max_size=12)


@settings(max_examples=60, deadline=None)
@given(journal=journals)
def test_every_token_once_in_order_and_never_too_many(journal, rendering, said) -> None:
    messages = [said(i + 1, "teal " * words, session=session) for i, (session, words) in enumerate(journal)]
    segments = list(cut(messages, rendering, WRITE_LENGTH))
    said_tokens = [token for message in messages for token in rendering.message(message.role, message.text)]
    assert [token for segment in segments for token in segment.ids] == said_tokens
    assert all(len(s.ids) <= WRITE_LENGTH for s in segments)
    assert segments[-1].end == len(messages)
    for segment in segments:
        assert len(segment.ids) == len(segment.messages) == len(segment.sentences)


@settings(max_examples=60, deadline=None)
@given(journal=journals)
def test_cutting_again_from_any_segments_start_gives_the_same(journal, rendering, said) -> None:
    messages = [said(i + 1, "teal " * words, session=session) for i, (session, words) in enumerate(journal)]
    whole = cuts(messages, rendering)
    for index, (start, *_) in enumerate(whole):
        if start >= 0:
            rest = [message for message in messages if message.position > start]
            assert cuts(rest, rendering, after=start) == whole[index:]


def test_a_new_session_begins_a_segment(rendering, said) -> None:
    segments = list(cut([said(1, "a"), said(2, "b"), said(3, "c", session="s2"), said(4, "d")], rendering, 100))
    assert [(s.start, s.end) for s in segments] == [(0, 2), (2, 3), (3, 4)]


def test_a_long_message_is_split_and_its_last_piece_is_filled_up(rendering, said) -> None:
    segments = list(cut([said(1, "a"), said(2, "teal " * 30), said(3, "b")], rendering, WRITE_LENGTH))
    assert [s.start for s in segments] == [0, 1, -1]
    assert [s.end for s in segments] == [1, 1, 3]
    assert len(segments[1].ids) == WRITE_LENGTH


def test_messages_and_sentences_are_numbered(rendering, said) -> None:
    text = "My dog is Rex. I live in Oslo. Bye."
    (segment,) = cut([said(1, text), said(2, "I see.")], rendering, 100)
    first = [i for i, message in enumerate(segment.messages) if message == 0]
    assert sorted(set(segment.messages)) == [0, 1]
    assert [segment.sentences[i] for i in first] == sorted(segment.sentences[i] for i in first)
    assert sorted(set(segment.sentences)) == [0, 1, 2, 3]
    words = rendering.tokenizer.decode([t for t, s in zip(segment.ids, segment.sentences, strict=True) if s == 1])
    assert words.strip() == "I live in Oslo."


def by_prefixes(text: str, rendering: Rendering) -> list[int]:
    """Each token's sentence by definition: a sentence has ended where the rendering of all text up to it has."""
    sentences = [part for part in re.split(r"(?<=[.!?…。！？])\s+|\n+", text) if part.strip()] or [text]
    ids, at, bounds = rendering.message("user", text), 0, []
    closing = len(rendering.message("user", "")) - len(rendering.opening("user"))
    for sentence in sentences[:-1]:
        at = text.index(sentence, at) + len(sentence)
        bounds.append(len(rendering.message("user", text[:at])) - closing)
    return [sum(place >= bound for bound in bounds) for place in range(len(ids))]


@settings(max_examples=200, deadline=None)
@given(
    parts=st.lists(st.sampled_from(["Hello", " there", ". ", "! ", "…", "。\n", "\n\n", "  x", "😀", "é", "?? ", "\t"]))
)
def test_sentences_are_found_with_one_tokenisation(parts, rendering, said) -> None:
    text = "".join(parts) + "."
    rendered = render(said(1, text), rendering)
    assert rendered.ids == rendering.message("user", text)
    assert rendered.sentences == by_prefixes(text, rendering)


def test_a_long_text_has_the_tokens_that_it_has_as_a_whole(rendering, said) -> None:
    text = "Shelf 7 holds crate 49 of row 3, and nobody knows why. " * 1_000
    whole = rendering.tokenizer.encode(text, add_special_tokens=False)
    rendered = render(said(1, text), rendering)
    assert len(text) > 2 * PART and rendering.text(text) == whole == rendered.ids[1:-1]
    assert rendered.sentences[-1] == 999 and rendered.sentences == sorted(rendered.sentences)
