"""Measures recall of everyday facts that training never sees: attributes, names and phrasings are kept out of it.

An agent is told facts of a list that was written by hand, and asked about some of them, and about as many that it was
not told. The facts stand in ``everyday.toml``.
"""

from __future__ import annotations

import random
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from deltamem_agents.memory import DeltaMem
from deltamem_agents.memory.options import Mode
from deltamem_agents.search_form import words_of

ASKED = 5  # facts that an agent is asked about, and as many that it was not told


@dataclass(frozen=True, slots=True)
class EverydayFact:
    """A fact as it is said and asked, and its right answers."""

    said: str
    asked: str
    answers: tuple[str, ...]

    def accepts(self, answer: str) -> bool:
        """Whether an answer is right; letter case, punctuation and an article before it do not count."""
        return _plain(answer) in {_plain(each) for each in self.answers}


@dataclass(frozen=True, slots=True)
class EverydayScore:
    """What an agent answers after a number of facts.

    Args:
        right, wrong: Shares of the questions about what was told.
        invented: Share of the questions about what was never told that are answered.
        questions: Questions of each of the two kinds.
    """

    facts: int
    mode: str
    right: float
    wrong: float
    invented: float
    questions: int


@cache
def everyday_facts() -> tuple[EverydayFact, ...]:
    """All facts of the list."""
    text = files("deltamem_agents.training").joinpath("everyday.toml").read_text(encoding="utf-8")
    return tuple(
        EverydayFact(each["said"], each["asked"], tuple(each["answers"])) for each in tomllib.loads(text)["fact"]
    )


def measure_everyday(
    mem: DeltaMem,
    *,
    sizes: tuple[int, ...] = (5, 30),
    episodes: int = 60,
    modes: tuple[Mode, ...] = ("hybrid",),
    k: int = 5,
    seed: int = 5_000_011,
) -> Iterator[EverydayScore]:
    """Tell agents of a memory so many facts each, and ask them; the agents are deleted afterwards.

    Args:
        episodes: Agents for each size.
        k: Records that an answer may use.

    Raises:
        DeltaMemError: A write or a recall failed; see `AgentMemory`.
    """
    for size in sizes:
        found: dict[str, list[int]] = {mode: [0, 0, 0, 0] for mode in modes}
        for number in range(episodes):
            rng = random.Random(f"everyday {seed} {size} {number}")
            drawn = rng.sample(everyday_facts(), size + ASKED)
            told, untold = drawn[:size], drawn[size:]
            agent = mem.agent(f"everyday {seed} {size} {number}")
            agent.write([{"role": "user", "content": fact.said} for fact in told])
            for mode in modes:
                counted = found[mode]
                for fact in rng.sample(told, min(ASKED, size)):
                    answer = agent.recall(fact.asked, mode=mode, k=k).answer
                    counted[0] += answer is not None and fact.accepts(answer)
                    counted[1] += answer is not None and not fact.accepts(answer)
                    counted[3] += 1
                for fact in untold:
                    counted[2] += agent.recall(fact.asked, mode=mode, k=k).answer is not None
            agent.delete()
        for name, (right, wrong, invented, asked) in found.items():
            invented_share = invented / (episodes * ASKED)
            yield EverydayScore(size, name, right / asked, wrong / asked, invented_share, asked)


def _plain(text: str) -> tuple[str, ...]:
    words = tuple(words_of(text.casefold()))
    return words[1:] if words[:1] in (("a",), ("an",), ("the",)) else words
