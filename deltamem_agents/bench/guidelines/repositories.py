"""Make the ten repositories that guidelines are measured on, and read the questions that are asked of them."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).with_name("trees")
UNTUNED = Path(__file__).with_name("untuned")  # asked only after everything was set
_IDENTITY = {
    f"GIT_{who}_{what}": value
    for who in ("AUTHOR", "COMMITTER")
    for what, value in (("NAME", "Ada"), ("EMAIL", "ada@example.org"))
}


@dataclass(frozen=True, slots=True)
class Case:
    """A question.

    Args:
        query: The question.
        file, line: Where the rule stands that answers it; no file if no rule does.
        path: The file that it is asked for, if any.
        also: Where another rule stands that answers it as well.
    """

    query: str
    file: str = ""
    line: int = 0
    path: str | None = None
    also: tuple[str, int] | None = None


@dataclass(frozen=True, slots=True)
class Example:
    """A repository, with what is asked of it.

    Args:
        name: Its name.
        commits: Files, links and moves of each commit.
        questions: Those that a rule answers.
        unanswered: Those that no rule answers.
        probes: Name to file and line of rules.
        scopes: Path to the names of the probes that apply there.
    """

    name: str
    commits: tuple[dict[str, Any], ...]
    questions: tuple[Case, ...]
    unanswered: tuple[Case, ...]
    probes: dict[str, tuple[str, int]]
    scopes: dict[str, frozenset[str]]

    def make(self, root: Path) -> Path:
        """Make the repository in a new folder, and return it."""
        root.mkdir(parents=True)
        _git(root, "init", "-q", "-b", "main")
        for commit in self.commits:
            for old, new in commit.get("moves", {}).items():
                _git(root, "mv", old, new)
            for name, text in commit.get("files", {}).items():
                path = root / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8")
            for name, target in commit.get("links", {}).items():
                (root / name).symlink_to(target)
            _git(root, "add", "-A")
            _git(root, "commit", "-q", "-m", commit["message"])
        return root


@lru_cache(2)
def examples(folder: Path = FOLDER) -> tuple[Example, ...]:
    """The ten repositories that recall was tuned with, or those of another folder."""
    return tuple(_read(file) for file in sorted(folder.glob("*.yaml")))


def _read(file: Path) -> Example:
    stored = yaml.safe_load(file.read_text(encoding="utf-8"))
    texts: dict[str, str] = {}
    for commit in stored["commits"]:
        texts |= commit.get("files", {})

    def place(at: str) -> tuple[str, int]:
        name, _, phrase = at.partition(" | ")
        lines = [number for number, line in enumerate(texts[name].split("\n"), 1) if phrase in line]
        if not lines:
            raise ValueError(f"{file.name}: {phrase!r} is not in {name}")
        return name, lines[0]

    return Example(
        name=stored["name"],
        commits=tuple(stored["commits"]),
        questions=tuple(
            Case(each["q"], *place(each["at"]), each.get("path"), place(each["also"]) if "also" in each else None)
            for each in stored["questions"]
        ),
        unanswered=tuple(Case(each) for each in stored["none"]),
        probes={name: place(at) for name, at in stored["probes"].items()},
        scopes={path: frozenset(names) for path, names in stored["scopes"].items()},
    )


def _git(root: Path, *arguments: str) -> None:
    environment = os.environ | _IDENTITY | {"GIT_CONFIG_GLOBAL": os.devnull}
    subprocess.run(["git", *arguments], cwd=root, env=environment, check=True, capture_output=True, timeout=60)
