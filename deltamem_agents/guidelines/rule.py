"""`Rule`: one rule of a repository, with its place and its scope."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from deltamem_agents.guidelines.scope import Scope

Kind = Literal["standing", "command", "fact", "pointer"]
KINDS: tuple[Kind, ...] = ("standing", "command", "fact", "pointer")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One rule in a file.

    Args:
        text: The rule in one line or, for code, several.
        file: Relative to the repository's root.
        lines: First and last line, from 1.
        sha256: Hash of these lines.
        headings: The headings above it, outermost first.
        context: The sentence that introduces it, such as "Before every commit:"; may be empty.
        scope: The files that it is about.
        kind: "standing" (holds always), "command", "fact" or "pointer" (to another file or skill).
        rank: Precedence among rules of equal depth; smaller wins.
        always: Whether the source asks to be in every prompt.
        commit: The commit that last changed the file; None if the file has changes since, or there is no repository.
        id: Given once, kept through edits and moves; empty before the rule is journalled.
        former: Earlier names of its file.
    """

    text: str
    file: str
    lines: tuple[int, int]
    sha256: str
    headings: tuple[str, ...] = ()
    context: str = ""
    scope: Scope = field(default_factory=Scope)
    kind: Kind = "standing"
    rank: int = 1
    always: bool = False
    commit: str | None = None
    id: str = ""
    former: tuple[str, ...] = ()

    @property
    def citation(self) -> str:
        """``file:line``, or ``file:first-last``."""
        first, last = self.lines
        return f"{self.file}:{first}" if first == last else f"{self.file}:{first}-{last}"

    @property
    def normal(self) -> str:
        """The text with its letters, digits and single spaces only: equal for rules that say the same."""
        return normalised(self.text)

    def metadata(self) -> dict[str, Any]:
        """The fields that the journal holds beside the text."""
        return {
            "file": self.file,
            "lines": list(self.lines),
            "sha256": self.sha256,
            "headings": list(self.headings),
            "context": self.context,
            "scope": self.scope.as_list(),
            "kind": self.kind,
            "rank": self.rank,
            "always": self.always,
            "commit": self.commit,
            "former": list(self.former),
        }

    @classmethod
    def from_metadata(cls, text: str, id: str, stored: Mapping[str, Any]) -> Rule:
        """The rule of a journalled message."""
        return cls(
            text=text,
            id=id,
            file=stored["file"],
            lines=(stored["lines"][0], stored["lines"][1]),
            sha256=stored["sha256"],
            headings=tuple(stored["headings"]),
            context=stored["context"],
            scope=Scope.from_list(stored["scope"]),
            kind=stored["kind"],
            rank=stored["rank"],
            always=stored["always"],
            commit=stored["commit"],
            former=tuple(stored["former"]),
        )


def normalised(text: str) -> str:
    """A text for comparison: in lower case, with one space between words and signs.

    >>> normalised("Run  **`make check`** first.")
    'run make check first'
    """
    return " ".join(re.sub(r"[*_`\"'“”‘’]+|[.;:,!]+(?=\s|$)", " ", text.casefold()).split())


def new_id(rule: Rule, taken: Mapping[str, Any] | set[str]) -> str:
    """An id for a new rule, from its file, headings and text; unique among ``taken``."""
    for number in range(len(taken) + 1):
        said = "\0".join((rule.file, *rule.headings, rule.normal, str(number)))
        made = hashlib.sha256(said.encode()).hexdigest()[:20]
        if made not in taken:
            return made
    raise AssertionError("there are more numbers than taken ids")


def lines_hash(lines: Sequence[str], first: int, last: int) -> str:
    """SHA-256 of lines ``first`` to ``last``, counted from 1."""
    return hashlib.sha256("\n".join(lines[first - 1 : last]).encode()).hexdigest()
