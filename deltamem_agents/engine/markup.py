"""Markup in what a chat template is given: text of users, records and tools must never become a control token.

A template joins its own control tokens and the texts into one string, in which they can no longer be told apart. So the
markup in the texts is taken out before, put in again after the rest is tokenised, and tokenised as text.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

COMPARED = ("role", "type")  # fields whose values templates ask for

T = TypeVar("T")


class HiddenMarkup:
    """The markup of one prompt's texts, in whose place stands a sign that no text can hold.

    Args:
        tokens: What is markup: control tokens and the words that a family writes around messages.
    """

    def __init__(self, tokens: Iterable[str]) -> None:
        longest_first = sorted((token for token in tokens if token.strip()), key=len, reverse=True)
        self._markup = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        # At a text's end may stand the first half of a token whose other half is the next text's beginning.
        self._halves = {token[:end] for token in longest_first for end in range(1, len(token))}
        self._longest = max(map(len, longest_first), default=0)
        self._secret = secrets.token_hex(8)  # whoever writes a text cannot know it
        self._sign = re.compile(rf"M{self._secret}N(\d+)E")
        self._hidden: list[str] = []

    def hide(self, value: T) -> T:
        """The same value with signs for the markup in all its strings, names of fields too."""
        return self._hide(value)  # type: ignore[no-any-return]  # of the kind it was

    def ids(self, rendered: str, markup: Callable[[str], list[int]], text: Callable[[str], list[int]]) -> list[int]:
        """Tokens of a rendered prompt.

        Args:
            markup: Tokens of what the template wrote, in which control tokens take effect.
            text: Tokens of a text, in which none does.
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
            # Templates compare names of fields, roles and types: these get no sign unless they hold markup.
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
    """Tokens of a piece of markup that means nothing here."""
    if not token:
        return []
    ids = text(token)
    # Words that are no tokens of their own read the same in a text, unless they are taken apart.
    return ids if ids != markup(token) else [each for character in token for each in text(character)]
