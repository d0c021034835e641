"""The health of a repository's guidelines: what is stale, contradictory, unreachable, duplicated or over-long.

Also prunes: erases what is no longer needed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import takewhile
from pathlib import Path
from typing import Any

from deltamem_agents.guidelines.contradictions import contradictions
from deltamem_agents.guidelines.files import UnreadableError
from deltamem_agents.guidelines.git import GitError
from deltamem_agents.guidelines.records import CHECKOUTS, RULES, WORK, Records
from deltamem_agents.guidelines.repository import Repository
from deltamem_agents.guidelines.results import Found
from deltamem_agents.guidelines.rule import Rule
from deltamem_agents.guidelines.scope import Scope
from deltamem_agents.guidelines.work import unreachable_commits

LONG_RULE = 600  # characters
LONG_FILE_LINES, LONG_FILE_BYTES = 200, 25 << 10  # how much of a memory file Claude Code loads
FACTS = 2  # the rank of configuration


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """The health of the guidelines; all lists are empty where nothing needs attention.

    Args:
        agent: The agent that remembers the repository.
        rules, files: How many there are.
        kinds: Numbers of rules by kind.
        commit: The commit that was checked out at the last sync.
        stale: Rules whose text was edited since the last sync, as they are now.
        gone: Rules that are no longer in their files.
        unsynced: How many rules in the files are not in memory yet.
        contradictory: Pairs of rules, and what they disagree about.
        duplicated: Rules that occur in several places.
        unreachable: Rules that are about no file of the repository.
        over_long: Rules and files that are longer than agents read well, and why.
        skipped: Files that were not read, and why.
        hooks: The git hooks that are installed.
        commits, notes: How much work is recorded.
    """

    agent: str
    rules: int = 0
    files: int = 0
    kinds: dict[str, int] = field(default_factory=dict)
    commit: str | None = None
    stale: tuple[Found, ...] = ()
    gone: tuple[Rule, ...] = ()
    unsynced: int = 0
    contradictory: tuple[tuple[Rule, Rule, str], ...] = ()
    duplicated: tuple[tuple[Rule, ...], ...] = ()
    unreachable: tuple[Rule, ...] = ()
    over_long: tuple[tuple[str, str], ...] = ()
    skipped: tuple[str, ...] = ()
    hooks: tuple[str, ...] = ()
    commits: int = 0
    notes: int = 0

    def as_dict(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return {
            "agent": self.agent,
            "rules": self.rules,
            "files": self.files,
            "kinds": dict(self.kinds),
            "commit": self.commit,
            "stale": [each.as_dict() for each in self.stale],
            "gone": [_said(each) for each in self.gone],
            "unsynced": self.unsynced,
            "contradictory": [
                {"about": about, "rules": [_said(one), _said(other)]} for one, other, about in self.contradictory
            ],
            "duplicated": [[_said(each) for each in those] for those in self.duplicated],
            "unreachable": [_said(each) for each in self.unreachable],
            "over_long": [{"where": where, "why": why} for where, why in self.over_long],
            "skipped": list(self.skipped),
            "hooks": list(self.hooks),
            "commits": self.commits,
            "notes": self.notes,
        }


def _said(rule: Rule) -> dict[str, str]:
    return {"id": rule.id, "at": rule.citation, "text": rule.text}


def duplicates(rules: Iterable[Rule]) -> list[tuple[Rule, ...]]:
    """Groups of rules that say the same in several places."""
    groups: dict[str, list[Rule]] = defaultdict(list)
    for rule in rules:
        if rule.rank != FACTS and len(rule.normal.split()) > 2:
            groups[rule.normal].append(rule)
    return [tuple(each) for each in groups.values() if len(each) > 1]


def unreachable(repository: Repository, rules: Iterable[Rule]) -> list[Rule]:
    """Rules whose scope holds no file, and could hold one only in a folder that does not exist yet.

    The scope of a rule without globs is its folder, which may hold only the rule's own file. The contents of a
    folder whose files are not listed, such as a submodule or an ignored folder, are not known, and may match.
    """
    files, held, found = repository.files(every=True), dict[Scope, bool](), []
    for rule in rules:
        scope = rule.scope
        if scope not in held:
            held[scope] = any(scope.applies(file) for file in files if file != rule.file or not scope.globs)
            held[scope] = held[scope] or any(_is_unlisted(repository, each, files) for each in _folders(scope))
        if not held[scope]:
            found.append(rule)
    return found


def _folders(scope: Scope) -> Iterable[str]:
    """The folder that each glob of a scope names before its first wildcard, or else the scope's own."""
    for glob in scope.globs or ("",):
        parts = glob.strip("/").split("/") if "/" in glob.strip("/") else []
        plain = list(takewhile(lambda part: not set("*?[!").intersection(part), parts))
        yield "/".join(each for each in (scope.directory, *plain) if each)


def _is_unlisted(repository: Repository, folder: str, files: Sequence[str]) -> bool:
    """Whether a folder exists and none of its files is listed."""
    return repository.is_folder(folder) and bool(folder) and not any(each.startswith(folder + "/") for each in files)


def over_long(repository: Repository, rules: Sequence[Rule]) -> list[tuple[str, str]]:
    """Rules and files of rules that are longer than agents read well, and why."""
    found = [
        (each.citation, f"{len(each.text)} characters in one rule") for each in rules if len(each.text) > LONG_RULE
    ]
    for file in sorted({each.file for each in rules if each.rank in (0, 1)}):
        try:
            text = repository.read(file)
        except UnreadableError:
            continue
        if text.count("\n") > LONG_FILE_LINES or len(text.encode()) > LONG_FILE_BYTES:
            found.append((file, f"{text.count(chr(10))} lines; agents load {LONG_FILE_LINES} of a file at best"))
    return found


def contradictory(rules: Sequence[Rule]) -> list[tuple[Rule, Rule, str]]:
    """Pairs of rules that contradict each other, whichever takes precedence."""
    return contradictions([each for each in rules if each.rank != FACTS or each.kind == "fact"])


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
