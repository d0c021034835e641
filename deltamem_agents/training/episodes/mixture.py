"""What episodes are made of: sizes and shares. A curriculum, a sequence of mixtures, is the trainer's business."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

from deltamem_agents import arguments
from deltamem_agents.errors import ConfigError, shown
from deltamem_agents.training.episodes.facts import HeldOut

Range = tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixture:
    """Sizes and shares of an episode. A size is a range, both ends included; small numbers are likelier.

    Args:
        facts: Facts told.
        sessions: Sessions over which all is spread.
        filler: Turns of small talk among the rest.
        questions: The most questions about facts that are asked.
        changed: Share of facts, and of rules, that are corrected later.
        unknown: Questions about what was never said, for each question about a fact that was.
        near: Share of these that are about a subject or an attribute that was told of.
        records: Share of questions about facts that bring records in the prompt.
        found: Share of those whose records hold the answer, if there is one.
        reading: Share of episodes whose sessions are not written at all: only the records tell.
        guess: Share of questions with records that also bring what memory suggests, right or wrong.
        alike: Share of facts that share subject or attribute with another.
        joint: Share of messages that state two facts.
        mentions: Share of facts beside which something is mentioned without its value.
        acknowledged: Share of statements that the assistant acknowledges.
        ruled: Share of episodes in which standing rules are told.
        rules: Rules told in such an episode, of different kinds.
        ruled_facts: Facts told in such an episode, in place of ``facts``; asked for only if no rule bears on answers.
        rules_anywhere: Share of such episodes whose rules are told among the rest, not before.
        pinned: Share of requests under a rule that bring the rules in the prompt.
        unrelated: Questions that have nothing to do with what was told, for each episode.
        held_out: Which axes are taken from what training never sees.

    Raises:
        ConfigError: A size or a share is out of range.
    """

    facts: Range = (1, 8)
    sessions: Range = (1, 3)
    filler: Range = (0, 6)
    questions: int = 8
    changed: float = 0.15
    unknown: float = 0.35
    near: float = 0.7
    records: float = 0.4
    found: float = 0.85
    reading: float = 0.15
    guess: float = 0.1
    alike: float = 0.4
    joint: float = 0.15
    mentions: float = 0.1
    acknowledged: float = 0.5
    ruled: float = 0.4
    rules: Range = (1, 4)
    ruled_facts: Range = (0, 3)
    rules_anywhere: float = 0.3
    pinned: float = 0.1
    unrelated: float = 0.3
    held_out: HeldOut = field(default_factory=HeldOut)

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if str(each.type) == "Range":
                _check_range(each.name, value)
            elif str(each.type) == "float":
                _check_share(each.name, value)
        arguments.whole(self.questions, "questions", 1, 1000)
        arguments.instance(self.held_out, "held_out", HeldOut)
        if self.facts == (0, 0) and not self.unrelated:
            raise ConfigError("an episode of no fact and no unrelated question asks nothing; give more of either")


def _check_range(name: str, value: object) -> None:
    if not (isinstance(value, tuple) and len(value) == 2):
        raise ConfigError(f"{name} is {shown(value)}; give a pair of whole numbers, such as (1, 8)")
    low = arguments.whole(value[0], f"the lower end of {name}", 0, 1000)
    arguments.whole(value[1], f"the upper end of {name}", low, 1000)


def _check_share(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ConfigError(f"{name} is {shown(value)}; give a share from 0 to 1")
