"""Small talk: messages without a fact that a question asks for, and what an assistant says to a message."""

from __future__ import annotations

import random
import re

from deltamem_agents.training.episodes.episode import Message, assistant, user
from deltamem_agents.training.episodes.values import draw_value
from deltamem_agents.training.episodes.vocabulary import (
    is_held_out,
    phrases,
    pick,
    sentence,
    share_of,
    with_articles,
    word,
)

_SLOT = re.compile(r"\{(\w+)\}")


def small_talk(rng: random.Random, *, held_out: bool = False) -> str:
    """A message of the user that says nothing worth asking for, held out or not."""
    while True:
        text = _SLOT.sub(lambda slot: _filled(rng, slot.group(1)), pick(rng, phrases("talk")))
        text = sentence(with_articles(text))
        if is_held_out(text) == held_out:
            return text


def small_turn(rng: random.Random, *, held_out: bool = False) -> list[Message]:
    """Small talk, and mostly a reply."""
    text = small_talk(rng, held_out=held_out)
    return [user(text), assistant(small_reply(text))] if rng.random() < 0.7 else [user(text)]


def small_reply(text: str) -> str:
    """What an assistant says to small talk; the same to the same."""
    replies = phrases("replies")
    return replies[int(share_of(f"reply|{text}") * len(replies))]


def acknowledgement(rng: random.Random) -> Message:
    """What an assistant says to something that it is told."""
    return assistant(pick(rng, phrases("acknowledged")))


def _filled(rng: random.Random, name: str) -> str:
    if name in ("past", "soon", "doc", "mood"):
        return pick(rng, phrases(name))
    return draw_value(rng, "given") if name == "given" else word(rng, name)
