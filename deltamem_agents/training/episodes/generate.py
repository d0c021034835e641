"""Draws episodes without end from a seed; the same seed and mixture give the same episodes on every machine."""

from __future__ import annotations

import random
from collections.abc import Iterator

from deltamem_agents import arguments
from deltamem_agents.training.episodes.episode import UNKNOWN, Episode, Message, Question, user
from deltamem_agents.training.episodes.facts import Fact, question
from deltamem_agents.training.episodes.filler import small_talk
from deltamem_agents.training.episodes.mixture import Mixture
from deltamem_agents.training.episodes.records import records_for
from deltamem_agents.training.episodes.telling import Telling, size, tell, unheard
from deltamem_agents.training.episodes.vocabulary import phrases, pick


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
    reading = bool(telling.facts) and rng.random() < mixture.reading
    sessions = () if reading else telling.sessions(rng, max(1, size(rng, mixture.sessions)))
    questions = _fact_questions(rng, telling, mixture, reading=reading)
    if sessions and (not questions or rng.random() < mixture.unrelated):
        questions.append(_unrelated(rng, mixture))
    return Episode(sessions=sessions, questions=tuple(questions), id=f"{seed}-{place}")


def _episodes(seed: int, mixture: Mixture, start: int, step: int) -> Iterator[Episode]:
    while True:
        yield draw_episode(seed, start, mixture)
        start += step


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
        held_out=mixture.held_out.any,
    )


def _guess(rng: random.Random, telling: Telling, fact: Fact, kind: str) -> str:
    right = kind != "unknown" and rng.random() < 0.5
    return fact.value if right else pick(rng, telling.facts).value


def _unrelated(rng: random.Random, mixture: Mixture) -> Question:
    held_out = mixture.held_out.values
    return Question(
        messages=(user(small_talk(rng, held_out=held_out)),),
        answer=pick(rng, phrases("replies")),
        kind="unrelated",
        reference="backbone",
        held_out=held_out,
    )
