"""Generated agent conversations: facts, corrections, small talk, and questions with their answers.

A conversation is what an agent is told in one or more sessions, and what it is asked afterwards. The same generator
feeds the backbone (everything in one context), the adapter (each question in a session of its own) and the evaluation
(held-out facts only). Knows nothing about tokens or tensors.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace

from deltamem_agents.training.domain import KEYS, PEOPLE, Fact, draw_facts, draw_keys, draw_value

UNKNOWN = "I don't know."
Message = tuple[str, str]  # role, content

_OWN_PHRASE = 0.35  # share of statements, and of questions, that use the attribute's own phrase if it has one
OPENINGS = ("", "", "By the way, ", "Just so you know, ", "Please remember that ", "Note that ", "For the record, ")
_CORRECTIONS = ("", "Actually, ", "Correction: ", "Something changed: ")
_ACKNOWLEDGED = ("Noted.", "Got it.", "Okay.", "Thanks, I will remember that.", "Understood.")
_REPLIES = ("Sure.", "Of course.", "That sounds good.", "Happy to help.", "I see.", "Let me have a look.", "All right.")
_SMALL_TALK = (
    "The {adj} {thing} took {time} today.",
    "Can you help me with the {thing}?",
    "I read the {adj} {thing} again {when}.",
    "We talked about the {thing} {when}.",
    "{name} sent me a {adj} {thing} {when}.",
    "The meeting about the {thing} was {adj}.",
    "Please check the {adj} {thing} {when}.",
    "How was the {thing} {when}?",
    "It was a {adj} day and the {thing} is done.",
    "Could we move the {thing} to {when}?",
    "I think the {thing} looks {adj}.",
    "{name} and I will finish the {thing} {when}.",
    "The weather is {adj} {when}.",
    "Thank you for the {adj} {thing}.",
    "My {thing} is rather {adj} at the moment.",
    "What do you think of the {adj} {thing}?",
)
_SLOTS = {
    "adj": "new old long short strange simple early late busy quiet clear broken useful boring pretty heavy",
    "thing": "report draft letter email review ticket release invoice budget schedule printer laptop server script "
    "diagram contract survey slide train book film garden kitchen holiday",
    "time": "minutes hours ages weeks",
}
_WHEN = ("today", "yesterday", "this morning", "last week", "tomorrow", "after lunch", "this evening", "next month")
_SYLLABLES = "ba bo da de fi ga go ha jo ka ki la lo ma mi na no pa ra ri sa so ta to va vi wa xe yo za zu".split()


@dataclass(frozen=True, slots=True)
class Question:
    """A question, its answer, and the kind of the answer: "stated", "changed" or "unknown"."""

    text: str
    answer: str
    kind: str
    fact: Fact


@dataclass(frozen=True, slots=True)
class Conversation:
    """The messages of each session, and the questions that can be asked about them."""

    sessions: list[list[Message]]
    questions: list[Question] = field(default_factory=list)

    @property
    def messages(self) -> list[Message]:
        """All sessions, one after another."""
        return [message for session in self.sessions for message in session]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The composition of a conversation.

    Args:
        facts: Number of stated facts, each with a different key.
        changed: How many of them are corrected later.
        filler: Turns of small talk, placed among the facts, or after all of them with ``filler_last``.
        unknown: Questions about keys that never came up.
        sessions: Number of sessions over which the turns are spread evenly.
        acknowledged: Share of facts that the assistant acknowledges.
        invented: Share of facts whose value is a made-up word of two or three syllables.
        mixed: Share of facts whose value is a word from any pool, so that only copying it is right.
        attributes: Number of attributes that the facts are about, None for any: with few, the subject decides.
        subjects: Number of subjects that the facts are about, None for any: with few, the attribute decides.
        held_out: Whether all facts are held out, or none.
        plain: Use only each attribute's plain phrasing, without openings.
    """

    facts: int
    changed: int = 0
    filler: int = 0
    unknown: int = 0
    sessions: int = 1
    acknowledged: float = 0.5
    invented: float = 0.0
    mixed: float = 0.0
    attributes: int | None = None
    subjects: int | None = None
    held_out: bool = False
    filler_last: bool = False
    plain: bool = False


def crowded(rng: random.Random, shape: Shape, share: float) -> Shape:
    """For a share of conversations, make the facts alike: of few attributes or of few subjects."""
    if rng.random() >= share:
        return shape
    if rng.random() < 0.6:
        return replace(shape, attributes=rng.randint(1, 3))
    return replace(shape, subjects=rng.randint(1, 4))


def converse(rng: random.Random, shape: Shape) -> Conversation:
    """Draw a conversation of this shape; equal generators give equal conversations."""
    keys = draw_keys(rng, shape.facts, attributes=shape.attributes, subjects=shape.subjects)
    facts = draw_facts(rng, shape.facts, held_out=shape.held_out, keys=keys)
    facts = [_altered(rng, fact, shape) for fact in facts]
    changed = {fact.key for fact in rng.sample(facts, min(shape.changed, len(facts)))}
    before = [_outdated(rng, fact) if fact.key in changed else fact for fact in facts]
    turns = [[_stated(rng, fact, shape), *_acknowledgement(rng, shape)] for fact in before]
    for stated, fact in zip(tuple(turns), facts, strict=True):
        if fact.key in changed:
            place = next(i for i, turn in enumerate(turns) if turn is stated)  # earlier insertions may have moved it
            turns.insert(rng.randint(place + 1, len(turns)), [_updated(rng, fact), *_acknowledgement(rng, shape)])
    for _ in range(shape.filler):
        where = len(turns) if shape.filler_last else rng.randint(0, len(turns))
        turns.insert(where, small_talk(rng))
    questions = [_question(rng, fact, "changed" if fact.key in changed else "stated", shape) for fact in facts]
    told = {fact.key for fact in facts}
    unheard = [key for key in KEYS if (key[0], key[1].noun) not in told]
    near = [key for key in keys if (key[0], key[1].noun) not in told]
    if len(near) >= 2 * shape.unknown:  # if the facts are alike, ask about similar keys that never came up
        unheard = near
    for subject, attribute in rng.sample(unheard, shape.unknown):
        fact = draw_value(rng, subject, attribute, held_out=shape.held_out)
        questions.append(_question(rng, fact, "unknown", shape))
    return Conversation(_split(turns, shape.sessions), questions)


def small_talk(rng: random.Random) -> list[Message]:
    """One turn: a message without a fact, and a reply."""
    slots = {name: rng.choice(words.split()) for name, words in _SLOTS.items()}
    text = rng.choice(_SMALL_TALK).format(name=rng.choice(PEOPLE), when=rng.choice(_WHEN), **slots)
    return [("user", text), ("assistant", rng.choice(_REPLIES))]


def invented_word(rng: random.Random) -> str:
    """A capitalised word of two or three syllables that is in no pool."""
    return "".join(rng.choice(_SYLLABLES) for _ in range(rng.randint(2, 3))).capitalize()


def sentence(text: str) -> str:
    """``text`` with a capital first letter."""
    return text[:1].upper() + text[1:]


def _altered(rng: random.Random, fact: Fact, shape: Shape) -> Fact:
    if shape.invented and rng.random() < shape.invented:
        return Fact(fact.subject, fact.attribute, invented_word(rng))
    if shape.mixed and rng.random() < shape.mixed:
        return Fact(fact.subject, fact.attribute, rng.choice(rng.choice(KEYS)[1].values))
    return fact


def _outdated(rng: random.Random, fact: Fact) -> Fact:
    """An earlier value of this key, which ``fact`` corrects."""
    if fact.value not in fact.attribute.values:
        return Fact(fact.subject, fact.attribute, invented_word(rng))
    return draw_value(rng, fact.subject, fact.attribute, held_out=False, unlike=fact.value)


def _stated(rng: random.Random, fact: Fact, shape: Shape) -> Message:
    if shape.plain:
        return ("user", sentence(fact.statement(0)))
    return ("user", sentence(rng.choice(OPENINGS) + fact.statement(int(rng.random() < _OWN_PHRASE))))


def _updated(rng: random.Random, fact: Fact) -> Message:
    return ("user", sentence(rng.choice(_CORRECTIONS) + fact.update()))


def _acknowledgement(rng: random.Random, shape: Shape) -> list[Message]:
    return [("assistant", rng.choice(_ACKNOWLEDGED))] if rng.random() < shape.acknowledged else []


def _question(rng: random.Random, fact: Fact, kind: str, shape: Shape) -> Question:
    text = fact.question(0 if shape.plain else int(rng.random() < _OWN_PHRASE))
    return Question(sentence(text), UNKNOWN if kind == "unknown" else fact.value, kind, fact)


def _split(turns: list[list[Message]], sessions: int) -> list[list[Message]]:
    size = -(-len(turns) // sessions)
    return [[message for turn in turns[i : i + size] for message in turn] for i in range(0, len(turns), size)]
