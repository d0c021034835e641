"""Facts of an .editorconfig, each about the files of its section."""

from __future__ import annotations

import re
from collections.abc import Iterator

from deltamem_agents.guidelines.facts.statement import Fact
from deltamem_agents.guidelines.scope import expanded

Values = dict[str, tuple[str, int]]  # by key: the value and its line


def editorconfig(text: str) -> Iterator[Fact]:
    """The settings of each section; a setting does not apply to files for which a later section sets it too."""
    sections: list[tuple[tuple[str, ...], Values]] = []
    for number, line in enumerate(text.split("\n"), 1):
        stripped = re.sub(r"\s[#;].*$", "", line.strip())
        if section := re.match(r"\[(.+)\]\s*$", stripped):
            sections.append((_globs(section[1]), {}))
        elif sections and (pair := re.match(r"([\w-]+)\s*[=:]\s*(.*)$", stripped)):
            sections[-1][1][pair[1].casefold()] = (pair[2].strip().casefold(), number)
    for place, (globs, values) in enumerate(sections):
        yield from _section(globs, values, sections[place + 1 :])


def _globs(section: str) -> tuple[str, ...]:
    return () if section == "*" else tuple(expanded(section))


def _section(globs: tuple[str, ...], values: Values, later: list[tuple[tuple[str, ...], Values]]) -> Iterator[Fact]:
    named = f" in {', '.join(globs)}" if globs else ""

    def about(*keys: str) -> tuple[str, ...]:
        others = [glob for more, settings in later if settings.keys() & {*keys} for glob in more]
        return (*(globs or ("*",)), *(f"!{glob}" for glob in others)) if others else globs

    style, size = values.get("indent_style"), values.get("indent_size") or values.get("tab_width")
    if style or size:
        lines = [each[1] for each in (style, size) if each is not None]
        spaces = f"{size[0]} spaces" if size and size[0].isdigit() else "spaces"
        said = "tabs" if style and style[0] == "tab" else spaces
        where = about("indent_style", "indent_size", "tab_width")
        yield Fact(f"Indentation{named}: {said} (.editorconfig)", min(lines), max(lines), globs=where)
    sayings = {
        "max_line_length": "Line length{}: at most {} characters (.editorconfig)",
        "end_of_line": "Line endings{}: {} (.editorconfig)",
        "charset": "Encoding{}: {} (.editorconfig)",
        "trim_trailing_whitespace": "Trailing whitespace{} is trimmed: {} (.editorconfig)",
        "insert_final_newline": "Files{} end with a final newline: {} (.editorconfig)",
    }
    for key, told in sayings.items():
        value, line = values.get(key, ("", 0))
        if value not in ("off", "unset", ""):
            yes = {"true": "yes", "false": "no"}.get(value, value)
            yield Fact(told.format(named, yes), line, globs=about(key))
