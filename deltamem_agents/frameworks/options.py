"""Refuses unknown keyword options of a framework's class, which pydantic would ignore."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

from deltamem_agents.errors import ConfigError


def refuse_unknown(name: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Refuse options that a class does not have.

    Args:
        name: The class's name, for the error.

    Raises:
        ConfigError: An option is not among ``known``.
    """
    options = sorted(known)
    for each in given:
        if each not in options:
            close = get_close_matches(each, options, n=1)
            meant = f"did you mean {close[0]!r}? " if close else ""
            raise ConfigError(f"{name} has no option {each!r}; {meant}it takes {', '.join(options)}")
