"""`Scope`: the files that a rule is about."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import pathspec

EVERYTHING = "**"
_MOST = 64  # globs that the braces of one glob may expand to
_BRACES = re.compile(r"\{([^{}]*,[^{}]*)\}")
_RANGE = re.compile(r"\{(-?\d+)\.\.(-?\d+)\}")


@dataclass(frozen=True, slots=True)
class Scope:
    """The files below a directory, or those of them that match one of several globs.

    Args:
        directory: Relative to the repository's root, without a slash at its ends; empty for the root.
        globs: As in ``.gitignore``, relative to ``directory``: a glob without a slash matches at any depth. Without
            globs, every file matches.
    """

    directory: str = ""
    globs: tuple[str, ...] = ()

    def applies(self, path: str) -> bool:
        """Whether a file or directory, relative to the repository's root, is in the scope."""
        if self.directory:
            if path != self.directory and not path.startswith(self.directory + "/"):
                return False
            path = path[len(self.directory) + 1 :]
        return not self.globs or (bool(path) and _matcher(self.globs).match_file(path))

    @property
    def depth(self) -> int:
        """How near a rule of this scope is to its files: directories below the root, and one more for globs."""
        return (self.directory.count("/") + 1 if self.directory else 0) + bool(self.globs)

    def __str__(self) -> str:
        """The scope as globs relative to the root, ``**`` for every file."""
        before = f"{self.directory}/" if self.directory else ""
        if not self.globs:
            return before + EVERYTHING
        return ", ".join(_joined(before, glob) for glob in self.globs)

    def as_list(self) -> list[str]:
        """The fields, as the journal holds them."""
        return [self.directory, *self.globs]

    @classmethod
    def from_list(cls, stored: Sequence[str]) -> Scope:
        """A scope from what `as_list` returned."""
        return cls(stored[0], tuple(stored[1:]))


def globs_of(value: object) -> tuple[str, ...]:
    """The globs of a front matter field: a list, or text separated by commas. Braces are expanded."""
    given = value if isinstance(value, list) else [value]
    found = [part.strip().strip("'\"") for each in given if isinstance(each, str) for part in _parts(each)]
    globs = tuple(dict.fromkeys(glob for each in found if each for glob in expanded(each)))
    return () if {"**", "**/*", "*", "/**"} & set(globs) else globs


def expanded(glob: str) -> list[str]:
    """The globs without braces that a glob stands for, one for each choice."""
    found = [glob]
    while len(found) <= _MOST:
        place = next((i for i, each in enumerate(found) if _BRACES.search(each)), None)
        if place is None:
            break
        each = found.pop(place)
        braces = _BRACES.search(each)
        assert braces is not None
        made = [each[: braces.start()] + choice + each[braces.end() :] for choice in braces[1].split(",")]
        found[place:place] = made
    return [_RANGE.sub("*", each) for each in found[:_MOST]]


def _parts(text: str) -> Iterable[str]:
    """The parts between commas that are not within braces."""
    part, depth = "", 0
    for character in text:
        if character == "," and not depth:
            yield part
            part = ""
            continue
        depth += {"{": 1, "}": -1}.get(character, 0)
        part += character
    yield part


def _joined(before: str, glob: str) -> str:
    negated, glob = glob.startswith("!"), glob.removeprefix("!")
    anywhere = before and "/" not in glob.rstrip("/")
    return f"{'!' if negated else ''}{before}{'**/' if anywhere else ''}{glob.removeprefix('/')}"


@lru_cache(1024)
def _matcher(globs: tuple[str, ...]) -> pathspec.PathSpec[Any]:
    try:
        return pathspec.PathSpec.from_lines("gitignore", globs)
    except ValueError:  # a glob that cannot be read matches nothing
        good = [each for each in globs if _readable(each)]
        return pathspec.PathSpec.from_lines("gitignore", good)


def _readable(glob: str) -> bool:
    try:
        pathspec.PathSpec.from_lines("gitignore", [glob])
    except ValueError:
        return False
    return True
