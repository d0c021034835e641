"""What a state costs where it should do nothing: on unrelated requests, and on text that has nothing to do with it.

On the bare backbone's own reply to each unrelated request: KL(bare ‖ with state) in nats a token, and whether greedy
decoding would still give that reply. On passages of Python's manual, which stands in every installation: by what factor
the state raises their perplexity. All of it is computed with the trainer's own code, on a model with its adapter
attached.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache

import torch

from deltamem_agents.bench.recall.facts import Advance
from deltamem_agents.bench.state.asking import Asker, prompt_of
from deltamem_agents.bench.state.controls import ANOTHER, OWN, PERMUTED, SHUFFLED
from deltamem_agents.bench.state.intervals import Interval, share
from deltamem_agents.bench.state.tasks import UNRELATED, kind_of
from deltamem_agents.core import Attached, State, stack_states
from deltamem_agents.engine import Engine, Rendering
from deltamem_agents.training.adapters.collation import EpisodeCollator
from deltamem_agents.training.adapters.episode_loss import EpisodeLoss
from deltamem_agents.training.adapters.rendered import RenderedEpisode, RenderedQuestion
from deltamem_agents.training.episodes import Question
from deltamem_agents.training.episodes.episode import user

IRRELEVANT = (OWN, ANOTHER, PERMUTED, SHUFFLED)  # no question is about what any of these holds
BATCH = 8  # episodes
GIVEN, READ = 8, 96  # tokens of a passage that are given, and that are read after them
SHORTEST = 120  # characters of a paragraph
LONGEST = 6  # paragraphs of which a passage is the beginning
TEXT = Question(messages=(user("text"),), answer="text", kind="text")


@dataclass(slots=True)
class Sums:
    """Sums over an episode's tokens or requests, one an episode, and what they are divided by."""

    divergence: list[float] = field(default_factory=list)
    changed: list[float] = field(default_factory=list)
    tokens: list[float] = field(default_factory=list)
    requests: list[float] = field(default_factory=list)
    with_state: list[float] = field(default_factory=list)  # loss on the passage
    without: list[float] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What a state costs in one task.

    Args:
        divergence: KL(bare ‖ with state), nats a token of the bare replies to unrelated requests.
        changed: Share of these replies that the state changes.
        perplexity: That of unrelated text with the state, relative to that without.
        without: Perplexity of that text without the state.
    """

    task: str
    size: int
    others: int
    state: str
    episodes: int
    divergence: Interval
    changed: Interval
    perplexity: Interval
    without: float


@dataclass(frozen=True, slots=True)
class Prepared:
    """What is read in each episode of a task: the bare replies to its unrelated requests, and a passage."""

    asker: Asker
    requests: list[list[RenderedQuestion]]
    passages: list[RenderedQuestion]


def prepare(engine: Engine, asker: Asker, *, seed: int) -> Prepared:
    """Render what is read, once the bare backbone's replies are known."""
    rng = random.Random(f"passages {seed} {asker.task}")
    requests = []
    for place, told in enumerate(asker.told):
        requests.append(
            [
                RenderedQuestion(prompt_of(engine, each), list(asker.bare[place, number]), True, UNRELATED, each)
                for number, each in enumerate(told.episode.questions)
                if kind_of(each) == UNRELATED and asker.bare[place, number]
            ]
        )
    return Prepared(asker, requests, [_passage(engine.rendering, rng) for _ in asker.told])


def costs(attached: Attached, prepared: Prepared, progress: Advance = lambda *_: None) -> Iterator[Cost]:
    """The cost of each of the `IRRELEVANT` states in one task."""
    module = EpisodeLoss(attached).eval()
    collator = EpisodeCollator(0, attached.adapter.config.write)
    task, count = prepared.asker.task, len(prepared.passages)
    for which in IRRELEVANT:
        sums = Sums()
        for start in range(0, count, BATCH):
            progress(f"{task}: cost, {which} state", start, count)
            _add(sums, module, collator, prepared, range(start, min(start + BATCH, count)), which)
        raised = share([a - b for a, b in zip(sums.with_state, sums.without, strict=True)], [1.0] * count)
        yield Cost(
            task=task.name,
            size=task.size,
            others=task.others,
            state=which,
            episodes=count,
            divergence=share(sums.divergence, sums.tokens),
            changed=share(sums.changed, sums.requests),
            perplexity=Interval(math.exp(raised.value), math.exp(raised.low), math.exp(raised.high)),
            without=math.exp(sum(sums.without) / count),
        )


def _add(
    sums: Sums, module: EpisodeLoss, collator: EpisodeCollator, prepared: Prepared, places: range, which: str
) -> None:
    """Add the sums of a batch of episodes."""
    states = [prepared.asker.state(place, which) for place in places]
    pool = _pooled([each for each in states if each is not None], module.attached.device)
    asked = [prepared.requests[place] for place in places]
    if any(asked):
        rows = [place for place, each in enumerate(asked) for _ in each]
        batch = module.placed(collator([RenderedEpisode([], each) for each in asked]))
        found = module.score(batch, pool, torch.tensor(rows, device=module.attached.device))
        loss, right = found.loss.tolist(), found.right.tolist()
        lengths = [len(each.reply) for questions in asked for each in questions]
        for place in range(len(places)):
            of = [row for row, owner in enumerate(rows) if owner == place]
            sums.divergence.append(sum(loss[row] * lengths[row] for row in of))
            sums.changed.append(float(sum(not right[row] for row in of)))
            sums.tokens.append(float(sum(lengths[row] for row in of)))
            sums.requests.append(float(len(of)))
    passages = module.placed(collator([RenderedEpisode([], [prepared.passages[place]]) for place in places]))
    rows_of = torch.arange(len(places), device=module.attached.device)
    sums.with_state += module.score(passages, pool, rows_of).loss.tolist()
    sums.without += module.score(passages, pool, torch.full_like(rows_of, -1)).loss.tolist()


def _pooled(states: Sequence[State], device: torch.device) -> State:
    return {name: tensor.to(device) for name, tensor in stack_states(states).items()}


def _passage(rendering: Rendering, rng: random.Random) -> RenderedQuestion:
    """The beginning of a passage as a prompt, and what follows as the reply."""
    known = paragraphs()
    start = rng.randrange(len(known) - LONGEST)
    ids = rendering.text(" ".join(known[start : start + LONGEST]))
    return RenderedQuestion([*rendering.start(), *ids[:GIVEN]], ids[GIVEN : GIVEN + READ], False, "text", TEXT)


@cache
def paragraphs() -> tuple[str, ...]:
    """Paragraphs of the manual of the Python that runs, without code, tables and headings."""
    from pydoc_data.topics import topics

    pieces = (" ".join(each.split()) for name in sorted(topics) for each in re.split(r"\n\s*\n", topics[name]))
    return tuple(each for each in pieces if len(each) >= SHORTEST and each[0].isupper() and each.endswith("."))
