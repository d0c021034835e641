"""Prompts and messages without text, and what values are called in errors."""

from __future__ import annotations

import pytest

from deltamem_agents.errors import InvalidMessageError, kind_of
from deltamem_agents.memory.prompting import prompt_messages

IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([IMAGE], ["no text", "image_url", "reads only text"]),
        ([IMAGE, {"type": "audio"}, {"type": "text", "text": ""}], ["no text", "audio, image_url, text"]),
        ([{}], ["no text", "unknown"]),
        ([], ["empty content []"]),
        ("", ["empty content ''", "leave the message out"]),
        (None, ["content None", "give a string"]),
        (7, ["content 7"]),
    ],
)
def test_a_prompt_without_text_is_told_so(content: object, words: list[str]) -> None:
    with pytest.raises(InvalidMessageError) as caught:
        prompt_messages([{"role": "user", "content": content}])
    assert all(word in str(caught.value) for word in ["message 0", *words])


def test_kinds_have_their_article() -> None:
    assert [kind_of(each) for each in (1, [], "", None, b"", object())] == [
        "an int", "a list", "a str", "None", "a bytes", "an object",
    ]  # fmt: skip
