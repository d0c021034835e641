"""The states that stand in place of an agent's own, to prove that what is seen comes from it.

`ZERO`: none. `ANOTHER`: that of another episode of the task, which shares as few answers as possible. `PERMUTED`: the
right matrices with the rows of each in another order, so that everything is there but not in its place. `OFF`: the
right state, with the corrections of attention switched off, so that nothing that is read has an effect. `SHUFFLED`: a
state folded from other episodes' sessions, each session of the episode replaced by one of another episode.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Hashable, Sequence
from dataclasses import replace

import torch

from deltamem_agents.core import Adapter, State
from deltamem_agents.engine import Loaded
from deltamem_agents.training.episodes import Episode

OWN, ZERO, ANOTHER, PERMUTED, OFF, SHUFFLED = "own", "zero", "another's", "permuted", "off", "shuffled"
CONTROLS = (ZERO, ANOTHER, PERMUTED, OFF, SHUFFLED)
DONORS = 24  # episodes among which another's state is chosen


def permuted(state: State, rng: random.Random) -> State:
    """The same matrices with the rows of each in another order, in which no row is where it was.

    Shapes: [R, R] or [H, R, R]; rows are the value axis. A state of rank 1 has one row only, and stays as it is.
    """
    moved: State = {}
    for name, tensor in state.items():
        moved[name] = tensor.index_select(-2, torch.tensor(_cycle(tensor.shape[-2], rng))).contiguous()
    return moved


def donors(episodes: Sequence[Episode]) -> list[int]:
    """For each episode another one, near it, that shares as few answers with it as possible.

    One episode alone is its own donor.
    """
    wanted = [_wanted(each) for each in episodes]
    count = len(episodes)
    chosen = []
    for place in range(count):
        others = [(place + step) % count for step in range(1, min(DONORS, count - 1) + 1)]
        chosen.append(min(others, key=lambda other: len(wanted[place] & wanted[other]), default=place))
    return chosen


def shuffled(episodes: Sequence[Episode], rng: random.Random) -> list[Episode]:
    """The episodes with each session replaced by the session at that place of another one, drawn at random.

    Where no other episode has a session at that place, it is left out.
    """
    drawn = []
    for place, episode in enumerate(episodes):
        sessions = []
        for number, own in enumerate(episode.sessions):
            others = [
                each.sessions[number]
                for other, each in enumerate(episodes)
                if other != place and number < len(each.sessions) and each.sessions[number] != own
            ]
            sessions += [rng.choice(others)] if others else []
        drawn.append(replace(episode, sessions=tuple(sessions)))
    return drawn


def switched_off(loaded: Loaded) -> Loaded:
    """The same backbone with a copy of its adapter that corrects nothing; states are read by it as before."""
    adapter: Adapter = copy.deepcopy(loaded.adapter)
    with torch.no_grad():
        for index in adapter.layer_indices:
            for weight in adapter.layer(index).corrections.values():
                weight.zero_()
    return replace(loaded, adapter=adapter)


def _wanted(episode: Episode) -> set[Hashable]:
    """What the right replies of an episode have to satisfy."""
    return {each.checker or each.answer for each in episode.questions if each.reference == "answer"}


def _cycle(length: int, rng: random.Random) -> list[int]:
    """An order of so many places in which none stays, drawn from all single cycles (Sattolo's algorithm)."""
    order = list(range(length))
    for last in range(length - 1, 0, -1):
        other = rng.randrange(last)
        order[last], order[other] = order[other], order[last]
    return order
