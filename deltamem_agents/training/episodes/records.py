"""Records in a prompt, in the form that recall hands them over and the bundled model is trained on."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from deltamem_agents.recall.prompt import GUESS, HEADER, one_line
from deltamem_agents.training.episodes.episode import Message
from deltamem_agents.training.episodes.vocabulary import number, pick, words

MARKED = 0.4  # share of outdated records that say until when they held


@dataclass(frozen=True, slots=True)
class Told:
    """A message as a possible record.

    Args:
        message: What was written.
        keys: The keys of the facts that it is about, each a subject's name and a noun.
        outdated: The keys whose value in it has been replaced.
    """

    message: Message
    keys: tuple[tuple[str, str], ...] = ()
    outdated: tuple[tuple[str, str], ...] = ()


def records_for(
    rng: random.Random, told: Sequence[Told], key: tuple[str, str], *, keep: int, found: bool = True, guess: str = ""
) -> Message | None:
    """The records that recall would give for a question about ``key``, oldest first; None if there are none.

    Args:
        told: All that was written, in order.
        keep: Maximum number: first those about the key, then those about its subject or its noun, then others.
        found: False leaves out those about the key, as if recall had not found them.
        guess: What the state is said to suggest.
    """
    scored = [(_nearness(each, key), rng.random(), number) for number, each in enumerate(told)]
    wanted = [each for each in scored if found or each[0] < 3]
    chosen = sorted(each[2] for each in sorted(wanted, reverse=True)[:keep])
    lines = [_line(rng, told[each], key) for each in chosen]
    if not lines and not guess:
        return None
    head = [f"{GUESS}: {one_line(guess)}"] if guess else []
    return {"role": "system", "content": "\n".join([*head, *([HEADER] if lines else []), *lines])}


def _nearness(told: Told, key: tuple[str, str]) -> int:
    if key in told.keys:
        return 3
    return any(subject == key[0] for subject, _ in told.keys) + any(noun == key[1] for _, noun in told.keys)


def _line(rng: random.Random, told: Told, key: tuple[str, str]) -> str:
    marked = key in told.outdated and len(told.keys) == 1 and rng.random() < MARKED
    held = f" (until {number(rng, 1, 28)} {pick(rng, words('months'))})" if marked else ""
    return f"- {told.message['role']}: {one_line(told.message['content'])}{held}"
