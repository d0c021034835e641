"""Pairs of statements of which the newer replaces the older, and pairs of which it does not; seeded, vocabulary open.

Names, places and things are made of syllables as well as taken from lists, so that no rule can know them. Wordings
stand in two sets: the rules were written on "known"; "held out" was written beforehand and measured once they were done
(0.91 of changes found, none wrongly), and three of its wordings have been mended since.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Wordings = Literal["known", "held out"]


@dataclass(frozen=True, slots=True)
class Pair:
    """An older and a newer statement, and whether the newer replaces the older."""

    older: str
    newer: str
    changed: bool


_SYLLABLES = "ka lo mi ren tas vel dor ni sha bre quin ol fe gar zu pim hal ster wen oda".split()
_PEOPLE = "Ana Bo Leo Mara Tom Ingrid Yusuf Chen Priya Olga Mateo Aisha Hugo Nadia Sven Lucia".split()
_CITIES = "Oslo Bergen Lisbon Porto Rome Kyoto Lima Quito Leeds Graz Tartu Accra Hanoi Perth".split()
_FIRMS = "Acme Initech Siemens Globex Umbrella Hooli Contoso Northwind Bosch Vandelay".split()
_TOOLS = "ruff pylint webpack vite jenkins postgres mysql redis vim emacs tabs spaces bazel gradle".split()
_COLOURS = "red blue green teal yellow orange purple pink black white".split()
_QUALITIES = "tall short shy allergic vegan tired late funny strict clever bald hungry generous kind".split()
_THINGS = "gate shed locker garage office cellar bike safe wifi alarm".split()
_ROLES = "manager dentist landlord trainer supervisor tutor".split()
_KIN = "sister brother mother cousin neighbour daughter".split()
_DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday".split()
_TRADES = "nurse teacher plumber baker lawyer pilot carpenter chef".split()
_EVENTS = "standup retro review demo workshop seminar".split()
_DRINKS = "coffee tea juice milk cocoa lemonade".split()
_LANGUAGES = "French German Swahili Korean Finnish Welsh".split()

# {a}, {b}: the older and the newer value; {x}, {y}: two subjects.
_CHANGES: dict[Wordings, dict[str, list[tuple[str, str]]]] = {
    "known": {
        "city": [
            ("I live in {a}.", "Actually I moved to {b}."),
            ("I live in {a}.", "I live in {b} now."),
            ("{x} lives in {a}.", "{x} has moved to {b}."),
            ("My {kin} lives in {a}.", "My {kin} lives in {b} these days."),
            ("I'm based in {a}.", "I relocated to {b} last month."),
        ],
        "firm": [
            ("I work at {a}.", "I left {a} and joined {b}."),
            ("I work for {a}.", "I now work for {b}."),
            ("{x} works at {a}.", "{x} works at {b} now."),
        ],
        "tool": [
            ("Our {role2} is {a}.", "Our {role2} is now {b}."),
            ("We use {a}.", "Actually, we use {b}."),
            ("{X} runs on {a}.", "{X} runs on {b} now."),
            ("We use {a}.", "We switched from {a} to {b}."),
        ],
        "colour": [("My favourite colour is {a}.", "My favourite colour is {b} now.")],
        "code": [
            ("The {thing} code is {a}.", "The {thing} code is now {b}."),
            ("The {thing} code is {a}.", "The {thing} code was changed to {b}."),
        ],
        "day": [
            ("The {event} is on {a}.", "The {event} was moved to {b}."),
            ("We deploy on {a}s.", "We deploy on {b}s from now on."),
        ],
        "trade": [("I'm a {a}.", "I'm a {b} now."), ("{x} is a {a}.", "{x} is now a {b}.")],
        "person": [("My {role} is {a}.", "My {role} is {b} now."), ("My {role} is {a}.", "My new {role} is {b}.")],
        "drink": [("I drink {a} every morning.", "I no longer drink {a}."), ("I prefer {a}.", "I prefer {b} now.")],
    },
    "held out": {
        "city": [
            ("My home is in {a}.", "We have moved to {b} since."),
            ("I'm living in {a}.", "Hey, quick update: I'm living in {b} now."),
            ("{x} lives in {a}.", "{x} moved from {a} to {b}."),
            ("My {kin} is living in {a}.", "My {kin} just moved to {b}."),
            ("I live in {a}", "i've moved to {b}"),
            ("Our office is in {a}.", "Our office is in {b} now."),
        ],
        "firm": [
            ("I work at {a}.", "I started a new job at {b}."),
            ("I'm employed at {a}.", "I don't work at {a} any more."),
            ("My {kin} works for {a}.", "My {kin} has switched jobs, she's with {b} now. My {kin} works for {b}."),
            ("{x} works at {a}.", "These days {x} works at {b}."),
        ],
        "tool": [
            ("The {X} team uses {a}.", "The {X} team uses {b} now instead."),
            ("We build with {a}.", "From now on we build with {b}."),
            ("Our default {role2} is {a}.", "Our default {role2} has been changed to {b}."),
            ("We use {a}.", "We no longer use {a}."),
            ("We use {a}.", "We replaced {a} with {b}."),
        ],
        "colour": [
            ("The kitchen walls are {a}.", "The kitchen walls are {b} now."),
            ("My favourite colour is {a}.", "Correction: my favourite colour is {b}."),
        ],
        "code": [
            ("My {thing} code is {a}.", "My new {thing} code is {b}."),
            ("The {thing} password is {a}.", "The {thing} password has been reset to {b}."),
            ("My phone number is {a}.", "I've got a new phone number. My phone number is {b} now."),
            ("The rent is {a} euros.", "The rent went up to {b} euros."),
        ],
        "day": [
            ("The {event} takes place on {a}.", "The {event} now takes place on {b}."),
            ("The {event} is on {a}.", "The {event} has been postponed to {b}."),
            ("I go to the gym on {a}s.", "I go to the gym on {b}s now."),
        ],
        "trade": [("I work as a {a}.", "I work as a {b} now."), ("My {kin} is a {a}.", "My {kin} became a {b}.")],
        "person": [
            ("My {role} is called {a}.", "My {role} is called {b} now."),
            ("{a} is my {role}.", "{b} is my {role} now."),
            ("My {role} is {a}.", "{a} left; my {role} is {b} now."),
        ],
        "drink": [
            ("I take {a} with breakfast.", "I take {b} with breakfast now."),
            ("I drink {a}.", "I stopped drinking {a}."),
            ("My favourite drink is {a}.", "My favourite drink is {b} these days."),
        ],
    },
}
_SAME: dict[Wordings, list[tuple[str, str]]] = {
    "known": [
        ("{x} lives in {city}.", "{y} lives in {city} now."),
        ("{x} lives in {city}.", "{y} lives in {city2} now."),
        ("{X} runs on {tool}.", "{Y} runs on {tool} now."),
        ("The {thing} code is {n}.", "The {thing2} code is now {n2}."),
        ("{x} is {q}.", "{x} is {q2}."),
        ("{x} is {q}.", "{x} is {q2} now."),
        ("My {kin} is {q}.", "My {kin} is {q2}."),
        ("I like {drink}.", "I like {drink2} now."),
        ("I live in {city}.", "My {kin} moved to {city2}."),
        ("I live in {city}.", "I might move to {city2}."),
        ("We use {tool} for {X}.", "We use {tool2} for {Y} now."),
        ("The {event} is on {day}.", "The {event2} is on {day2} now."),
        ("I speak {lang}.", "I speak {lang2} now."),
        ("I live in {city} and my dog is called {y}.", "I moved to {city2}."),
    ],
    "held out": [
        ("{x}'s {kin} lives in {city}.", "{y}'s {kin} lives in {city2} now."),
        ("{x} works at {firm}.", "{y} works at {firm2} now."),
        ("My {kin} works at {firm}.", "I work at {firm2} now."),
        ("{x} is {q} and {q2}.", "{x} is {q3} now."),
        ("{x} is {q}.", "{x} is now a {trade}."),
        ("My {kin} is a {trade}.", "My {kin} is {q} now."),
        ("The {thing} is {colour}.", "The {thing} is {q} now."),
        ("The {thing} password is {n}.", "The {thing} number is now {n2}."),
        ("I visited {city}.", "Now I have visited {city2}."),
        ("I live in {city}.", "I went to {city2} last week."),
        ("I live in {city}.", "I used to live in {city2}."),
        ("I live in {city}.", "{x} has moved to {city2}."),
        ("I live in {city}.", "I'd love to move to {city2} one day."),
        ("I work at {firm}.", "I work in {city} now."),
        ("I have a dog called {x}.", "I have a cat called {y} now."),
        ("{x} plays chess.", "{x} plays tennis now."),
        ("My {role} is {x}.", "My {role} is {q} now."),
        ("My {role} is {x}.", "My {role2} is {y} now."),
        ("The {event} is on {day}.", "The {event} is at nine now."),
        ("The {event} is on {day}.", "I work on {day2} now."),
        ("My favourite colour is {colour}.", "My {kin}'s favourite colour is {colour2} now."),
        ("My favourite colour is {colour}.", "My favourite drink is {drink} now."),
        ("I met {x} in {city}.", "I met {y} in {city2}."),
        ("{x} bought a {colour} car.", "{x} bought a {colour2} bike now."),
        ("I learned {lang} in {city}.", "I am learning {lang2} now."),
        ("{X} is written in {lang}.", "{Y} is written in {lang2} now."),
        ("I drink {drink} in the morning.", "I drink {drink2} too now."),
        ("We use {tool}.", "They use {tool2} now."),
    ],
}


def pairs(count: int, wordings: Wordings, *, changed: bool, seed: int) -> Iterator[Pair]:
    """Pairs that state a change, or none, in turn from each kind of fact and each wording."""
    rng = random.Random(f"{seed} {wordings} {changed}")
    changes = [(kind, each) for kind, texts in _CHANGES[wordings].items() for each in texts]
    for number in range(count):
        words = _words(rng)
        if changed:
            kind, (older, newer) = changes[number % len(changes)]
            words["a"], words["b"] = _values(rng, kind)
        else:
            older, newer = _SAME[wordings][number % len(_SAME[wordings])]
        before = rng.choice(("", "", "", "By the way, ")) if older[0] == "{" or older[:2] in ("My", "I ") else ""
        yield Pair(before + older.format(**words), newer.format(**words), changed)


def _words(rng: random.Random) -> dict[str, str]:
    words = {}
    for key, listed in (
        ("x y", None), ("city city2", _CITIES), ("tool tool2", _TOOLS), ("firm firm2", _FIRMS),
        ("thing thing2", _THINGS),
        ("event event2", _EVENTS), ("day day2", _DAYS), ("lang lang2", _LANGUAGES), ("drink drink2", _DRINKS),
        ("colour colour2", _COLOURS), ("q q2 q3", _QUALITIES), ("kin", _KIN), ("role", _ROLES), ("trade", _TRADES),
    ):  # fmt: skip
        names = key.split()
        chosen = rng.sample(listed, len(names)) if listed else _names(rng, len(names))
        words |= dict(zip(names, chosen, strict=True))
    words["X"], words["Y"] = rng.sample(
        ["Alpha", "Beta", "Hornet", "Falcon", _made(rng).title(), _made(rng).title()], 2
    )
    words["role2"] = rng.choice(["linter", "formatter", "bundler", "database", "editor"])
    words["n"], words["n2"] = (str(each) for each in rng.sample(range(1000, 9999), 2))
    return words


def _values(rng: random.Random, kind: str) -> tuple[str, str]:
    if kind == "code":
        first, second = rng.sample(range(1000, 9999), 2)
        return str(first), str(second)
    listed = {
        "city": _CITIES, "firm": _FIRMS, "tool": _TOOLS, "colour": _COLOURS, "day": _DAYS, "trade": _TRADES,
        "person": _PEOPLE, "drink": _DRINKS,
    }[kind]  # fmt: skip
    if kind in ("city", "firm", "tool", "person") and rng.random() < 0.4:
        made = _made(rng), _made(rng)
        return (made[0], made[1]) if kind == "tool" else (made[0].title(), made[1].title())
    first_word, second_word = rng.sample(listed, 2)
    return first_word, second_word


def _names(rng: random.Random, count: int) -> list[str]:
    return [each if rng.random() < 0.6 else _made(rng).title() for each in rng.sample(_PEOPLE, count)]


def _made(rng: random.Random) -> str:
    return "".join(rng.sample(_SYLLABLES, rng.randint(2, 3)))
