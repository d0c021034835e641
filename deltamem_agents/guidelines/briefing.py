"""`Briefing`: the brief for the task of a conversation, as the integrations put it into prompts."""

from __future__ import annotations

import time
from collections import OrderedDict
from pathlib import Path

from deltamem_agents.frameworks.records import fenced
from deltamem_agents.guidelines.guidelines import BUDGET, Guidelines
from deltamem_agents.memory import DeltaMem
from deltamem_agents.memory.open_memories import Handle
from deltamem_agents.processes import ProcessLock

TASKS = 64  # tasks whose brief is remembered
SECONDS = 120.0  # for how long; a turn with many tool calls asks for the same brief again and again
LEAST = 60  # tokens below which a brief says nothing


class Briefing(Handle):
    """Makes briefs of one repository, first bringing memory up to date with its files. Blocks; threads may share it.

    Args:
        mem: An open memory; one without a backbone will do.
        root: A folder of the repository.
        budget: The most tokens of a brief.

    Raises:
        RepositoryError: There is no such folder, or it cannot be read.
        ConfigError: The path is not valid.
    """

    __slots__ = ("_budget", "_lock", "_texts", "root")

    def __init__(self, mem: DeltaMem, root: str | Path, budget: int = BUDGET) -> None:
        super().__init__(mem)
        self.root = Guidelines(mem, root).repository.root
        self._budget = budget
        self._lock = ProcessLock()
        self._texts: OrderedDict[tuple[str, int], tuple[float, str]] = OrderedDict()

    def text(self, task: str, budget: int | None = None) -> str:
        """The brief for a task, in a fence that no rule can end; empty if no rule applies or the budget is too small.

        Args:
            budget: The most tokens of this brief, if less than ``budget`` of the `Briefing`.

        Raises:
            DeltaMemError: The repository cannot be read, or the memory fails.
        """
        size = self._budget if budget is None else min(budget, self._budget)
        if size < LEAST:
            return ""
        key = (task, size)
        with self._lock:
            at, known = self._texts.get(key, (-SECONDS, ""))
        if time.monotonic() - at < SECONDS:
            return known
        guidelines = Guidelines(self.mem, self.root)
        guidelines.sync()
        made = guidelines.brief(task, budget=size).text
        found = fenced(made) if made else ""
        with self._lock:
            self._texts[key] = time.monotonic(), found
            self._texts.move_to_end(key)
            while len(self._texts) > TASKS:
                self._texts.popitem(last=False)
        return found
