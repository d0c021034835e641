"""Standing rules: how each kind is told, what it prescribes, and the code that checks whether a reply follows it.

A rule is told once. Later requests share no content word with it, so that only a memory which bends every answer can
follow it. Kinds in `NEVER_TRAINED` are told and asked in evaluation alone.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from deltamem_agents.training.episodes import formats
from deltamem_agents.training.episodes.checkers import (
    BeginsWith,
    Case,
    Checker,
    Contains,
    ContainsAny,
    EndsWith,
    Lacks,
    LacksCharacters,
    MaxSentences,
    MaxWords,
)
from deltamem_agents.training.episodes.requests import CODE, COUNTS, PROSE, Form, Request, draw_request
from deltamem_agents.training.episodes.values import draw_value
from deltamem_agents.training.episodes.vocabulary import is_held_out, pick, sentence, table, told_apart

NEVER_TRAINED = ("annotated", "beginning", "upper")
SAMPLES = {  # how a style is shown when it is told
    "iso": "2024-01-31",
    "month first": "January 31, 2024",
    "dots": "31.01.2024",
    "slashes": "01/31/2024",
    "comma": "10,000",
    "dot": "10.000",
    "apostrophe": "10'000",
    "space": "10 000",
    "2": "two spaces",
    "3": "three spaces",
    "8": "eight spaces",
    "tab": "a tab",
    "dashes": "dashes",
    "stars": "asterisks",
    "numbers": "numerals",
}
CHANGED = (
    "Actually, ",
    "I changed my mind: ",
    "New rule: ",
    "Correction: ",
    "Forget what I said before. ",
    "On second thoughts: ",
)
_STOP = frozenset(
    """a about above after all also always am an and any are as at away back be been before below beside both but
    by can could did do does done down each either else ever every for from had has have he her here him his
    how i if in into is it its just may me more most much must my never new no none nor not now of off on one
    only or other our out over own please should so some still such than that the their them then there they
    this those to too two three four five up us very was we were what when where whenever which while who why
    will with would you your""".split()
)  # grammar, numerals and politeness


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of rule.

    Args:
        name: Its name in ``rules.toml``, and the field of `Form` that it sets unless ``field`` names another.
        families: The requests whose replies it bears on.
        draw: Draws its parameter, held out or not; a kind of few parameters ignores that.
        check: Makes the checker for a parameter.
        excludes: Kinds that contradict it, or whose replies it would garble.
        field: The field of `Form` that it sets.
    """

    name: str
    families: tuple[str, ...]
    draw: Callable[[random.Random, bool], Any]
    check: Callable[[Any], Checker]
    excludes: tuple[str, ...] = ()
    field: str = ""


@dataclass(frozen=True, slots=True)
class Rule:
    """A kind and its parameter, told in these words."""

    kind: Kind
    value: Any
    told: str

    @property
    def key(self) -> tuple[str, str]:
        """As the key of a fact."""
        return "rule", self.kind.name

    @property
    def checker(self) -> Checker:
        """Whether a reply follows the rule."""
        return self.kind.check(self.value)

    def bears_on(self, request: Request) -> bool:
        """Whether the reply to a request shows if the rule is followed, and its base reply does not follow it."""
        return (
            request.family in self.kind.families
            and not self.checker.accepts(request.reply(Form()))
            and self.checker.accepts(request.reply(form_of([self])))
            and not content_words(self.told) & content_words(request.text)
        )


def draw_rules(rng: random.Random, count: int, *, held_out: bool = False, never_trained: bool = False) -> list[Rule]:
    """Rules of different kinds that do not contradict; fewer if there are no more.

    Args:
        held_out: Take wordings, and parameters where a kind has many, that training never sees.
        never_trained: Take only kinds that training never sees.
    """
    kinds = [kind for kind in KINDS.values() if (kind.name in NEVER_TRAINED) == never_trained]
    chosen: list[Kind] = []
    for kind in rng.sample(kinds, len(kinds)):
        if len(chosen) < count and not any(
            kind.name in other.excludes or other.name in kind.excludes for other in chosen
        ):
            chosen.append(kind)
    return [draw_rule(rng, kind, held_out=held_out) for kind in chosen]


def draw_rule(rng: random.Random, kind: Kind, *, held_out: bool = False, unlike: Rule | None = None) -> Rule:
    """A rule of this kind; ``unlike`` is an earlier one that it replaces, if the kind has another parameter."""
    value = kind.draw(rng, held_out)
    for _ in range(20):
        if unlike is None or value != unlike.value:
            break
        value = kind.draw(rng, held_out)
    told = pick(rng, told_apart(tuple(table("rules.toml")["tellings"][kind.name]), kind.name, held_out=held_out))
    said = told.format(x=shown_as(value))
    return Rule(kind, value, sentence(said))


def changed(rng: random.Random, rule: Rule) -> Rule:
    """A rule in words that say it replaces an earlier one."""
    before = pick(rng, CHANGED)
    keep = before.endswith(". ") or rule.told.startswith(("I ", "I'", str(rule.value)))
    return replace(rule, told=before + (rule.told if keep else rule.told[:1].lower() + rule.told[1:]))


def form_of(rules: Sequence[Rule]) -> Form:
    """The form that rules prescribe together; of two that set the same, the later one holds."""
    return Form(**{rule.kind.field or rule.kind.name: rule.value for rule in rules})


def reply_to(request: Request, rules: Sequence[Rule]) -> str:
    """The reply that follows all rules."""
    return request.reply(form_of(rules))


def request_for(rng: random.Random, rule: Rule, rules: Sequence[Rule], *, held_out: bool = False) -> Request | None:
    """A request whose reply shows whether a rule is followed, also beside the others; None if none is found."""
    for _ in range(200):
        request = draw_request(rng, rule.kind.families, held_out=held_out, naming=rule.value)
        if rule.bears_on(request) and rule.checker.accepts(reply_to(request, rules)):
            return request
    return None


def request_beside(rng: random.Random, rules: Sequence[Rule], *, held_out: bool = False) -> Request | None:
    """A request whose reply is the same with and without the rules; None if none is found."""
    covered = {family for rule in rules for family in rule.kind.families}
    families = [family for family in (*PROSE, "list", *CODE) if family not in covered]
    if not families:
        return None
    request = draw_request(rng, families, held_out=held_out)
    return request if reply_to(request, rules) == request.reply(Form()) else None


def shown_as(value: object) -> str:
    """A parameter as it is told."""
    return SAMPLES.get(value, value) if isinstance(value, str) else COUNTS[value - 2] if isinstance(value, int) else ""


@cache
def content_words(text: str) -> frozenset[str]:
    """The words of a text that carry content, without their endings."""
    found = re.findall(r"[a-z]+", text.lower().replace("'", ""))
    return frozenset(re.sub(r"(?:ing|ed|es|s|e)$", "", each) for each in found if len(each) > 2 and each not in _STOP)


def _one_of(*values: Any) -> Callable[[random.Random, bool], Any]:
    return lambda rng, held_out: pick(rng, values)


def _valued(*kinds: str) -> Callable[[random.Random, bool], str]:
    return lambda rng, held_out: draw_value(rng, pick(rng, kinds), held_out=held_out)


def _member(rng: random.Random, held_out: bool) -> str:
    """A word that a list of five would contain."""
    categories: dict[str, str] = table("rules.toml")["categories"]
    members = [each for items in categories.values() for each in items.split()[:5]]
    return pick(rng, [each for each in members if is_held_out(each) == held_out])


def _any_language(rng: random.Random, held_out: bool) -> str:
    languages: dict[str, list[str]] = table("rules.toml")["languages"]
    return pick(rng, tuple(languages))


def _language(language: str) -> Checker:
    replies = table("rules.toml")["languages"][language]
    return ContainsAny(tuple(reply.split(", {n}")[0] for reply in replies))


# Kinds that leave the answers to questions about facts as they are.
QUIET = ("avoid", "lists", "indentation", "naming", "quotes", "documented", "annotated", "command", "calm", "brief")
_SENTENCES = ("place", "date", "count", "time", "distance")
_AROUND = ("address", "beginning", "ending")  # add words to prose
KINDS: Mapping[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("address", PROSE, _valued("nickname", "titled_name", "first_name"), lambda x: Contains(x, case=True)),
        Kind("language", ("greeting",), _any_language, _language, ("brief", "words")),
        Kind("units", ("distance",), _one_of("metric", "imperial"), formats.UnitStyle, ("lower", "upper")),
        Kind(
            "dates",
            ("date",),
            _one_of("iso", "month first", "dots", "slashes"),
            formats.DateStyle,
            ("lower", "upper", "words"),
        ),
        Kind("numbers", ("count",), _one_of("comma", "dot", "space", "apostrophe"), formats.NumberStyle, ("words",)),
        Kind("times", ("time",), _one_of("12 hours"), formats.TimeStyle, ("upper", "words")),
        Kind("lower", PROSE, _one_of("lower"), Case, (*_AROUND, "upper"), "case"),
        Kind("upper", PROSE, _one_of("upper"), Case, _AROUND, "case"),
        Kind("calm", ("greeting",), _one_of(True), lambda x: LacksCharacters("!"), _AROUND),
        Kind("brief", ("greeting",), _one_of(True), lambda x: MaxSentences(1), _AROUND),
        Kind("words", _SENTENCES, _one_of(3, 4, 5), MaxWords, (*_AROUND, "brief")),
        Kind("avoid", ("list",), _member, lambda x: Lacks((x,))),
        Kind("ending", PROSE, _valued("sign_off"), EndsWith),
        Kind("beginning", PROSE, _valued("opener"), BeginsWith, ("address",)),
        Kind("indentation", CODE, _one_of("2", "3", "8", "tab"), formats.Indentation),
        Kind("naming", CODE, _one_of("camel", "pascal"), formats.Naming),
        Kind("quotes", ("text code",), _one_of("single"), formats.Quotes),
        Kind("lists", ("list",), _one_of("dashes", "stars", "numbers"), formats.ListStyle),
        Kind("documented", CODE, _one_of(True), lambda x: formats.Documented()),
        Kind("annotated", CODE, _one_of(True), lambda x: formats.Annotated()),
        Kind("command", CODE, _valued("command"), lambda x: Contains(x, case=True)),
    )
}
