"""Values of every kind: composed from words, numbers and made-up names, so that most are drawn only once.

The patterns stand in ``values.toml``; the words of which they are made in ``words.toml``.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from functools import cache

from deltamem_agents.errors import ConfigError
from deltamem_agents.training.episodes.vocabulary import invented, is_held_out, pick, table, with_articles, word

_PART = re.compile(r"\{(\w+|\d+\.\.\d+)\}|([#^])")
_LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZ"  # none that is read as a digit

Draw = Callable[[random.Random], str]


def draw_value(rng: random.Random, kind: str, *, held_out: bool = False, unlike: str = "") -> str:
    """A value of a kind of ``values.toml``, held out or not, other than ``unlike``.

    Raises:
        ConfigError: A thousand draws gave no such value.
        KeyError: There is no such kind.
    """
    for _ in range(1000):
        drawn = _draw(rng, kind)
        if drawn.startswith(("a ", "A ")):
            drawn = with_articles(drawn)
        if is_held_out(drawn) == held_out and drawn != unlike:
            return drawn
    raise ConfigError(f"no {kind} is {'held out' if held_out else 'left for training'}; add patterns to values.toml")


def _draw(rng: random.Random, kind: str) -> str:
    return "".join([part if isinstance(part, str) else part(rng) for part in pick(rng, _patterns(kind))])


@cache
def _patterns(kind: str) -> tuple[tuple[str | Draw, ...], ...]:
    return tuple(tuple(_parts(pattern)) for pattern in table("values.toml")[kind])


def _parts(pattern: str) -> list[str | Draw]:
    parts: list[str | Draw] = []
    end = 0
    for found in _PART.finditer(pattern):
        if found.start() > end:
            parts.append(pattern[end : found.start()])
        parts.append(_part(found.group(1) or found.group(2)))
        end = found.end()
    return [*parts, pattern[end:]] if end < len(pattern) else parts


def _part(name: str) -> Draw:
    if name == "#":
        return lambda rng: "0123456789"[int(rng.random() * 10)]
    if name == "^":
        return lambda rng: _LETTERS[int(rng.random() * len(_LETTERS))]
    if ".." in name:
        low, high = map(int, name.split(".."))
        return lambda rng: str(low + int(rng.random() * (high - low + 1)))
    small = name.lower()
    if name != small:
        change = str.upper if name == name.upper() else _capitalised
        draw = _part(small)
        return lambda rng: change(draw(rng))
    if small == "invented":
        return invented
    if small.endswith("_low") or small.startswith("low_"):
        inner = _part(small.removesuffix("_low").removeprefix("low_"))
        return lambda rng: inner(rng).lower()
    if small in table("values.toml"):
        return lambda rng: _draw(rng, small)
    return lambda rng: word(rng, small)


def _capitalised(text: str) -> str:
    return text[:1].upper() + text[1:]
