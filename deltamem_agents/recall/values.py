"""The values of statements and their kinds: a number, a day, a place, a name, a trade, a quality."""

from __future__ import annotations

import re
from dataclasses import dataclass

_NUMBERS = frozenset(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred thousand million "
    "dozen noon midnight "
    "first second third fourth fifth half".split()
)
_WEEKDAYS = frozenset("monday tuesday wednesday thursday friday saturday sunday".split())
_WEEKDAYS_MANY = frozenset(f"{day}s" for day in _WEEKDAYS)
_MONTHS = frozenset(
    "january february march april may june july august september october november december jan feb mar "
    "apr jun jul aug sep "
    "oct nov dec".split()
)
_COLOURS = frozenset(
    "red blue green teal yellow orange purple pink black white grey gray brown violet indigo turquoise "
    "beige maroon blond blonde ginger navy "
    "cyan magenta olive gold silver crimson scarlet lilac lavender amber coral mint cream ivory".split()
)
_CURRENCIES = frozenset("€ $ £ euro euros dollar dollars pound pounds eur usd gbp kroner francs yen".split())
_STATES = tuple(
    frozenset(group.split())
    for group in (
        "single engaged married divorced widowed separated dating",
        "open closed shut reopened",
        "on off enabled disabled",
        "up down offline online",
        "vegetarian vegan pescatarian omnivore",
        "pending approved rejected accepted declined done finished completed complete cancelled canceled "
        "blocked unblocked "
        "started stalled paused resumed draft published released merged shipped delayed resolved fixed",
        "broken fixed working repaired",
        "sick ill healthy recovered well",
        "active inactive retired unemployed employed jobless",
        "free busy available unavailable occupied",
        "full empty",
        "public private",
        "locked unlocked",
        "happy sad unhappy",
        "optional mandatory required",
        "paid unpaid overdue",
        "pregnant",
    )
)
_TRADE_ENDING = re.compile(r"(?:er|or|ist|ian|eer|ant|ier|smith|man|woman|wright)$")
_TRADES = frozenset(
    "nurse chef cook pilot student judge clerk intern coach scribe monk surgeon vet cto ceo cfo".split()
)
_NO_TRADES = frozenset(
    "father mother brother sister daughter grandfather grandmother stepfather stepmother member swimmer lover runner "
    "owner player believer smoker drinker learner reader person human woman man killer fighter survivor neighbor fan "
    "infant elephant giant christian vegetarian gender number letter paper winter summer river tower flower matter "
    "eater riser sleeper thinker talker listener holder winner loser supporter partner".split()
)
_PLACE = re.compile(r"^(?:in|at|on|under|near|behind|inside|next to|above|below|by|beside)\b")
_ADJECTIVE_ENDING = re.compile(
    r"(?:ful|ous|ive|able|ible|ish|less|[crntd]ical|onal|tial|cial|rmal|inal|ic|ant|ent|ed|ing|ary|ory|[^tr]y|some|ward|like)$"
)
_ADJECTIVES = frozenset(
    "tall short big small large little old new young good bad nice slow fast quick hot cold warm cool "
    "long wide narrow deep "
    "high low late early strong weak hard soft easy kind smart clever shy bold brave loud quiet proud "
    "poor rich cheap right "
    "wrong true false fine great clean dark light bright sweet sour bitter salty raw ripe fresh dry wet "
    "sharp blunt thick "
    "thin fat slim bald blond blonde left strict rude polite calm mad glad sad safe sure odd even rare "
    "common fair dull keen "
    "tough rough smooth sick ill well dead alive awake asleep alone afraid aware able ready popular "
    "similar vegan near far "
    "sore lame vast huge tiny grand prime stable unstable simple complex noble humble gentle fragile "
    "agile hostile mobile "
    "mature secure obscure pure rare severe sincere slack modern british french dutch swiss broken open "
    "golden frozen hidden rotten sudden final normal local legal mental vital loyal royal angry hungry busy happy "
    "empty dirty thirsty pretty dusty healthy wealthy better best worse worst more "
    "most less least older younger taller shorter bigger smaller faster slower nicer here there home away".split()
)
_ROLES = frozenset(
    "name colour color code password passcode pin number address birthday age email mail phone deadline date time "
    "language framework editor linter formatter database backend frontend server port version manager boss "
    "teacher doctor dentist capital budget price cost rate salary title role job status size weight "
    "height limit timeout "
    "branch region host hostname url location room seat gate flight hotel team provider owner author "
    "lead captain mascot "
    "nickname username login handle supplier vendor bank insurer landlord therapist mentor tutor "
    "supervisor contact theme "
    "font model engine stack tool library runtime shell os distro browser client keyboard laptop car "
    "bike band song book "
    "film movie show dish drink food snack sport hobby subject season animal flower city country place plan goal topic "
    "target currency unit interval schedule slot channel licence license format encoding separator style convention "
    "bundler compiler orchestrator broker queue cache registry cloud hosting carrier gym school university college "
    "employer company department office club church temperature speed score grade level rank total count balance quota "
    "allowance fee rent tariff plate diet medication dose treatment dosage insurance".split()
)
_RANKED = frozenset("favourite favorite best closest preferred default main usual primary".split())
_IGNORED = frozenset("a an the about around only exactly roughly approximately at on in by is to and".split())
_AGE = frozenset("year years old".split())
_KIN = frozenset(
    "sister brother mother father mum mom dad son daughter wife husband uncle aunt cousin niece nephew friend "
    "neighbour neighbor grandmother grandfather grandma grandpa dog cat".split()
)
MOST_WORDS = 6


@dataclass(frozen=True, slots=True)
class Value:
    """The value that a statement gives to its subject.

    Args:
        words: Its words, in lower case, without articles.
        kind: "weekday", "date", "number", "place", "name", "colour", "trade", "state", "quality", "kind of" (a thing of
            some sort), "long", or "" for none of these.
        unit: The unit of a number, the preposition of a place, or the group of a state.
        named: Whether it contains a name.
    """

    words: tuple[str, ...]
    kind: str
    unit: frozenset[str] = frozenset()
    named: bool = False


def value_of(text: str, capitals: frozenset[str]) -> Value:
    """Make a value, with its kind determined from its words.

    Args:
        text: The value's text, in lower case.
        capitals: Words that are written with a capital letter.
    """
    words = tuple(word for word in re.findall(r"[$€£]|[\w][\w'./:+#@-]*", text) if word not in ("a", "an", "the"))
    kind, unit = _kind(text, words, capitals)
    return Value(words, kind, unit, not capitals.isdisjoint(words))


def holds_attribute(subject: tuple[str, ...]) -> bool:
    """Whether a subject is an attribute with one value at a time: "my favourite dish", "the gate code"."""
    return len(subject) > 1 and (subject[-1] in _ROLES or not _RANKED.isdisjoint(subject))


def owned(subject: tuple[str, ...]) -> bool:
    """Whether a subject is somebody's thing or role ("my bike", "the boss"), rather than a person by name."""
    return len(subject) > 1 and (subject[0] in ("my", "the", "his", "her", "their", "your") or "'" in "".join(subject))


def counts(value: Value) -> bool:
    """Whether a value begins with a number: "three cats"."""
    return bool(value.words) and (value.words[0] in _NUMBERS or value.words[0][0].isdigit())


def of_kin(subject: tuple[str, ...]) -> bool:
    """Whether a subject is a relative, a friend or a pet, of whom many things may be true at once."""
    return subject[-1] in _KIN


def _kind(text: str, words: tuple[str, ...], capitals: frozenset[str]) -> tuple[str, frozenset[str]]:
    own = set(words)
    if own & (_WEEKDAYS | _WEEKDAYS_MANY):
        return "weekday", frozenset()
    numbers = {word for word in own if word in _NUMBERS or any(c.isdigit() for c in word)}
    if own & _MONTHS and (numbers or len(own) == 1):
        return "date", frozenset()
    if numbers and len(words) <= MOST_WORDS and not own & capitals - numbers - _CURRENCIES:
        unit = own - numbers - _IGNORED - _AGE
        return "number", frozenset("money" if word in _CURRENCIES else word.rstrip("s") for word in unit)
    if len(words) > MOST_WORDS:
        return "long", frozenset()
    if own & _COLOURS and len(words) <= 2:
        return "colour", frozenset()
    for group in _STATES:
        if own & group and len(own - _IGNORED) == 1:
            return "state", group
    if match := _PLACE.match(text):
        return "place", frozenset({match[0]})
    if text.startswith(("a ", "an ")) and not own & capitals:
        noun = words[-1] if words else ""
        trade = noun in _TRADES or (_TRADE_ENDING.search(noun) and noun not in _NO_TRADES)
        return ("trade" if trade else "kind of"), frozenset()
    if own & capitals:
        return "name", frozenset()
    if any(
        word in _ADJECTIVES or (len(word) > 4 and _ADJECTIVE_ENDING.search(word)) for word in words[:1] + words[-1:]
    ):
        return "quality", frozenset()
    return "", frozenset()
