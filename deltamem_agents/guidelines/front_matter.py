"""The front matter of a Markdown file, parsed as YAML that can neither expand nor run anything."""

from __future__ import annotations

import re
from typing import Any

import yaml

from deltamem_agents.guidelines.files import UnreadableError

MOST_ALIASES = 20
DEEPEST = 64  # nested lists and mappings
MOST_NODES = 50_000
_FRONT = re.compile(r"\A---[ \t]*\n(.*?)^(?:---|\.\.\.)[ \t]*$\n?", re.DOTALL | re.MULTILINE)


def parse_yaml(text: str, *, first_line: int = 1) -> Any:
    """Parse YAML of plain values.

    Args:
        first_line: The line at which the text begins in its file, for error messages.

    Raises:
        UnreadableError: It is not valid, has too many aliases, or is nested too deeply; the message names the line.
    """
    try:
        depth = aliases = 0
        for nodes, event in enumerate(yaml.parse(text, Loader=yaml.SafeLoader)):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            aliases += isinstance(event, yaml.AliasEvent)
            if depth > DEEPEST or aliases > MOST_ALIASES or nodes > MOST_NODES:
                why = "nested too deeply" if depth > DEEPEST else "too many aliases or values"
                raise UnreadableError(f"line {event.start_mark.line + first_line}: YAML has {why}")
        return yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + first_line if error.problem_mark else first_line
        raise UnreadableError(f"line {line}: YAML is not valid: {error.problem}") from error
    except (yaml.YAMLError, ValueError, RecursionError, OverflowError) as error:
        raise UnreadableError(f"line {first_line}: YAML is not valid: {' '.join(str(error).split())[:120]}") from error


def split_front_matter(text: str) -> tuple[dict[str, Any], str, int]:
    """The fields of the front matter, the text after it, and how many lines precede that text.

    Raises:
        UnreadableError: The front matter is not a valid mapping; the message names the line.
    """
    found = _FRONT.match(text)
    if found is None:
        return {}, text, 0
    source = found[1]
    try:
        fields = parse_yaml(source, first_line=2)
    except UnreadableError:
        # Cursor writes globs without quotes, which YAML reads as aliases: `globs: *.ts`.
        quoted = re.sub(
            r"^(\s*(?:globs|paths|applyTo)\s*:[ \t]*|\s*-[ \t]+)([*!][^\n]*?)\s*$", _quoted, source, flags=re.M
        )
        if quoted == source:
            raise
        fields = parse_yaml(quoted, first_line=2)
    if fields is None:
        fields = {}
    if not isinstance(fields, dict):
        raise UnreadableError("line 2: the front matter is not a mapping")
    return fields, text[found.end() :], text.count("\n", 0, found.end())


def _quoted(found: re.Match[str]) -> str:
    value = found[2].replace("'", "''")
    return f"{found[1]}'{value}'"
