"""Requests that are answered from themselves alone, and their reply under the form that rules prescribe.

A reply is a function of request and form, so that it can be learned word by word; with no rule the form is `Form()`.
Replies are short, for a small model. Nothing here knows how rules are told.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from deltamem_agents.training.episodes.values import draw_value
from deltamem_agents.training.episodes.vocabulary import (
    number,
    pick,
    share_of,
    table,
    word,
    words,
)

PROSE = ("place", "date", "count", "time", "distance", "greeting")  # families whose reply is a sentence
CODE = ("number code", "text code")
FAMILIES = (*PROSE, "list", *CODE)
COUNTS = ("two", "three", "four", "five")


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """The form of a reply; each field is the business of one kind of rule, see there."""

    address: str = ""
    language: str = ""
    units: str = ""
    dates: str = "day first"
    numbers: str = "plain"
    times: str = "24 hours"
    case: str = ""
    calm: bool = False
    brief: bool = False
    words: int = 0
    avoid: str = ""
    ending: str = ""
    beginning: str = ""
    indentation: str = "4"
    naming: str = "snake"
    quotes: str = "double"
    lists: str = "inline"
    documented: bool = False
    annotated: bool = False
    command: str = ""


@dataclass(frozen=True, slots=True)
class Request:
    """What a user asks for.

    Args:
        family: One of `FAMILIES`.
        text: The user's message.
        given: What the reply is made of.
    """

    family: str
    text: str
    given: Mapping[str, str]

    def reply(self, form: Form) -> str:
        """The reply in this form."""
        if self.family == "list":
            return _list(self.given, form)
        if self.family in CODE:
            return _code(self.given, form)
        said = _greeting(self.given, form) if self.family == "greeting" else _info(self.family, self.given, form)
        return _prose(said, form)


def draw_request(
    rng: random.Random, families: Sequence[str] = FAMILIES, *, held_out: bool = False, naming: object = None
) -> Request:
    """A request of one of these families, held out or not; a list of a category that has ``naming``, if one has."""
    while True:
        family = pick(rng, families)
        request = _enumerate(rng, naming) if family == "list" else _DRAWS[family](rng)
        if (share_of(f"request|{request.text}") < 0.1) == held_out:
            return request


def _place(rng: random.Random) -> Request:
    thing, spot = draw_value(rng, "thing"), draw_value(rng, "spot")
    text = pick(
        rng,
        [
            "The {t} is {s}. Where is it?",
            "I left the {t} {s}. Where did I leave it?",
            "Somebody put the {t} {s}. Where can it be found?",
            "You will find the {t} {s}. So where is it?",
        ],
    )
    return Request("place", text.format(t=thing, s=spot), {"value": spot})


def _date(rng: random.Random) -> Request:
    day, month, year = number(rng, 1, 28), number(rng, 1, 12), number(rng, 1990, 2039)
    ordinal = f"{day}{'th' if 3 < day < 21 else {1: 'st', 2: 'nd', 3: 'rd'}.get(day % 10, 'th')}"
    event = draw_value(rng, "a_event")
    text = pick(
        rng,
        [
            "{e} is on the {o} of {m} {y}. When is it?",
            "{e} takes place on the {o} of {m} {y}. When does it take place?",
            "They moved {e_low} to the {o} of {m} {y}. When is it now?",
            "Mark the {o} of {m} {y} for {e_low}. So when is it?",
        ],
    ).format(e=_capital(event), e_low=event, o=ordinal, m=words("months")[month - 1], y=year)
    return Request("date", text, {"day": str(day), "month": str(month), "year": str(year)})


def _count(rng: random.Random) -> Request:
    count = number(rng, 1000, 99999) if rng.random() < 0.8 else number(rng, 100, 999) * 1000
    text = pick(
        rng,
        [
            "The stadium in {t} holds {n} people. How many is that?",
            "{t} has {n} inhabitants. How many live there?",
            "The library in {t} owns {n} books. How many are there?",
            "The {a} farm keeps {n} {h}. How many are kept?",
            "They sold {n} {h} in {t}. How many were sold?",
        ],
    ).format(t=word(rng, "towns"), n=count, a=word(rng, "animals"), h=word(rng, "hobby_things"))
    return Request("count", text, {"value": str(count)})


def _time(rng: random.Random) -> Request:
    hour, minute = number(rng, 13, 23), pick(rng, ["05", "10", "15", "20", "25", "30", "35", "40", "45", "50", "55"])
    text = pick(
        rng,
        [
            "The train to {t} leaves at {v}. When does it leave?",
            "The bus from {t} arrives at {v}. When does it get in?",
            "The {s} lesson begins at {v}. When does it begin?",
            "The ferry to {t} departs at {v}. When does it go?",
            "Supper at {p} is at {v}. When is it?",
        ],
    ).format(t=word(rng, "towns"), v=f"{hour}:{minute}", s=word(rng, "activities"), p=draw_value(rng, "venue"))
    return Request("time", text, {"value": f"{hour}:{minute}"})


def _distance(rng: random.Random) -> Request:
    metric, imperial, ask = pick(
        rng,
        [
            ("km", "miles", "The path to {n} is {v} long. How long is it?"),
            ("kg", "lb", "The {t} weighs {v}. How heavy is it?"),
            ("m", "ft", "The tower in {n} is {v} high. How high is it?"),
            ("cm", "in", "The {t} is {v} wide. How wide is it?"),
            ("°C", "°F", "It is {v} in {n} today. How warm is it?"),
            ("litres", "gallons", "The barrel in {n} takes {v}. How much does it take?"),
        ],
    )
    first, second = f"{number(rng, 2, 95)} {metric}", f"{number(rng, 2, 95)} {imperial}"
    if rng.random() < 0.5:
        first, second = second, first
    text = ask.format(n=word(rng, "towns"), t=draw_value(rng, "thing"), v=f"{first} or {second}")
    given = {
        "metric" if each.endswith(metric) and each.split()[1] == metric else "imperial": each
        for each in (first, second)
    }
    return Request("distance", text, {**given, "first": first})


def _greet(rng: random.Random) -> Request:
    name = draw_value(rng, pick(rng, ["first_name", "first_name", "titled_name"]))
    act = number(rng, 0, len(table("rules.toml")["greetings"]["asks"]) - 1)
    text = pick(rng, table("rules.toml")["greetings"]["asks"][act]).format(n=name)
    return Request("greeting", text, {"name": name, "act": str(act)})


def _enumerate(rng: random.Random, naming: object = None) -> Request:
    categories = table("rules.toml")["categories"]
    having = tuple(name for name, items in categories.items() if naming in items.split())
    category, count = pick(rng, having or tuple(categories)), number(rng, 0, 3)
    ask = pick(
        rng,
        ["Name {c} {k}.", "Tell me {c} {k}.", "Which {c} {k} come to mind?", "I need {c} {k}.", "Think of {c} {k}.",
         "Can you name {c} {k}?", "{c_up} {k}, please."],
    )  # fmt: skip
    text = ask.format(c=COUNTS[count], c_up=COUNTS[count].capitalize(), k=category)
    return Request("list", text, {"items": categories[category], "count": str(count + 2)})


def _number_code(rng: random.Random) -> Request:
    verb, does, formula = pick(
        rng,
        [
            ("double", "doubles", "{x} * 2"),
            ("halve", "halves", "{x} / 2"),
            ("negate", "negates", "-{x}"),
            ("square", "squares", "{x} ** 2"),
            ("raise", "raises by one", "{x} + 1"),
            ("lower", "lowers by one", "{x} - 1"),
        ],
    )
    noun, what = word(rng, "nouns"), pick(rng, ["price", "weight", "size", "length", "score", "age", "speed", "cost"])
    does, _, extra = does.partition(" ")
    object_ = f"the {noun} {what}" + (f" {extra}" if extra else "")
    ask = pick(
        rng,
        ["Write a function that {d} {o}.", "I need a function that {d} {o}.", "Give me a function which {d} {o}.",
         "How would a function look that {d} {o}?"],
    )  # fmt: skip
    given = {"name": f"{verb} {noun} {what}", "argument": f"{noun} {what}", "formula": formula, "type": "float"}
    return Request("number code", ask.format(d=does, o=object_), {**given, "does": f"{verb.capitalize()} {object_}."})


def _text_code(rng: random.Random) -> Request:
    noun, text = word(rng, "nouns"), word(rng, "nouns", "animals", "colours")
    ask = pick(
        rng,
        ["Write a function that returns the {n} name {t}.", "I need a function for the {n} name, which is {t}.",
         "Give me a function with the {n} name {t} as its result."],
    )  # fmt: skip
    given = {"name": f"get {noun} name", "argument": "", "formula": f"'{{q}}{text}{{q}}'", "type": "str"}
    return Request("text code", ask.format(n=noun, t=text), {**given, "does": f"Return the {noun} name."})


_DRAWS: Mapping[str, Callable[[random.Random], Request]] = {
    "place": _place,
    "date": _date,
    "count": _count,
    "time": _time,
    "distance": _distance,
    "greeting": _greet,
    "list": _enumerate,
    "number code": _number_code,
    "text code": _text_code,
}


def _info(family: str, given: Mapping[str, str], form: Form) -> str:
    if family == "date":
        value = date(int(given["day"]), int(given["month"]), int(given["year"]), form.dates)
    elif family == "count":
        value = grouped(given["value"], form.numbers)
    elif family == "time":
        value = clock(given["value"], form.times)
    else:
        value = given[form.units or "first"] if family == "distance" else given["value"]
    leads = {
        "place": "It is {v}.",
        "date": "It is on {v}.",
        "count": "It is {v} in all.",
        "time": "It is at {v}.",
        "distance": "It is {v}.",
    }
    return value if form.words else leads[family].format(v=value)


def _greeting(given: Mapping[str, str], form: Form) -> str:
    act = int(given["act"])
    if form.language:
        return str(table("rules.toml")["languages"][form.language][act]).format(n=given["name"])
    said = str(table("rules.toml")["greetings"]["replies"][act]).format(n=given["name"])
    return f"{said.split('!')[0]}!" if form.brief or form.words else said


def _prose(said: str, form: Form) -> str:
    if form.address:
        lead = said[:1].lower() + said[1:] if said.startswith("It ") else said
        said = f"{form.address}, {lead}"
    said = f"{form.beginning} {said}" if form.beginning else said
    said = said.replace("!", ".") if form.calm else said
    said = f"{said} {form.ending}" if form.ending else said
    return said.lower() if form.case == "lower" else said.upper() if form.case == "upper" else said


def _list(given: Mapping[str, str], form: Form) -> str:
    items = [each for each in given["items"].split() if each != form.avoid][: int(given["count"])]
    marks = {"dashes": "- {x}", "stars": "* {x}", "numbers": "{n}. {x}"}
    if form.lists in marks:
        return "\n".join(marks[form.lists].format(x=item, n=n) for n, item in enumerate(items, 1))
    return ", ".join(items)


def _code(given: Mapping[str, str], form: Form) -> str:
    name, argument = cased(given["name"], form.naming), cased(given["argument"], form.naming.replace("pascal", "camel"))
    quote = "'" if form.quotes == "single" else '"'
    formula = given["formula"].replace("'{q}", quote).replace("{q}'", quote).format(x=argument)
    takes = f"{argument}: {given['type']}" if form.annotated and argument else argument
    gives = f" -> {given['type']}" if form.annotated else ""
    indent = "\t" if form.indentation == "tab" else " " * int(form.indentation)
    document = [f'{indent}"""{given["does"]}"""'] if form.documented else []
    code = "\n".join([f"def {name}({takes}){gives}:", *document, f"{indent}return {formula}"])
    return f"{code}\n\nThen run `{form.command}`." if form.command else code


def date(day: int, month: int, year: int, style: str) -> str:
    """A date in a style of `formats.DATES`."""
    name = words("months")[month - 1]
    return {
        "iso": f"{year}-{month:02}-{day:02}",
        "day first": f"{day} {name} {year}",
        "month first": f"{name} {day}, {year}",
        "dots": f"{day:02}.{month:02}.{year}",
        "slashes": f"{month:02}/{day:02}/{year}",
    }[style]


def grouped(digits: str, style: str) -> str:
    """A whole number in a style of `formats.NUMBERS`."""
    mark = {"plain": "", "comma": ",", "dot": ".", "apostrophe": "'", "space": " "}[style]
    return f"{int(digits):,}".replace(",", mark)


def clock(time: str, style: str) -> str:
    """A time of day in a style of `formats.TIMES`."""
    hour, minute = time.split(":")
    return time if style == "24 hours" else f"{(int(hour) - 1) % 12 + 1}:{minute} {'am' if int(hour) < 12 else 'pm'}"


def cased(text: str, style: str) -> str:
    """Words as an identifier in "snake", "camel" or "pascal" case."""
    parts = text.replace("-", " ").split()
    if style == "snake":
        return "_".join(parts)
    joined = "".join(part.capitalize() for part in parts)
    return joined if style == "pascal" else joined[:1].lower() + joined[1:]


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
