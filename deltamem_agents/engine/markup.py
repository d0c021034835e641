"""Markup in the input of a chat template: text of users, records and tools must never become a control token.

A template joins its own control tokens and the texts into one string, where they can no longer be told apart. So markup
is removed from the texts first, put back after the rest is tokenised, and tokenised as text.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

COMPARED = ("role", "type")  # fields whose values templates compare

T = TypeVar("T")


class HiddenMarkup:
    """Replaces the markup in one prompt's texts by placeholders that no text can contain.

    Args:
        tokens: The markup: control tokens and the words that a family writes around messages.
    """

    def __init__(self, tokens: Iterable[str]) -> None:
        longest_first = sorted((token for token in tokens if token.strip()), key=len, reverse=True)
        self._markup = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        # A text may end with the first part of a token whose rest begins the next text.
        self._halves = {token[:end] for token in longest_first for end in range(1, len(token))}
        self._longest = max(map(len, longest_first), default=0)
        self._secret = secrets.token_hex(8)  # the author of a text cannot know it
        self._sign = re.compile(rf"M{self._secret}N(\d+)E")
        self._hidden: list[str] = []

    def hide(self, value: T) -> T:
        """The same value with placeholders for the markup in all its strings, including field names."""
        return self._hide(value)  # type: ignore[no-any-return]  # same type as the argument

    def ids(self, rendered: str, markup: Callable[[str], list[int]], text: Callable[[str], list[int]]) -> list[int]:
        """Tokenise a rendered prompt.

        Args:
            markup: Tokenises what the template wrote; control tokens take effect.
            text: Tokenises plain text; control tokens do not take effect.
        """
        found: list[int] = []
        for place, piece in enumerate(self._sign.split(rendered)):
            if place % 2:
                found += _as_text(self._hidden[int(piece)], markup, text)
            elif piece:
                found += markup(piece)
        return found

    def _hide(self, value: Any) -> Any:
        if isinstance(value, str):
            told = self._without(value)
            return told + self._put("") if self._ends_within(told) else told
        if isinstance(value, Mapping):
            # Templates compare field names, roles and types: these get no placeholder unless they hold markup.
            return {
                self._hide_name(key): self._hide_name(each) if key in COMPARED else self._hide(each)
                for key, each in value.items()
            }
        return [self._hide(each) for each in value] if isinstance(value, list | tuple) else value

    def _hide_name(self, value: Any) -> Any:
        return self._without(value) if isinstance(value, str) else self._hide(value)

    def _without(self, text: str) -> str:
        return self._markup.sub(lambda found: self._put(found[0]), text)

    def _put(self, token: str) -> str:
        self._hidden.append(token)
        return f"M{self._secret}N{len(self._hidden) - 1}E"

    def _ends_within(self, text: str) -> bool:
        return any(text[-length:] in self._halves for length in range(1, min(self._longest, len(text) + 1)))


def _as_text(token: str, markup: Callable[[str], list[int]], text: Callable[[str], list[int]]) -> list[int]:
    """Tokenise a piece of markup as plain text."""
    if not token:
        return []
    ids = text(token)
    # A word that is not a token of its own gives the same ids as text, unless it is split into characters.
    return ids if ids != markup(token) else [each for character in token for each in text(character)]
