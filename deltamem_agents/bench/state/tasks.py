"""What agents are told and asked: standing rules, with or without other messages after them, and facts.

A task is a number of episodes of one kind and size. Training never sees their wordings, values and requests; only
"facts, trained keys" are of the kind that the bundled model was trained on, held out as combinations.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from deltamem_agents.bench.recall.facts import converse_about
from deltamem_agents.training.episodes import Episode, HeldOut, Message, Mixture, Question, draw_episode
from deltamem_agents.training.episodes.episode import user
from deltamem_agents.training.episodes.facts import draw_fact, statement
from deltamem_agents.training.episodes.requests import Form
from deltamem_agents.training.episodes.rules import Rule, draw_rules, reply_to, request_beside, request_for
from deltamem_agents.training.episodes.telling import acknowledgement, small_reply, small_talk, small_turn

RULES, UNTRAINED = "rules", "rules, untrained kinds"
VALUES, EVERYDAY, TRAINED = "facts, unseen values", "facts, everyday", "facts, trained keys"
RULE, STATED, UNKNOWN, UNRELATED = "rule", "stated", "unknown", "unrelated"  # kinds of questions
HELD_OUT = {
    VALUES: HeldOut(values=True),
    EVERYDAY: HeldOut(values=True, names=True, attributes=True, phrasings=True),
}
UNTRAINED_SIZES = (1, 2)  # there are no more kinds that do not contradict
ASKED = 4  # the most rules, or facts, of an episode that are asked for
MOST_TRAINED = 8  # facts of a conversation of the kind that the bundled model was trained on
SESSION = 20  # messages in a session of other messages
FACT_SHARE = 0.3  # share of facts among the other messages, next to small talk
Sessions = tuple[tuple[Message, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """Episodes of one kind and size.

    Args:
        size: Rules or facts told in each episode.
        others: Other messages written after them.
        episodes: In episodes of rules, the first session tells the rules, and nothing else does.
    """

    name: str
    size: int
    others: int = 0
    episodes: tuple[Episode, ...]

    @property
    def ruled(self) -> bool:
        """Whether it is about standing rules."""
        return self.name in (RULES, UNTRAINED)

    def __str__(self) -> str:
        return f"{self.name}: {self.size}" + (f", then {self.others} messages" if self.others else "")


def kind_of(question: Question) -> str:
    """What a question asks for: `RULE`, `STATED`, `UNKNOWN` or `UNRELATED`."""
    return RULE if question.kind.startswith("rule ") else question.kind


def rule_tasks(sizes: Sequence[int], others: Sequence[int], episodes: int, seed: int) -> Iterator[Task]:
    """Rules by number of rules and of other messages; then those of kinds that training never sees."""
    chosen = [(RULES, size, after) for after in others for size in sizes]
    chosen += [(UNTRAINED, size, 0) for size in sizes if size in UNTRAINED_SIZES]
    for name, size, after in chosen:
        drawn = tuple(ruled(seed, place, size, after, untrained=name == UNTRAINED) for place in range(episodes))
        yield Task(name=name, size=size, others=after, episodes=drawn)


def fact_tasks(sizes: Sequence[int], episodes: int, seed: int, *, trained: bool) -> Iterator[Task]:
    """Facts by number of facts, in an open vocabulary.

    Args:
        trained: Whether to add up to `MOST_TRAINED` facts of the kind that the bundled model was trained on.
    """
    for name, held_out in HELD_OUT.items():
        for size in sizes:
            mixture = _facts_only(size, held_out)
            drawn = tuple(draw_episode(seed, place, mixture) for place in range(episodes))
            yield Task(name=name, size=size, episodes=drawn)
    for size in sizes:
        if trained and size <= MOST_TRAINED:
            conversations = tuple(_conversation(seed, place, size) for place in range(episodes))
            yield Task(name=TRAINED, size=size, episodes=conversations)


def ruled(seed: int, place: int, count: int, others: int, *, untrained: bool = False) -> Episode:
    """An episode that tells rules in its first session; the same whatever is written after them.

    It asks for a reply under some of the rules, for one that no rule bears on if there is such a request, and for one
    to small talk.
    """
    rng = random.Random(f"rules {seed} {place} {count} {untrained}")
    rules = draw_rules(rng, count, held_out=True, never_trained=untrained)
    told: list[Message] = []
    for rule in rules:
        told += [user(rule.told), *([acknowledgement(rng)] if rng.random() < 0.5 else [])]
    questions = [
        question
        for rule in rng.sample(rules, min(ASKED, len(rules)))
        if (question := _under(rng, rule, rules)) is not None
    ]
    beside = request_beside(rng, rules, held_out=True)
    if beside is not None:
        questions.append(_unrelated(beside.text, beside.reply(Form())))
    said = small_talk(rng, held_out=True)
    questions.append(_unrelated(said, small_reply(said)))
    after = other_sessions(random.Random(f"others {seed} {place}"), others)
    return Episode(sessions=(tuple(told), *after), questions=tuple(questions), id=f"{seed}-{place}")


def other_sessions(rng: random.Random, count: int) -> Sessions:
    """So many messages of facts and small talk, in sessions of `SESSION` messages."""
    held_out = HELD_OUT[EVERYDAY]
    messages: list[Message] = []
    while len(messages) < count:
        if rng.random() < FACT_SHARE:
            messages += [user(statement(rng, draw_fact(rng, held_out), held_out)), acknowledgement(rng)]
        else:
            messages += small_turn(rng, held_out=True)
    return tuple(tuple(messages[start : min(start + SESSION, count)]) for start in range(0, count, SESSION))


def _under(rng: random.Random, rule: Rule, rules: Sequence[Rule]) -> Question | None:
    """A question whose reply shows whether a rule is followed; None if none is found."""
    request = request_for(rng, rule, rules, held_out=True)
    if request is None:
        return None
    return Question(
        messages=(user(request.text),),
        answer=reply_to(request, rules),
        kind=f"rule {rule.kind.name}",
        checker=rule.checker,
        held_out=True,
    )


def _unrelated(text: str, reply: str) -> Question:
    return Question(messages=(user(text),), answer=reply, kind=UNRELATED, reference="backbone", held_out=True)


def _facts_only(size: int, held_out: HeldOut) -> Mixture:
    return Mixture(
        facts=(size, size),
        ruled=0.0,
        filler=(0, 0),
        questions=ASKED,
        changed=0.0,
        unknown=0.5,
        records=0.0,
        reading=0.0,
        guess=0.0,
        unrelated=1.0,
        held_out=held_out,
    )


def _conversation(seed: int, place: int, size: int) -> Episode:
    """A conversation of the kind that the bundled model was trained on, as an episode."""
    told = converse_about(size, seed=seed * 1_000 + size * 10_000 + place)
    sessions: list[tuple[Message, ...]] = []
    for session in told.sessions:
        sessions.append(tuple(Message(role=role, content=text) for role, text in session))  # type: ignore[typeddict-item]
    asked = random.Random(f"conversation {seed} {place} {size}")
    stated = [each for each in told.questions if each.kind != UNKNOWN]
    unknown = [each for each in told.questions if each.kind == UNKNOWN]
    chosen = asked.sample(stated, min(len(stated), ASKED))
    chosen += asked.sample(unknown, min(len(unknown), (len(chosen) + 1) // 2))
    questions = [Question(messages=(user(each.text),), answer=each.answer, kind=each.kind) for each in chosen]
    said = small_talk(asked, held_out=True)
    return Episode(
        sessions=tuple(sessions), questions=(*questions, _unrelated(said, small_reply(said))), id=f"{seed}-{place}"
    )
