"""The rules of one checkout as the memory's journal holds them. The only module that reads and writes the memory.

One session holds the rules. A message without content for recall, in the session "checkouts", says for each checkout
which session that is and which files were read; only its metadata changes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from deltamem_agents.guidelines.repository import Repository
from deltamem_agents.guidelines.rule import Rule
from deltamem_agents.memory import DeltaMem
from deltamem_agents.store import Entry

RULES, WORK, CHECKOUTS = "rules", "work", "checkouts"


@dataclass(slots=True)
class Records:
    """The journal of one checkout's rules."""

    mem: DeltaMem
    agent: str
    root: Path
    entry: Entry | None = None  # of this checkout
    session: str = RULES

    @classmethod
    def of(cls, mem: DeltaMem, agent: str, repository: Repository) -> Records:
        """The journal of a repository's checkout; nothing is written."""
        records = cls(mem, agent, repository.root)
        taken: dict[str, str] = {}
        for entry in mem.agent(agent).log(CHECKOUTS):
            if entry.id == records.checkout:
                records.entry = entry
            taken[str(entry.metadata.get("session"))] = str(entry.metadata.get("root"))
        if records.entry is not None:
            records.session = str(records.entry.metadata["session"])
        elif RULES in taken and taken[RULES] != str(records.root) and Path(taken[RULES]).is_dir():
            records.session = f"{RULES}:{records.checkout}"
        return records

    @property
    def checkout(self) -> str:
        """The id of this checkout."""
        return hashlib.sha256(str(self.root).encode("utf-8", "surrogateescape")).hexdigest()[:16]

    @property
    def manifest(self) -> Mapping[str, Any]:
        """What the last sync saw; empty before the first."""
        return {} if self.entry is None else self.entry.metadata

    def rules(self) -> list[Rule]:
        """The journalled rules of this checkout, or of another of the same repository if it has none of its own."""
        memory = self.mem.agent(self.agent)
        entries = memory.log(self.session)
        if not entries and self.entry is None:
            entries = memory.log(RULES)
        return [Rule.from_metadata(each.text, each.id, each.metadata) for each in entries]

    def write(self, rules: Sequence[Rule]) -> None:
        """Journal new rules, and new texts of known ones, which supersede the old."""
        if rules:
            messages = [
                {
                    "role": "system",
                    "content": rule.text,
                    "id": rule.id,
                    "metadata": rule.metadata(),
                    "folded": rule.kind == "standing",
                }
                for rule in rules
            ]
            self.mem.agent(self.agent).write(messages, self.session, wait=False)

    def describe(self, rules: Iterable[Rule]) -> None:
        """Store the present places of rules whose text is the same."""
        moved = {rule.id: rule.metadata() for rule in rules}
        if moved:
            positions = {each.id: each.position for each in self.mem.agent(self.agent).log(self.session)}
            self.mem.store.describe(self.agent, {positions[id]: said for id, said in moved.items() if id in positions})

    def erase(self, ids: Sequence[str], session: str | None = None) -> None:
        """Erase messages exactly, with their earlier versions."""
        if ids:
            pairs = [(session or self.session, each) for each in ids]
            self.mem.agent(self.agent).erase(ids=pairs, tombstone=False, wait=False)

    def put_manifest(self, manifest: Mapping[str, Any]) -> None:
        """Store what a sync saw."""
        said = {**manifest, "session": self.session, "root": str(self.root)}
        if self.entry is not None:
            self.mem.store.describe(self.agent, {self.entry.position: said})
            self.entry = replace(self.entry, metadata=said)
            return
        message = {"role": "system", "content": "checkout", "id": self.checkout, "metadata": said, "folded": False}
        self.mem.agent(self.agent).write([message], CHECKOUTS, wait=False)
        self.entry = next(each for each in self.mem.agent(self.agent).log(CHECKOUTS) if each.id == self.checkout)

    def entries(self, session: str) -> list[Entry]:
        """The live messages of a session."""
        return self.mem.agent(self.agent).log(session)
