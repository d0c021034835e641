"""`Fact`: one statement of a configuration file, and how to find the line that makes it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from deltamem_agents.guidelines.files import UnreadableError
from deltamem_agents.guidelines.rule import Kind

DEEPEST = 64  # nested lists and mappings


@dataclass(frozen=True, slots=True)
class Fact:
    """A statement.

    Args:
        text: The statement, in words that a question would use.
        line: Its line, from 1.
        last: The last line, if it has several.
        kind: "fact", or "command" if it says how to do something.
        globs: The files that it is about, if not all below the file's directory.
    """

    text: str
    line: int
    last: int = 0
    kind: Kind = "fact"
    globs: tuple[str, ...] = ()


class TomlLines:
    """The lines of a TOML or INI file's keys."""

    def __init__(self, text: str) -> None:
        self._of: dict[tuple[str, str], int] = {}
        section = ""
        for number, line in enumerate(text.split("\n"), 1):
            if header := re.match(r"\s*\[+\s*([^\[\]]+?)\s*\]+", line):
                section = re.sub(r"[\"'\s]", "", header[1])
                self._of.setdefault((section, ""), number)
            elif key := re.match(r"\s*[\"']?([\w.-]+)[\"']?\s*[=:]", line):
                self._of.setdefault((section, key[1]), number)

    def of(self, section: str, key: str = "") -> int:
        """The line of a key in a section, or else of an inline table or of the section; 1 if there is none."""
        for where in ((section, key), ("", f"{section}.{key}"), (section, ""), _split(section)):
            if where in self._of:
                return self._of[where]
        return 1


def _split(section: str) -> tuple[str, str]:
    before, _, key = section.rpartition(".")
    return before, key


def line_of(text: str, pattern: str, default: int = 1) -> int:
    """The line of the first match of a pattern."""
    found = re.search(pattern, text, re.MULTILINE)
    if found is None:
        return default
    start = found.start() + len(found[0]) - len(found[0].lstrip())
    return text.count("\n", 0, start) + 1


def check_depth(value: object, depth: int = 0) -> None:
    """Refuse values that are nested too deeply.

    Raises:
        UnreadableError: They are.
    """
    if depth > DEEPEST:
        raise UnreadableError(f"its values are nested more than {DEEPEST} deep")
    inner: Iterator[object] = iter(())
    if isinstance(value, dict):
        inner = iter(value.values())
    elif isinstance(value, list):
        inner = iter(value)
    for each in inner:
        check_depth(each, depth + 1)


def table(value: object, *keys: str) -> dict[str, object]:
    """The mapping below some keys; empty if there is none."""
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value if isinstance(value, dict) else {}
