"""Draws episodes without end from a seed; the same seed and mixture give the same episodes on every machine."""

from __future__ import annotations

import random
from collections.abc import Iterator

from deltamem_agents import arguments
from deltamem_agents.training.episodes.episode import UNKNOWN, Episode, Message, Question, user
from deltamem_agents.training.episodes.facts import Fact, question
from deltamem_agents.training.episodes.mixture import Mixture
from deltamem_agents.training.episodes.records import records_for
from deltamem_agents.training.episodes.requests import Form
from deltamem_agents.training.episodes.rules import QUIET, reply_to, request_beside, request_for
from deltamem_agents.training.episodes.telling import Telling, size, small_reply, small_talk, tell, unheard
from deltamem_agents.training.episodes.vocabulary import pick


def generate(seed: int, mixture: Mixture | None = None, *, start: int = 0, step: int = 1) -> Iterator[Episode]:
    """Draw episodes without end.

    Args:
        start: Number of the first episode; each is drawn by itself, so that a run may resume anywhere.
        step: Distance to the next one, as for one of several workers.

    Raises:
        ConfigError: An argument is out of range.
    """
    arguments.whole(seed, "seed")
    arguments.whole(start, "start")
    arguments.whole(step, "step", 1)
    chosen = mixture if mixture is not None else Mixture()
    arguments.instance(chosen, "mixture", Mixture)
    return _episodes(seed, chosen, start, step)


def draw_episode(seed: int, place: int, mixture: Mixture) -> Episode:
    """Episode number ``place`` of a seed."""
    rng = random.Random(f"episode {seed} {place}")  # a string is hashed alike everywhere
    telling = tell(rng, mixture)
    rules = telling.rules
    reading = bool(telling.facts) and not rules and rng.random() < mixture.reading
    sessions = () if reading else telling.sessions(rng, max(1, size(rng, mixture.sessions)))
    questions = _rule_questions(rng, telling, mixture)
    if all(rule.kind.name in QUIET for rule in rules):
        questions += _fact_questions(rng, telling, mixture, reading=reading)
    if not questions or (not reading and rng.random() < mixture.unrelated):
        questions.append(_unrelated(rng, telling, mixture))
    return Episode(sessions=sessions, questions=tuple(questions), id=f"{seed}-{place}")


def _episodes(seed: int, mixture: Mixture, start: int, step: int) -> Iterator[Episode]:
    while True:
        yield draw_episode(seed, start, mixture)
        start += step


def _rule_questions(rng: random.Random, telling: Telling, mixture: Mixture) -> list[Question]:
    questions = []
    told = [each for each in telling.told if each.keys and each.keys[0][0] == "rule"]
    for rule in telling.rules:
        pinned = rng.random() < mixture.pinned
        request = request_for(rng, rule, telling.rules, held_out=mixture.held_out.rules)
        if request is None:
            continue
        prompt = (records_for(rng, told, rule.key, keep=len(told)),) if pinned else ()
        questions.append(
            Question(
                messages=(*(each for each in prompt if each), user(request.text)),
                answer=reply_to(request, telling.rules),
                kind=f"rule {rule.kind.name}{' read' if pinned else ''}",
                checker=rule.checker,
                held_out=mixture.held_out.rules or mixture.held_out.kinds,
            )
        )
    return questions


def _fact_questions(rng: random.Random, telling: Telling, mixture: Mixture, *, reading: bool) -> list[Question]:
    asked = rng.sample(telling.facts, min(mixture.questions, len(telling.facts)))
    questions = []
    for fact in asked:
        kind = "changed" if fact.key in telling.changed else "stated"
        questions.append(_ask(rng, telling, fact, kind, mixture, reading=reading))
        if rng.random() < mixture.unknown:
            other = unheard(rng, telling.facts, mixture)
            questions.append(_ask(rng, telling, other, "unknown", mixture, reading=reading))
    return questions


def _ask(rng: random.Random, telling: Telling, fact: Fact, kind: str, mixture: Mixture, *, reading: bool) -> Question:
    asked = user(question(rng, fact, mixture.held_out))
    answer = UNKNOWN if kind == "unknown" else fact.value
    records: Message | None = None
    if reading or rng.random() < mixture.records:
        found = rng.random() < mixture.found
        told = telling.told
        about = sum(fact.key in each.keys for each in told)
        keep = about + size(rng, (0, 6))
        guess = _guess(rng, telling, fact, kind) if found and rng.random() < mixture.guess else ""
        records = records_for(rng, told, fact.key, keep=keep, found=found, guess=guess)
        if reading and not found and kind != "unknown":
            kind, answer = "unknown", UNKNOWN
    return Question(
        messages=(records, asked) if records else (asked,),
        answer=answer,
        kind=f"{kind} read" if records else kind,
        held_out=mixture.held_out.facts,
    )


def _guess(rng: random.Random, telling: Telling, fact: Fact, kind: str) -> str:
    right = kind != "unknown" and rng.random() < 0.5
    return fact.value if right else pick(rng, telling.facts).value


def _unrelated(rng: random.Random, telling: Telling, mixture: Mixture) -> Question:
    """A question whose reply is the same whatever was told: a request that no rule bears on, or small talk."""
    held_out = mixture.held_out
    text = small_talk(rng, held_out=held_out.values)
    request = request_beside(rng, telling.rules, held_out=held_out.rules) if rng.random() < 0.6 else None
    return Question(
        messages=(user(request.text if request else text),),
        answer=request.reply(Form()) if request else small_reply(text),
        kind="unrelated",
        reference="backbone",
        held_out=held_out.rules if request else held_out.values,
    )
