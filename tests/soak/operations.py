"""Choosing what a writer does next, and doing it: on a store alone, or through a memory with a model."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from journals import Journal, World
from rows import SHARED

from deltamem_agents.store import Selection, Store

if TYPE_CHECKING:
    from deltamem_agents import DeltaMem

WORDS = "we indent with two spaces Lisbon cello harbour Mara 山火 café desk seven window lamp".split()
LIVE, ALL = 40, 120  # messages of an agent, live and in all, from which on more is erased than written
FIRST = datetime(2026, 1, 1, tzinfo=UTC)


class Actor(Protocol):
    """Does operations on a database."""

    store: Store
    turns: int  # at the database that a write may wait for

    def write(self, agent: str, messages: list[dict[str, Any]], session: str, wait: bool) -> list[str]: ...

    def erase(self, agent: str, chosen: dict[str, Any], forks: bool) -> bool:
        """Whether nothing erased is in the files any more."""

    def delete(self, agent: str, forks: bool) -> bool: ...


class OnStore:
    """On a store: no torch."""

    turns = 1

    def __init__(self, store: Store) -> None:
        self.store = store

    def write(self, agent: str, messages: list[dict[str, Any]], session: str, wait: bool) -> list[str]:
        return self.store.append(agent, messages, session)

    def erase(self, agent: str, chosen: dict[str, Any], forks: bool) -> bool:
        self.store.erase(agent, Selection(**chosen), forks=forks)
        return self.store.purge() is None

    def delete(self, agent: str, forks: bool) -> bool:
        self.store.erase(agent, Selection(whole=True), forks=forks)
        return self.store.purge() is None


class InMemory:
    """Through a `DeltaMem`, which folds and recalls."""

    turns = 2  # the journal, then the state

    def __init__(self, mem: DeltaMem) -> None:
        self.mem, self.store = mem, mem.store

    def write(self, agent: str, messages: list[dict[str, Any]], session: str, wait: bool) -> list[str]:
        return self.mem.agent(agent).write(messages, session, wait=wait)

    def erase(self, agent: str, chosen: dict[str, Any], forks: bool) -> bool:
        return self.mem.agent(agent).erase(**chosen, forks=forks).status == "complete"

    def delete(self, agent: str, forks: bool) -> bool:
        return self.mem.agent(agent).delete(forks=forks).status == "complete"


def perform(actor: Actor, operation: dict[str, Any]) -> Any:
    """Do one; a write's ids, whether an erasure is complete, or None."""
    agent = operation["agent"]
    match operation["what"]:
        case "write":
            messages = [
                {"role": "user", "content": text, "created_at": _at(second)} | ({"id": id} if id else {})
                for id, text, second in operation["messages"]
            ]
            return actor.write(agent, messages, operation["session"], operation["wait"])
        case "erase":
            return actor.erase(agent, _chosen(operation["choice"]), operation["forks"])
        case "delete":
            return actor.delete(agent, operation["forks"])
        case "rollback":
            actor.store.rollback(agent, operation["target"])
        case "fork":
            actor.store.fork(agent, operation["new"])
        case "export":
            actor.store.export(agent, Path(operation["path"]))
        case "import":
            actor.store.import_(Path(operation["path"]), agent)


def _chosen(choice: dict[str, Any]) -> dict[str, Any]:
    """What an erasure is told, of how the ledger has it."""
    chosen = {what: _at(value) if what in ("since", "until") else value for what, value in choice.items()}
    if pairs := chosen.pop("pairs", None):
        chosen["ids"] = [tuple(pair) for pair in pairs]
    return chosen


def _at(second: int) -> datetime:
    return FIRST + timedelta(seconds=second)


class Choosing:
    """What a writer does next: everything is drawn before it is begun, so that the ledger can say what it was."""

    def __init__(self, writer: str, random: random.Random, folder: Path) -> None:
        self._writer, self._random, self._folder = writer, random, folder

    def next(self, world: World) -> dict[str, Any]:
        draw, own = self._random.random(), [agent for agent in world.agents if agent not in SHARED]
        if world.exported:
            path = next(iter(world.exported))
            return {"what": "import", "agent": f"{self._writer}-{self._token()}", "path": path}
        main = f"{self._writer}-main"
        if main not in own:
            return self._write(world, main)
        if len(own) > 3 or len(world.agents[main].events) > ALL:
            agent = main if len(world.agents[main].events) > ALL else self._random.choice(own)
            return {"what": "delete", "agent": agent, "choice": {}, "forks": draw < 0.3}
        agent = self._random.choice([main, *own, *SHARED])
        journal = world.agents.get(agent, Journal())
        full = len(journal.live()) > LIVE or len(journal.messages()) > ALL
        if journal.messages() and draw < (0.6 if full else 0.12):
            return self._erase(agent, journal)
        if agent not in SHARED and draw > 0.86:
            return self._history(agent, journal)
        return self._write(world, agent)

    def _history(self, agent: str, journal: Journal) -> dict[str, Any]:
        new = f"{self._writer}-{self._token()}"
        return self._random.choice(
            [
                {"what": "rollback", "agent": agent, "target": self._random.randint(0, journal.head)},
                {"what": "rollback", "agent": agent, "target": max(0, journal.head - 1)},
                {"what": "fork", "agent": agent, "new": new},
                {"what": "export", "agent": agent, "path": str(self._folder / f"{new}.deltamem")},
            ]
        )

    def _erase(self, agent: str, journal: Journal) -> dict[str, Any]:
        message = self._random.choice(journal.messages())
        session = message[1]
        here = [event[2] for event in journal.messages() if event[1] == session and event[2]]
        named = [event[1:3] for event in journal.messages() if event[2]]
        choices: list[dict[str, Any]] = [{"session": session}]
        if here:
            choices.append({"session": session, "ids": self._random.sample(here, min(len(here), 5))})
            choices.append({"pairs": self._random.sample(named, min(len(named), 5))})
        if agent not in SHARED:
            choices.append({"since": message[4], "until": message[4] + 20})
        return {
            "what": "erase",
            "agent": agent,
            "choice": self._random.choice(choices),
            "forks": self._random.random() < 0.5,
        }

    def _write(self, world: World, agent: str) -> dict[str, Any]:
        session = f"{self._writer}.{self._random.choice('abc')}"
        journal = world.agents.get(agent, Journal())
        messages: list[list[Any]] = []
        for _ in range(self._random.choice([1, 1, 1, 2, 5])):
            id = f"m{self._random.randint(1, 30)}" if self._random.random() < 0.6 else None
            length = self._random.choice([3, 8, 8, 60])
            text = f"{self._token()}zq " + " ".join(self._random.choices(WORDS, k=length))
            messages.append([id, text, self._random.randint(0, 10_000)])
        again = [event for event in journal.live() if event[1] == session and event[2]]
        if again and self._random.random() < 0.2:  # a write that is repeated after a failure
            messages.insert(0, self._random.choice(again)[2:])
        wait = self._random.random() < 0.5
        return {"what": "write", "agent": agent, "session": session, "messages": messages, "wait": wait}

    def _token(self) -> str:
        return f"{self._random.getrandbits(48):012x}"
