"""Facts of a project's configuration, as rules: what its tests, formatter, linter and versions are set to.

Nothing is run or imported: Python is read through `ast`, JavaScript as text. May import: the parsers of the formats.
"""

from __future__ import annotations

from deltamem_agents.guidelines.rule import Rule
from deltamem_agents.guidelines.sources import Source


def facts_of(source: Source, text: str) -> list[Rule]:
    """The facts that a configuration file states.

    Raises:
        UnreadableError: It cannot be parsed.
    """
    return []
