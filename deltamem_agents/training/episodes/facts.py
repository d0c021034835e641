"""Facts: a subject, an attribute and a value, said and asked for in everyday English."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from deltamem_agents.training.episodes.attributes import Attribute, choices
from deltamem_agents.training.episodes.subjects import Subject, draw_subject, related
from deltamem_agents.training.episodes.values import draw_value
from deltamem_agents.training.episodes.vocabulary import phrases, pick, sentence, told_apart, word

STANDALONE = (
    "as",
    "when",
    "be",
    "call",
    "ask",
    "type",
    "get",
    "log",
    "look",
    "in",
    "before",
)  # such a clause fits in no frame
OWN = 0.65  # share of clauses and questions that are the attribute's own, not plain ones


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    """Which axes are taken from what training never sees; each is separate.

    Args:
        values: Values of facts, and small talk.
        names: Names of subjects.
        attributes: What is known about subjects.
        phrasings: Statements, corrections and questions.
        rules: Wordings of rules, their parameters where a kind has many, and requests.
        kinds: Kinds of rules.
    """

    values: bool = False
    names: bool = False
    attributes: bool = False
    phrasings: bool = False
    rules: bool = False
    kinds: bool = False

    @property
    def facts(self) -> bool:
        """Whether one of the axes of facts is held out."""
        return self.values or self.names or self.attributes or self.phrasings

    @property
    def any(self) -> bool:
        """Whether one of the axes is held out."""
        return self.facts or self.rules or self.kinds


SEEN = HeldOut()


@dataclass(frozen=True, slots=True)
class Fact:
    """What holds of a subject."""

    subject: Subject
    attribute: Attribute
    value: str

    @property
    def key(self) -> tuple[str, str]:
        """Subject and noun, which a question names."""
        return self.subject.name, self.attribute.noun

    @property
    def topic(self) -> str:
        """As "my sister's phone number"."""
        return self.subject.topic(self.attribute.noun)


def draw_fact(rng: random.Random, held_out: HeldOut = SEEN, *, subject: Subject | None = None) -> Fact:
    """A fact about this subject, or any."""
    about = subject or _subject(rng, held_out)
    attribute = pick(rng, choices(about.kind, held_out=held_out.attributes))
    return Fact(about, attribute, draw_value(rng, attribute.value, held_out=held_out.values))


def draw_facts(rng: random.Random, count: int, held_out: HeldOut = SEEN, *, alike: float = 0.3) -> list[Fact]:
    """Facts with different keys; with chance ``alike`` one shares its subject or its attribute with an earlier one."""
    facts: list[Fact] = []
    while len(facts) < count:
        fact = sibling(rng, pick(rng, facts), held_out) if facts and rng.random() < alike else draw_fact(rng, held_out)
        if not any(fact.key == other.key or fact.value == other.value for other in facts):
            facts.append(fact)
    return facts


def sibling(rng: random.Random, fact: Fact, held_out: HeldOut = SEEN) -> Fact:
    """A fact about the same subject, or with the same attribute about another of its kind."""
    if rng.random() < 0.5:
        return draw_fact(rng, held_out, subject=fact.subject)
    if fact.subject.kind == "me" and fact.attribute.kind == "me":
        return draw_fact(rng, held_out)
    other = related(rng, fact.subject, held_out=held_out.names)
    return Fact(other, fact.attribute, draw_value(rng, fact.attribute.value, held_out=held_out.values))


def clause(
    rng: random.Random, fact: Fact, held_out: HeldOut = SEEN, *, pronoun: bool = False, plain: float = 1 - OWN
) -> str:
    """A clause that states the fact, without capital and full stop."""
    own, plain_ones = fact.attribute.clauses(held_out=held_out.phrasings)
    if fact.value[:1].islower():  # else it would stand with a capital
        plain_ones = tuple(each for each in plain_ones if not each.startswith("{v}"))
        own = tuple(each for each in own if not each.startswith("{v}"))
    phrase = _phrase(rng, fact.subject, own, plain_ones, plain)
    return fact.attribute.fill(phrase, fact.subject, fact.value, pronoun=pronoun)


def statement(rng: random.Random, fact: Fact, held_out: HeldOut = SEEN, *, bare: bool = False) -> str:
    """A message that states the fact, mostly among other words; ``bare`` gives the clause as a sentence."""
    if bare or rng.random() < 0.2:
        return sentence(clause(rng, fact, held_out))
    if fact.subject.kind != "me" and rng.random() < 0.12:
        person = fact.subject.kind == "person"
        about = pick(rng, phrases("about") if person else phrases("about")[1:]).format(o=fact.subject.name)
        said = clause(rng, fact, held_out, pronoun=True)
        return sentence(f"{about} {said if about.endswith(':') else sentence(said)}")
    said = clause(rng, fact, held_out)
    if said.split(" ", 1)[0] in STANDALONE:
        return sentence(said)
    return _filled(rng, pick(rng, told_apart(phrases("frames"), "frames", held_out=held_out.phrasings)), said)


def joint_statement(rng: random.Random, first: Fact, second: Fact, held_out: HeldOut = SEEN) -> str:
    """Both facts in one message."""
    a, b = clause(rng, first, held_out), clause(rng, second, held_out)
    return sentence(pick(rng, phrases("joints")).format(a=a, b=b, A=_capital(a), B=_capital(b)))


def correction(rng: random.Random, fact: Fact, old: str, held_out: HeldOut = SEEN) -> str:
    """A message that replaces the old value by the fact's."""
    topic, said = fact.topic, clause(rng, fact, held_out, plain=0.5)
    form = pick(rng, told_apart(phrases("changes"), "changes", held_out=held_out.phrasings))
    return sentence(
        form.format(
            k=topic, K=_capital(topic), v=fact.attribute.shown(fact.value), old=fact.attribute.shown(old), c=said
        )
    )


def mention(rng: random.Random, fact: Fact, held_out: HeldOut = SEEN) -> str:
    """A message that speaks of the fact's attribute without saying its value."""
    name = draw_value(rng, "first_name")
    return sentence(pick(rng, phrases("mentions")).format(k=fact.topic, first_name=name))


def question(rng: random.Random, fact: Fact, held_out: HeldOut = SEEN, *, bare: bool = False) -> str:
    """A message that asks for the fact's value."""
    own, plain = fact.attribute.questions(held_out=held_out.phrasings)
    phrase = _phrase(rng, fact.subject, own, plain, 1 - OWN)
    asked = _capital(fact.attribute.fill(phrase, fact.subject))
    if bare or (phrase in plain and not phrase.startswith("{what}")):
        return asked
    form = pick(rng, told_apart(phrases("asks"), "asks", held_out=held_out.phrasings))
    inside = asked if form.startswith("{q}") or asked.startswith("I ") else asked[:1].lower() + asked[1:]
    return form.format(q=inside)


def _subject(rng: random.Random, held_out: HeldOut) -> Subject:
    while True:
        subject = draw_subject(rng, held_out=held_out.names)
        if not (held_out.names and subject.kind == "me"):
            return subject


def _phrase(rng: random.Random, subject: Subject, own: Sequence[str], plain: Sequence[str], share: float) -> str:
    suited = [each for each in own if not each.startswith("~")] if subject.kind == "me" else own
    return pick(rng, suited if suited and rng.random() >= share else plain)


def _filled(rng: random.Random, frame: str, said: str) -> str:
    if "small" in frame:
        small = pick(rng, phrases("small"))
        return frame.format(c=said, C=_capital(said), small=_capital(small), small_low=small)
    return frame.format(c=said, C=_capital(said), first_name=word(rng, "first_names"))


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
