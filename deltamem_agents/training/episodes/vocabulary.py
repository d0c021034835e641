"""Words from which values and names are composed, and which strings training must never see.

A string is *held out* if its hash says so, whatever it is used for and on every machine: about one in ten of all values
and names. Words stand in ``words.toml``; made-up words of two or three syllables keep the vocabulary open.
"""

from __future__ import annotations

import hashlib
import random
import re
import tomllib
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Any, TypeVar

SHARE = 0.1  # of all values and names that are held out
ONSETS = "b b c ch d d f g h j k l l m m n n p r r s s sh t t th v w y z br dr fl gr pl st tr".split()
VOWELS = "a a e e i i o o u ai ea io".split()
CODAS = ["", "", "", "l", "n", "r", "s", "m", "nd", "x", "ck", "th"]

T = TypeVar("T")


def is_held_out(text: str) -> bool:
    """Whether training never sees this value or name; letter case does not count."""
    return share_of(f"value|{text.casefold()}") < SHARE


def share_of(text: str) -> float:
    """A number from 0 up to 1 that depends on the text alone."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4]) / 2**32


@cache
def hidden(texts: tuple[str, ...], axis: str, *, share: float = 0.2) -> frozenset[str]:
    """The members of a short list that are held out: those of the lowest hashes, at least one, never the first."""
    ordered = sorted(set(texts) - {texts[0]}, key=lambda text: share_of(f"{axis}|{text}"))
    return frozenset(ordered[: max(1, round(share * len(texts)))])


@cache
def told_apart(texts: tuple[str, ...], axis: str, *, held_out: bool, share: float = 0.2) -> tuple[str, ...]:
    """The held-out members of a list of three or more, or the others; a shorter list is never split."""
    if len(texts) < 3:
        return texts
    kept = hidden(texts, axis, share=share)
    return tuple(text for text in texts if (text in kept) == held_out)


@cache
def words(name: str) -> tuple[str, ...]:
    """A list of ``words.toml``.

    Raises:
        KeyError: There is no such list.
    """
    return tuple(str(table("words.toml")[name]).split())


@cache
def table(name: str) -> dict[str, Any]:
    """A TOML file of this package."""
    return tomllib.loads(files(__package__).joinpath(name).read_text(encoding="utf-8"))


@cache
def phrases(name: str) -> tuple[str, ...]:
    """A list of ``phrases.toml``.

    Raises:
        KeyError: There is no such list.
    """
    return tuple(table("phrases.toml")[name])


def word(rng: random.Random, *names: str) -> str:
    """A word from one of these lists."""
    return pick(rng, words(pick(rng, names) if len(names) > 1 else names[0]))


def pick(rng: random.Random, options: Sequence[T]) -> T:
    """One of the options; a faster `random.choice` whose result is the same in every version of Python."""
    return options[int(rng.random() * len(options))]


def number(rng: random.Random, low: int, high: int) -> int:
    """A whole number from ``low`` to ``high``."""
    return low + int(rng.random() * (high - low + 1))


def invented(rng: random.Random) -> str:
    """A capitalised word of two or three syllables that is in no list."""
    middle = pick(rng, ONSETS) + pick(rng, VOWELS) if rng.random() < 0.4 else ""
    return (
        pick(rng, ONSETS) + pick(rng, VOWELS) + middle + pick(rng, ONSETS) + pick(rng, VOWELS) + pick(rng, CODAS)
    ).title()


def article(text: str) -> str:
    """The indefinite article for a text, by its first letter."""
    vowel = text[:1].lower() in tuple("aeiou") and not text.lower().startswith(("uk", "eu", "uni", "use", "one"))
    return "an" if vowel or re.match(r"8|1[18]\b|hour|honest", text) else "a"


def with_articles(text: str) -> str:
    """A text whose every "a" before a vowel is "an"."""
    return re.sub(r"\b([Aa]) (?=(\w+))", lambda found: f"{found[1]}{article(found[2])[1:]} ", text)


def sentence(text: str) -> str:
    """A clause with a capital first letter and a full stop."""
    closed = text if text.endswith((".", "!", "?")) else f"{text}."
    return closed[:1].upper() + closed[1:]
