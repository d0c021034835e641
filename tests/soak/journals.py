"""What a writer's agents must hold: a second, simple account, made of what the writer did. No database."""

from __future__ import annotations

from collections.abc import Iterable
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

Line = tuple[str, str | None, str]  # session, id (None: not known, the writer died before it was told), text


@dataclass
class Journal:
    """One agent's: messages ``[position, session, id, text, second]`` and rollbacks ``[position, target]``."""

    events: list[list[Any]] = field(default_factory=list)
    head: int = 0
    family: int = 0  # of agents that were forked from one another

    def live(self, at: int | None = None) -> list[list[Any]]:
        """The messages that are live at a position, or now."""
        targets = sorted({event[1] for event in self.events if len(event) == 2})
        snapshots: dict[int, dict[Any, list[Any]]] = {}  # what was live at the positions that were gone back to
        current: dict[Any, list[Any]] = {}
        for event in self.events:
            while targets and targets[0] < event[0]:
                snapshots[targets.pop(0)] = dict(current)
            if at is not None and event[0] > at:
                break
            if len(event) == 2:
                current = dict(snapshots[event[1]])
            else:
                key = (event[1], event[2])
                current.pop(key, None)
                current[key if event[2] is not None else (event[1], event[3])] = event
        return sorted(current.values(), key=lambda event: event[0])

    def messages(self) -> list[list[Any]]:
        return [event for event in self.events if len(event) > 2]

    def append(self, session: str, id: str | None, text: str, second: int) -> None:
        same = [event for event in self.live() if id is not None and (event[1], event[2]) == (session, id)]
        if not same or same[0][3] != text:
            self.head += 1
            self.events.append([self.head, session, id, text, second])

    def rollback(self, target: int) -> None:
        if {event[0] for event in self.live(target)} != {event[0] for event in self.live()}:
            self.head += 1
            self.events.append([self.head, target])

    def chosen(self, what: dict[str, Any]) -> list[list[Any]]:
        """The messages that an erasure takes: those that match all that is given."""
        return [
            event
            for event in self.messages()
            if ("session" not in what or event[1] == what["session"])
            and ("ids" not in what or event[2] in what["ids"])
            and ("pairs" not in what or event[1:3] in what["pairs"])
            and ("since" not in what or event[4] >= what["since"])
            and ("until" not in what or event[4] < what["until"])
        ]

    def erase(self, gone: Iterable[list[Any]]) -> None:
        positions = {event[0] for event in gone}
        self.events = [event for event in self.events if event[0] not in positions]


class World:
    """The agents of one writer, and what of their text must be gone.

    An operation is a dict with ``what``, ``agent`` and the rest of its arguments; see `apply`. An agent that the writer
    shares with others is written to in sessions that are the writer's alone, and holds only those here.
    """

    def __init__(self) -> None:
        self.agents: dict[str, Journal] = {}
        self.exported: dict[str, Journal] = {}
        self.gone: set[str] = set()
        self.families = 0

    def copy(self) -> World:
        return deepcopy(self)

    def texts(self) -> set[str]:
        return {event[3] for journal in self.agents.values() for event in journal.messages()}

    def apply(self, operation: dict[str, Any], ids: list[str] | None = None) -> None:
        """Do what an operation does, once it was acknowledged; ``ids`` are those that a write gave."""
        agent, before = operation["agent"], self.texts()
        match operation["what"]:
            case "write":
                if agent not in self.agents:
                    self.families += 1
                    self.agents[agent] = Journal(family=self.families)
                for i, (id, text, second) in enumerate(operation["messages"]):
                    self.agents[agent].append(operation["session"], ids[i] if ids else id, text, second)
            case "rollback":
                self.agents[agent].rollback(operation["target"])
            case "fork":
                self.agents[operation["new"]] = deepcopy(self.agents[agent])
            case "export":
                self.exported[operation["path"]] = deepcopy(self.agents[agent])
            case "import":
                copy = self.agents[agent] = deepcopy(self.exported.pop(operation["path"]))
                self.families += 1
                copy.family = self.families  # an import is no fork
            case "erase" | "delete":
                self._erase(operation)
        self.gone = (self.gone | (before - self.texts())) - self.texts()

    def _erase(self, operation: dict[str, Any]) -> None:
        journal = self.agents[operation["agent"]]
        gone = journal.chosen(operation["choice"])
        said = {tuple(event[1:4]) for event in gone}
        if operation["what"] == "delete":
            del self.agents[operation["agent"]]
        else:
            journal.erase(gone)
        for relative in self.agents.values():
            if operation["forks"] and relative.family == journal.family and relative is not journal:
                relative.erase([event for event in relative.messages() if tuple(event[1:4]) in said])
