"""Tells episodes to agents of a memory, and keeps what memory holds of them: states, and text for each question."""

from __future__ import annotations

import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from deltamem_agents.bench.recall.facts import Advance
from deltamem_agents.bench.state.controls import shuffled
from deltamem_agents.bench.state.tasks import Task
from deltamem_agents.core import State
from deltamem_agents.engine import Engine
from deltamem_agents.memory import AgentMemory, DeltaMem
from deltamem_agents.recall import Record, current
from deltamem_agents.training.adapters.rendered import EpisodeRenderer
from deltamem_agents.training.episodes import Episode

THREADS = 16  # episodes told, or questions asked, at once; the engine batches what they want of the model
RECORDS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Remembered:
    """An episode that an agent was told, and what its memory holds and returns.

    Args:
        state: The fold of the agent's journal.
        shuffled: The fold of other episodes' sessions in place of its own.
        found: For each question, the text of at most `RECORDS` retrieved records.
        pinned: The text of all rules; empty if none were told.
    """

    agent: str
    episode: Episode
    state: State
    shuffled: State
    found: tuple[str, ...]
    pinned: str


def remember(mem: DeltaMem, task: Task, *, seed: int, progress: Advance = lambda *_: None) -> list[Remembered]:
    """Write each episode to an agent of its own: journalled, folded, indexed."""
    rng = random.Random(f"shuffled {seed} {task}")
    others = shuffled(task.episodes, rng)
    render = EpisodeRenderer(mem.engine.rendering, mem.engine.config.write_length)
    told: list[Remembered] = []

    def one(place: int) -> Remembered:
        episode = task.episodes[place]
        agent = mem.agent(f"{task}, {place}")
        _write(agent, episode)
        return Remembered(
            agent=agent.id,
            episode=episode,
            state=agent.state(),
            shuffled=folded(mem.engine, render, others[place]),
            found=tuple(_found(mem, agent, each.messages[-1]["content"]) for each in episode.questions),
            pinned=_pinned(mem, agent) if task.ruled else "",
        )

    with ThreadPoolExecutor(THREADS) as pool:
        for each in pool.map(one, range(len(task.episodes))):
            told.append(each)
            progress(f"{task}: telling", len(told), len(task.episodes))
    return told


def folded(engine: Engine, render: EpisodeRenderer, episode: Episode) -> State:
    """The state of an agent that was told this episode, without a journal of it."""
    states = engine.fold(None, render.segments(episode)).result()
    return states[-1] if states else engine.zero_state()


def _write(agent: AgentMemory, episode: Episode) -> None:
    for number, messages in enumerate(episode.sessions, 1):
        agent.write(list(messages), f"s{number}", wait=number == len(episode.sessions))


def _found(mem: DeltaMem, agent: AgentMemory, query: str) -> str:
    """The text that chat and recall put into a prompt for this query."""
    records = agent.recall(query, mode="vector", k=RECORDS, generate=False).records
    return mem.backbone.form.text(current(records), "")


def _pinned(mem: DeltaMem, agent: AgentMemory) -> str:
    """The messages of the user's first session in the form of recalled text."""
    return mem.backbone.form.text(_as_records(agent, "s1"), "")


def _as_records(agent: AgentMemory, session: str) -> Sequence[Record]:
    return [
        Record(
            text=entry.text,
            score=0.0,
            session=entry.session,
            message_id=entry.id,
            role=entry.role,
            position=entry.position,
            created_at=entry.created_at,
        )
        for entry in agent.log(session)
        if entry.role == "user"
    ]
