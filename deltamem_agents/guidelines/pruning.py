"""Erase what no longer serves: the rules of checkouts that are gone, commits that no branch leads to, old work."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from deltamem_agents.guidelines.git import GitError
from deltamem_agents.guidelines.records import CHECKOUTS, RULES, WORK, Records
from deltamem_agents.guidelines.repository import Repository
from deltamem_agents.guidelines.work import unreachable_commits


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruned:
    """What was erased, or would be.

    Args:
        checkouts: Folders that no longer exist, whose rules were erased.
        rules, work: Numbers of messages.
        dry_run: Whether nothing was done.
    """

    checkouts: tuple[str, ...] = ()
    rules: int = 0
    work: int = 0
    dry_run: bool = False

    def as_dict(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return {"checkouts": list(self.checkouts), "rules": self.rules, "work": self.work, "dry_run": self.dry_run}


def prune(repository: Repository, records: Records, before: datetime | None, *, dry_run: bool) -> Pruned:
    """Erase exactly; see `Guidelines.prune`."""
    checkouts, rules = [], 0
    for entry in records.entries(CHECKOUTS):
        root, session = str(entry.metadata["root"]), str(entry.metadata["session"])
        if root == str(records.root) or Path(root).is_dir():
            continue
        checkouts.append(root)
        ids = [each.id for each in records.entries(session)] if session != RULES or records.session != RULES else []
        rules += len(ids)
        if not dry_run:
            records.erase(ids, session)
            records.erase([entry.id], CHECKOUTS)
    work = records.entries(WORK)
    try:
        gone = unreachable_commits(repository, [each.id for each in work]) if repository.git_dir else set[str]()
    except GitError:
        gone = set()
    old = {each.id for each in work if before is not None and each.created_at < before}
    if not dry_run:
        records.erase(sorted(gone | old), WORK)
    return Pruned(checkouts=tuple(checkouts), rules=rules, work=len(gone | old), dry_run=dry_run)
