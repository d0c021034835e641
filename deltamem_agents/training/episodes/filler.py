"""Small talk: messages without a fact that a question asks for, and what an assistant says to a message."""

from __future__ import annotations

import random
import re

from deltamem_agents.training.episodes.episode import Message, assistant, user
from deltamem_agents.training.episodes.values import draw_value
from deltamem_agents.training.episodes.vocabulary import is_held_out, phrases, pick, sentence, with_articles, word

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
    reply = [assistant(pick(rng, phrases("replies")))] if rng.random() < 0.7 else []
    return [user(small_talk(rng, held_out=held_out)), *reply]


def acknowledgement(rng: random.Random) -> Message:
    """What an assistant says to something that it is told."""
    return assistant(pick(rng, phrases("acknowledged")))


def _filled(rng: random.Random, name: str) -> str:
    if name in ("when", "doc", "mood"):
        return pick(rng, phrases(name))
    return draw_value(rng, "given") if name == "given" else word(rng, name)
