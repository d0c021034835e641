"""What an agent is told in an episode: facts, corrections, mentions and small talk, in order, spread over sessions."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from deltamem_agents.training.episodes.episode import Message, assistant, user
from deltamem_agents.training.episodes.facts import (
    Fact,
    correction,
    draw_fact,
    draw_facts,
    joint_statement,
    mention,
    sibling,
    statement,
)
from deltamem_agents.training.episodes.mixture import Mixture
from deltamem_agents.training.episodes.records import Told
from deltamem_agents.training.episodes.rules import Rule, changed, draw_rule, draw_rules
from deltamem_agents.training.episodes.values import draw_value
from deltamem_agents.training.episodes.vocabulary import (
    is_held_out,
    number,
    phrases,
    pick,
    sentence,
    share_of,
    with_articles,
    word,
)

Turn = list[Told]

_SLOT = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True, slots=True)
class Telling:
    """What was told: turns in order, facts and rules that hold in the end, and the facts that were corrected."""

    turns: list[Turn]
    facts: list[Fact]
    changed: frozenset[tuple[str, str]]
    rules: list[Rule]

    @property
    def told(self) -> list[Told]:
        """All messages, in order."""
        return [each for turn in self.turns for each in turn]

    def sessions(self, rng: random.Random, count: int) -> tuple[tuple[Message, ...], ...]:
        """The messages, cut into at most ``count`` sessions of whole turns."""
        inner = sorted(rng.sample(range(1, len(self.turns)), min(count - 1, max(0, len(self.turns) - 1))))
        ends = zip([0, *inner], [*inner, len(self.turns)], strict=True)
        parts = (tuple(each.message for turn in self.turns[a:b] for each in turn) for a, b in ends)
        return tuple(part for part in parts if part)


def tell(rng: random.Random, mixture: Mixture) -> Telling:
    """Draw what is told in an episode."""
    ruled = rng.random() < mixture.ruled
    count = size(rng, mixture.ruled_facts if ruled else mixture.facts)
    facts = separate(draw_facts(rng, count, mixture.held_out, alike=mixture.alike))
    corrected = frozenset(fact.key for fact in facts if rng.random() < mixture.changed)
    turns = _statements(rng, facts, corrected, mixture)
    for fact in facts:
        if rng.random() < mixture.mentions:
            other = sibling(rng, fact, mixture.held_out)
            if not clashes(other, facts):
                said = user(mention(rng, other, mixture.held_out))
                turns.insert(number(rng, 0, len(turns)), [Told(said, (other.key,))])
    for _ in range(size(rng, mixture.filler)):
        small = small_turn(rng, held_out=mixture.held_out.values)
        turns.insert(number(rng, 0, len(turns)), [Told(message) for message in small])
    rules = _tell_rules(rng, turns, mixture) if ruled else []
    return Telling(turns, facts, corrected, rules)


def unheard(rng: random.Random, facts: Sequence[Fact], mixture: Mixture) -> Fact:
    """A fact that was not told, about a key that none of the told facts could be taken for."""
    for _ in range(50):
        near = facts and rng.random() < mixture.near
        fact = sibling(rng, facts[number(rng, 0, len(facts) - 1)], mixture.held_out) if near else None
        fact = fact or draw_fact(rng, mixture.held_out)
        if not clashes(fact, facts):
            return fact
    return draw_fact(rng, mixture.held_out)


def separate(facts: Sequence[Fact]) -> list[Fact]:
    """The facts less those that could be taken for an earlier one."""
    kept: list[Fact] = []
    for fact in facts:
        if not clashes(fact, kept):
            kept.append(fact)
    return kept


def clashes(fact: Fact, others: Sequence[Fact]) -> bool:
    """Whether one of the others is about the same, or has a subject that could be the same."""
    name = fact.subject.name
    for other in others:
        if other.subject.name == name:
            if fact.attribute.alike(other.attribute):
                return True
        elif _within(name, other.subject.name) or _within(other.subject.name, name):
            return True
    return False


def size(rng: random.Random, ends: tuple[int, int]) -> int:
    """A whole number of a range; small ones are likelier."""
    low, high = ends
    return low + int((high - low + 1) * rng.random() ** 1.7)


def _statements(
    rng: random.Random, facts: Sequence[Fact], changed: frozenset[tuple[str, str]], mixture: Mixture
) -> list[Turn]:
    turns: list[Turn] = []
    old: dict[tuple[str, str], str] = {}
    waiting = list(facts)
    while waiting:
        keys: tuple[tuple[str, str], ...]
        fact = _before(rng, waiting.pop(0), changed, old, mixture)
        if waiting and rng.random() < mixture.joint:
            second = _before(rng, waiting.pop(0), changed, old, mixture)
            text, keys = joint_statement(rng, fact, second, mixture.held_out), (fact.key, second.key)
        else:
            text, keys = statement(rng, fact, mixture.held_out), (fact.key,)
        outdated = tuple(key for key in keys if key in changed)
        turns.append(_turn(rng, Told(user(text), keys, outdated), mixture))
    for fact in facts:
        if fact.key in changed:
            place = next(i for i, turn in enumerate(turns) if fact.key in turn[0].keys)
            said = user(correction(rng, fact, old[fact.key], mixture.held_out))
            turns.insert(number(rng, place + 1, len(turns)), _turn(rng, Told(said, (fact.key,)), mixture))
    return turns


def _tell_rules(rng: random.Random, turns: list[Turn], mixture: Mixture) -> list[Rule]:
    """Insert the turns that tell rules, and give those that hold in the end."""
    held_out, kinds = mixture.held_out.rules, mixture.held_out.kinds
    rules = draw_rules(rng, number(rng, *mixture.rules), held_out=held_out, never_trained=kinds)
    anywhere = rng.random() < mixture.rules_anywhere
    for place, rule in enumerate(rules):
        at = number(rng, 0, len(turns)) if anywhere else place
        turns.insert(at, _turn(rng, Told(user(rule.told), (rule.key,)), mixture))
    last = []
    for rule in rules:
        newer = draw_rule(rng, rule.kind, held_out=held_out, unlike=rule) if rng.random() < mixture.changed else rule
        if newer.value != rule.value:
            newer = changed(rng, newer)
            first = next(i for i, turn in enumerate(turns) if turn[0].message["content"] == rule.told)
            told = Told(user(newer.told), (rule.key,))
            turns.insert(number(rng, first + 1, len(turns)), _turn(rng, told, mixture))
            last.append(newer)
        else:
            last.append(rule)
    return last


def _before(
    rng: random.Random,
    fact: Fact,
    changed: frozenset[tuple[str, str]],
    old: dict[tuple[str, str], str],
    mixture: Mixture,
) -> Fact:
    if fact.key not in changed:
        return fact
    held_out = mixture.held_out.values
    old[fact.key] = draw_value(rng, fact.attribute.value, held_out=held_out, unlike=fact.value)
    return replace(fact, value=old[fact.key])


def _turn(rng: random.Random, told: Told, mixture: Mixture) -> Turn:
    return [told, Told(acknowledgement(rng))] if rng.random() < mixture.acknowledged else [told]


def _within(name: str, other: str) -> bool:
    return f" {name.casefold()} " in f" {other.casefold().replace(chr(39), ' ')} "


def small_talk(rng: random.Random, *, held_out: bool = False) -> str:
    """A message of the user that says nothing worth asking for, held out or not."""
    while True:
        text = _SLOT.sub(lambda slot: _filled(rng, slot.group(1)), pick(rng, phrases("talk")))
        text = sentence(with_articles(text))
        if is_held_out(text) == held_out:
            return text


def small_turn(rng: random.Random, *, held_out: bool = False) -> list[Message]:
    """Small talk, and mostly a reply."""
    text = small_talk(rng, held_out=held_out)
    return [user(text), assistant(small_reply(text))] if rng.random() < 0.7 else [user(text)]


def small_reply(text: str) -> str:
    """What an assistant says to small talk; the same to the same."""
    replies = phrases("replies")
    return replies[int(share_of(f"reply|{text}") * len(replies))]


def acknowledgement(rng: random.Random) -> Message:
    """What an assistant says to something that it is told."""
    return assistant(pick(rng, phrases("acknowledged")))


def _filled(rng: random.Random, name: str) -> str:
    if name in ("past", "soon", "doc", "mood"):
        return pick(rng, phrases(name))
    return draw_value(rng, "given") if name == "given" else word(rng, name)
