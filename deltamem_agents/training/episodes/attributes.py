"""What can be known about a subject: the kind of its values, and the phrases that say it and ask for it.

Attributes stand in ``attributes.toml``. One in eight of them is held out, and of every attribute's phrases some are, by
their hashes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache, cached_property

from deltamem_agents.training.episodes.subjects import Subject
from deltamem_agents.training.episodes.vocabulary import article, hidden, table, told_apart

HELD_OUT = 0.125  # share of a subject's attributes that training never sees
PLAIN_SAYS = (
    "{k} is {v}", "{v} is {k}", "{k} happens to be {v}", "as for {k}, it is {v}", "{k} has always been {v}",
    "{k} turned out to be {v}", "when it comes to {k}, it is {v}", "{k} should be {v}", "{k} seems to be {v}",
)  # fmt: skip
PLAIN_ASKS = (
    "{what} is {k}?", "{what} is {k}?", "{what}'s {k}?", "Do you remember {k}?", "Can you tell me {k}?",
    "Remind me, {what_low} is {k}?", "I forgot {k}. {what} is it?", "{what} was {k} again?",
    "Please tell me {k}.", "Do you know {k}?", "I need {k}.",
)  # fmt: skip
PEOPLE = ("first_name", "person_name", "full_name", "titled_name")  # kinds of values that answer "who"
COUNTED = ("job", "thing", "breed", "car", "plant", "animal", "drink")  # kinds of values that take an article
# Attributes whose questions could be taken for one another's: if one is told, the other is not asked as unknown.
ALIKE = (
    {"home town", "birthplace", "address"},
    {"sport", "hobby", "weekly training", "running distance"},
    {"favourite drink", "coffee order"},
    {"job", "employer", "degree subject"},
    {"mother tongue", "language course"},
    {"partner's name", "best friend"},
    {"phone number", "email address", "contact"},
    {"address", "website", "opening time", "closing time"},
    {"room number", "seat number"},
    {"flight number", "train time", "booking reference", "seat number", "holiday destination"},
    {"lead", "client"},
    {"code name", "ticket prefix", "host name", "serial number", "operating system"},
    {"root password", "host name", "IP address", "port"},
    {"version", "language", "database", "config file", "entry point", "log file", "staging address"},
    {"test command", "build command"},
    {"door code", "alarm code", "locker code"},
    {"wifi password", "wifi name"},
    {"caretaker", "host", "admin", "head", "owner"},
    {"venue", "date", "start time"},
    {"storage place", "shop"},
    {"price", "shop", "owner"},
    {"birthday present", "birthday"},
    {"favourite book", "favourite film"},
    {"user name", "nickname"},
    {"monthly rent", "savings goal", "account number"},
    {"day off", "weekly training", "dentist appointment"},
    {"backup time", "backup folder"},
    {"car", "registration number"},
)
_VERB = re.compile(r"([\w']+)\|([\w']+)")


@dataclass(frozen=True)
class Attribute:
    """One thing that can be known.

    Args:
        kind: The kind of subject that has it; "person" includes the user.
        noun: As in "my {noun} is …"; unique within the kind.
        value: The kind of its values.
        says: Clauses that state it.
        asks: Questions for it.
    """

    kind: str
    noun: str
    value: str
    says: tuple[str, ...]
    asks: tuple[str, ...]

    @cached_property
    def held_out(self) -> bool:
        """Whether training never sees it."""
        return self.noun in _hidden_nouns(self.kind)

    def clauses(self, *, held_out: bool = False) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The attribute's own clauses and the plain ones: those that training may use, or those kept from it.

        A clause that begins with "~" does not suit the user as subject.
        """
        return _phrases(self.says, PLAIN_SAYS, f"{self.noun} says", held_out)

    def questions(self, *, held_out: bool = False) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The attribute's own questions and the plain ones, as `clauses`."""
        return _phrases(self.asks, PLAIN_ASKS, f"{self.noun} asks", held_out)

    def fill(self, phrase: str, subject: Subject, value: str = "", *, pronoun: bool = False) -> str:
        """A phrase about a subject."""
        phrase = phrase.removeprefix("~")
        forms = subject.forms(pronoun=pronoun and phrase.startswith(("{s}", "{p}")))
        chosen = 1 if forms["first"] else 2
        agreed = _VERB.sub(lambda verb: verb.group(chosen), phrase) if "|" in phrase else phrase
        if value and phrase in PLAIN_SAYS:
            value = self.shown(value)
        what = "Who" if self.value in PEOPLE and not self.noun.endswith("name") else "What"
        return agreed.format(
            v=value, a=article(value), k=subject.topic(self.noun), what=what, what_low=what.lower(), **forms
        )

    def shown(self, value: str) -> str:
        """A value as it stands after "is": with an article if it takes one."""
        return f"{article(value)} {value}" if self.value in COUNTED else value

    def alike(self, other: Attribute) -> bool:
        """Whether a question for one could be taken for a question for the other."""
        return self.noun == other.noun or any(self.noun in group and other.noun in group for group in ALIKE)


@cache
def attributes(kind: str) -> tuple[Attribute, ...]:
    """All attributes of a kind of subject; those of the user include those of any person."""
    own = tuple(
        Attribute(kind, each["noun"], each["value"], tuple(each["says"]), tuple(each["asks"]))
        for each in table("attributes.toml").get(kind, ())
    )
    return own + attributes("person") if kind == "me" else own


@cache
def choices(kind: str, *, held_out: bool) -> tuple[Attribute, ...]:
    """The attributes of a kind that training uses, or those kept from it."""
    return tuple(each for each in attributes(kind) if each.held_out == held_out)


@cache
def _hidden_nouns(kind: str) -> frozenset[str]:
    return hidden(tuple(each["noun"] for each in table("attributes.toml")[kind]), "attribute", share=HELD_OUT)


@cache
def _phrases(
    own: tuple[str, ...], plain: tuple[str, ...], axis: str, held_out: bool
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    kept = told_apart(own, axis, held_out=held_out) if len(own) > 2 or not held_out else ()
    return kept, told_apart(plain, "plain", held_out=held_out)
