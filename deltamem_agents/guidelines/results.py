"""What `Guidelines` returns; each has `as_dict`, its fields as JSON values."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from deltamem_agents.guidelines.rule import Rule


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A rule with its citation, verified against the file.

    Args:
        rule: The rule as it stands in the file now.
        stale: Whether its text has changed since it was journalled; ``rule`` holds the present text.
        overridden_by: ``file:line`` of the nearer rule that contradicts it; None if there is none.
        score: Higher for better matches; comparable within one recall only.
    """

    rule: Rule
    stale: bool = False
    overridden_by: str | None = None
    score: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """The fields as JSON values."""
        rule = self.rule
        return {
            "id": rule.id,
            "file": rule.file,
            "lines": list(rule.lines),
            "text": rule.text,
            "scope": str(rule.scope),
            "kind": rule.kind,
            "commit": rule.commit,
            "headings": list(rule.headings),
            "stale": self.stale,
            "overridden_by": self.overridden_by,
            "score": round(self.score, 4),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """Something done in the repository: a commit, or a note about the work.

    Args:
        kind: "commit", "note" or "decision".
        text: The commit's message, or the note.
        commit: The commit, or the one that was checked out when the note was taken.
        files: The files that it is about.
        at: When, ISO 8601.
        author: Who.
        dependencies: What a commit added, removed or changed, in words.
        branch: The branch of a note.
    """

    id: str
    kind: str
    text: str
    commit: str | None
    files: tuple[str, ...]
    at: str
    author: str = ""
    dependencies: tuple[str, ...] = ()
    branch: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return asdict(self) | {"files": list(self.files), "dependencies": list(self.dependencies)}


@dataclass(frozen=True, slots=True, kw_only=True)
class GuidelinesRecall:
    """What a recall found: rules, best first, and, for a question about past work, what was done."""

    rules: tuple[Found, ...] = ()
    work: tuple[Work, ...] = ()
    notes: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return {
            "rules": [each.as_dict() for each in self.rules],
            "work": [each.as_dict() for each in self.work],
            "notes": list(self.notes),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Brief:
    """The shortest text of the rules that matter for a task.

    Args:
        text: Ready for a prompt: each rule quoted with its citation.
        tokens: Its length, as `token_count` estimates.
        rules: The rules that are in it, in its order.
        left_out: How many applicable rules the budget left no room for.
        source_tokens: Length of all the files that the applicable rules stand in.
    """

    text: str = ""
    tokens: int = 0
    rules: tuple[Found, ...] = ()
    left_out: int = 0
    source_tokens: int = 0

    def as_dict(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return {
            "text": self.text,
            "tokens": self.tokens,
            "rules": [each.as_dict() for each in self.rules],
            "left_out": self.left_out,
            "source_tokens": self.source_tokens,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Synced:
    """What a sync did.

    Args:
        agent: The agent that remembers the repository.
        added, changed, removed, moved: Numbers of rules. A moved one has the same text in other lines or another file.
        rules: How many rules there are now.
        files: How many files they stand in.
        commits: How many commits were recorded.
        warnings: Files that were skipped, and why.
    """

    agent: str
    added: int = 0
    changed: int = 0
    removed: int = 0
    moved: int = 0
    rules: int = 0
    files: int = 0
    commits: int = 0
    warnings: tuple[str, ...] = ()

    @property
    def wrote(self) -> bool:
        """Whether anything was written."""
        return bool(self.added or self.changed or self.removed or self.moved or self.commits)

    def as_dict(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return asdict(self) | {"warnings": list(self.warnings)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Differences:
    """How the files differ from memory; pairs are what is journalled and what stands in the file."""

    added: tuple[Rule, ...] = ()
    changed: tuple[tuple[Rule, Rule], ...] = ()
    moved: tuple[tuple[Rule, Rule], ...] = ()
    removed: tuple[Rule, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """The fields as JSON values."""

        def said(rule: Rule) -> dict[str, Any]:
            return {"id": rule.id, "file": rule.file, "lines": list(rule.lines), "text": rule.text}

        return {
            "added": [said(each) for each in self.added],
            "changed": [{"old": said(old), "new": said(new)} for old, new in self.changed],
            "moved": [{"old": said(old), "new": said(new)} for old, new in self.moved],
            "removed": [said(each) for each in self.removed],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Why a rule applies, or does not.

    Args:
        found: The rule.
        path: The file or folder that was asked about; None if none was.
        applies: Whether the rule is about it.
    """

    found: Found
    path: str | None
    applies: bool

    def reasons(self) -> list[str]:
        """The reasons, a sentence each."""
        rule = self.found.rule
        told = [f"It stands in {rule.citation}" + (f", below {' > '.join(rule.headings)}." if rule.headings else ".")]
        about = "all files" if not rule.scope.directory and not rule.scope.globs else str(rule.scope)
        told.append(f"It is about {about}.")
        if self.path is not None:
            told.append(f"{self.path or 'The root'} is {'one' if self.applies else 'none'} of them.")
        if self.found.overridden_by:
            told.append(f"It is overridden by {self.found.overridden_by}, which is nearer.")
        if self.found.stale:
            told.append("It was edited since the last sync.")
        if rule.commit:
            told.append(f"Commit {rule.commit[:12]} last changed its file.")
        told += [f"The file was called {each} before." for each in rule.former]
        return told

    def as_dict(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return self.found.as_dict() | {"path": self.path, "applies": self.applies, "reasons": self.reasons()}
