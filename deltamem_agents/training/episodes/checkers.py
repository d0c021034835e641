"""What a reply must satisfy, decided by code: counting, comparing and parsing, never a model.

A checker is a frozen dataclass; its JSON form is its name and its fields, so that a file of episodes can hold it. There
is no checker with a free regular expression: a file from elsewhere could give one that never ends.
"""

from __future__ import annotations

import dataclasses
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from deltamem_agents.errors import EpisodeError, kind_of, shown

REPLY_LIMIT = 100_000  # characters; a longer reply satisfies nothing
_SENTENCE_END = re.compile(r"[.!?]+(?=\s|$)")
_NAMES: dict[str, type[Checker]] = {}


@dataclass(frozen=True)
class Checker(ABC):
    """A condition on a reply; ``name`` is its name in a file."""

    name: ClassVar[str]

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "name" in cls.__dict__:
            _NAMES[cls.name] = cls

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            _check_field(self.name, field, getattr(self, field.name))

    @abstractmethod
    def holds(self, reply: str) -> bool:
        """Whether a reply of at most `REPLY_LIMIT` characters satisfies the condition."""

    def accepts(self, reply: str) -> bool:
        """Whether a reply satisfies the condition; space around it is ignored."""
        return len(reply) <= REPLY_LIMIT and self.holds(reply.strip())

    def to_json(self) -> dict[str, Any]:
        """The name and the fields, as `checker_from_json` reads them."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {"name": self.name, **{name: _plain(value) for name, value in values.items()}}


@dataclass(frozen=True)
class Exactly(Checker):
    """The reply is this text."""

    name: ClassVar[str] = "exactly"
    text: str

    def holds(self, reply: str) -> bool:
        """Whether the reply is the text."""
        return reply == self.text.strip()


@dataclass(frozen=True)
class Contains(Checker):
    """The reply contains this text as whole words; case counts only with ``case``."""

    name: ClassVar[str] = "contains"
    text: str
    case: bool = False

    def holds(self, reply: str) -> bool:
        """Whether the text stands in the reply."""
        return _stands(self.text, reply, case=self.case)


@dataclass(frozen=True)
class ContainsAny(Checker):
    """The reply contains one of these texts as whole words."""

    name: ClassVar[str] = "contains any"
    texts: tuple[str, ...]

    def holds(self, reply: str) -> bool:
        """Whether a text stands in the reply."""
        return any(_stands(text, reply, case=False) for text in self.texts)


@dataclass(frozen=True)
class Lacks(Checker):
    """The reply contains none of these texts as whole words, and is not empty."""

    name: ClassVar[str] = "lacks"
    texts: tuple[str, ...]

    def holds(self, reply: str) -> bool:
        """Whether no text stands in the reply."""
        return bool(reply) and not any(_stands(text, reply, case=False) for text in self.texts)


@dataclass(frozen=True)
class LacksCharacters(Checker):
    """The reply contains none of these characters, and is not empty."""

    name: ClassVar[str] = "lacks characters"
    characters: str

    def holds(self, reply: str) -> bool:
        """Whether no character stands in the reply."""
        return bool(reply) and not set(self.characters) & set(reply)


@dataclass(frozen=True)
class BeginsWith(Checker):
    """The reply begins with this text, and goes on."""

    name: ClassVar[str] = "begins with"
    text: str

    def holds(self, reply: str) -> bool:
        """Whether the reply begins with the text."""
        return reply.startswith(self.text) and not reply[len(self.text) :][:1].isalnum() and reply != self.text


@dataclass(frozen=True)
class EndsWith(Checker):
    """The reply ends with this text, and says something before."""

    name: ClassVar[str] = "ends with"
    text: str

    def holds(self, reply: str) -> bool:
        """Whether the reply ends with the text."""
        before = reply[: -len(self.text)]
        return reply.endswith(self.text) and bool(before.strip()) and not before[-1:].isalnum()


@dataclass(frozen=True)
class Case(Checker):
    """The reply has no letter of the other case, and is not empty: ``case`` is "lower" or "upper"."""

    name: ClassVar[str] = "case"
    case: str

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of(self.name, "case", self.case, ("lower", "upper"))

    def holds(self, reply: str) -> bool:
        """Whether all letters are of this case."""
        return bool(reply) and reply == (reply.lower() if self.case == "lower" else reply.upper())


@dataclass(frozen=True)
class MaxWords(Checker):
    """The reply has at least one word and at most ``count``."""

    name: ClassVar[str] = "at most words"
    count: int

    def holds(self, reply: str) -> bool:
        """Whether the reply is no longer."""
        return 1 <= len(reply.split()) <= self.count


@dataclass(frozen=True)
class MaxSentences(Checker):
    """The reply has at most ``count`` sentences: runs of text that end with '.', '!' or '?' before a space."""

    name: ClassVar[str] = "at most sentences"
    count: int

    def holds(self, reply: str) -> bool:
        """Whether the reply has no more."""
        return bool(reply) and len([part for part in _SENTENCE_END.split(reply) if part.strip()]) <= self.count


@dataclass(frozen=True)
class AllOf(Checker):
    """The reply satisfies every one of these conditions."""

    name: ClassVar[str] = "all of"
    checkers: tuple[Checker, ...]

    def holds(self, reply: str) -> bool:
        """Whether every condition holds."""
        return all(checker.accepts(reply) for checker in self.checkers)


def checker_from_json(value: object) -> Checker:
    """Make a checker from its JSON form.

    Raises:
        EpisodeError: The form names no checker, lacks a field, or has one of a wrong type or value.
    """
    if not isinstance(value, Mapping) or not isinstance(value.get("name"), str):
        raise EpisodeError(f"checker is {shown(value)}; give a mapping with the name of a checker")
    named = _NAMES.get(value["name"])
    if named is None:
        raise EpisodeError(f"no checker {shown(value['name'])}; there are {', '.join(sorted(_NAMES))}")
    known = {field.name for field in dataclasses.fields(named)}
    unknown = sorted(set(map(str, value)) - known - {"name"})
    if unknown:
        raise EpisodeError(
            f"checker {named.name!r} has no field {shown(unknown[0])}; it has {', '.join(sorted(known))}"
        )
    try:
        return named(**{name: _parsed(each) for name, each in value.items() if name != "name"})
    except TypeError as error:
        raise EpisodeError(f"checker {named.name!r} lacks a field; it needs {', '.join(sorted(known))}") from error


def one_of(name: str, field: str, value: object, allowed: tuple[str, ...]) -> None:
    """Check a field that is one of a few words.

    Raises:
        EpisodeError: It is another.
    """
    if value not in allowed:
        raise EpisodeError(f"{field} of checker {name!r} is {shown(value)}; give one of {', '.join(allowed)}")


def _stands(text: str, reply: str, *, case: bool) -> bool:
    flags = 0 if case else re.IGNORECASE
    return re.search(rf"(?<!\w){re.escape(text)}(?!\w)", reply, flags) is not None


def _check_field(name: str, field: dataclasses.Field[Any], value: object) -> None:
    expected = str(field.type)
    if expected == "str":
        right = isinstance(value, str) and bool(value.strip())
    elif expected == "bool":
        right = isinstance(value, bool)
    elif expected == "int":
        right = isinstance(value, int) and not isinstance(value, bool) and value >= 1
    else:
        member: type = str if expected == "tuple[str, ...]" else Checker
        right = isinstance(value, tuple) and bool(value) and all(isinstance(each, member) and each for each in value)
    if not right:
        wanted = {"str": "text", "bool": "true or false", "int": "a whole number of 1 or more"}.get(expected, "a list")
        raise EpisodeError(f"{field.name} of checker {name!r} is {kind_of(value)}, {shown(value)}; give {wanted}")


def _plain(value: object) -> object:
    if isinstance(value, Checker):
        return value.to_json()
    return [_plain(each) for each in value] if isinstance(value, tuple) else value


def _parsed(value: object) -> Any:
    if isinstance(value, list):
        return tuple(_parsed(each) for each in value)
    return checker_from_json(value) if isinstance(value, Mapping) else value
