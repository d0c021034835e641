"""Recognise recalled text that comes back in a prompt, word for word.

Notes can be recognised in any process; see `notes.find`. For other forms, this process remembers the texts that it has
returned: a heading would not be enough, because anybody may write one. Only hashes are kept, so no erased text is here.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from itertools import pairwise

from deltamem_agents.processes import ProcessLock
from deltamem_agents.recall.notes import find

OPENING = 16  # characters of its beginning by which a recalled text is found
GIVEN = 1024  # most recent texts that are recognised
TRIED = 64  # places checked in one text, so that a repeated heading costs little


def note_given(text: str) -> None:
    """Remember this recalled text, so that it is recognised later."""
    if text and next(find(text), None) is None:
        _given.note(text)


def recalled_in(text: str) -> list[tuple[int, int]]:
    """Start and end of each place where a text contains notes, or recalled text that this process has returned.

    The match is word for word, so that nobody's own words are taken for recalled text, however they begin.
    """
    notes = [(found.start, found.end) for found in find(text)]
    others = [
        each for each in _given.places(text) if not any(start < each[1] and each[0] < end for start, end in notes)
    ]
    return sorted([*notes, *others])


def without_recalled(text: str) -> str:
    """The text without what `recalled_in` finds, and without the blank lines around it."""
    places = recalled_in(text)
    if not places:
        return text
    ends = [(0, 0), *places, (len(text), len(text))]
    return "\n\n".join(part for (_, start), (end, _) in pairwise(ends) if (part := text[start:end].strip("\n")))


class _Given:
    """Hashes of texts, with each text's beginning and length."""

    def __init__(self) -> None:
        self._lock = ProcessLock()
        self._known: OrderedDict[tuple[str, int, bytes], None] = OrderedDict()

    def note(self, text: str) -> None:
        key = (_opening(text), len(text), _hash(text))
        with self._lock:
            self._known[key] = None
            self._known.move_to_end(key)
            while len(self._known) > GIVEN:
                self._known.popitem(last=False)

    def places(self, text: str) -> Iterator[tuple[int, int]]:
        with self._lock:
            known = list(self._known)
        lengths: dict[str, set[int]] = {}
        for opening, length, _ in known:
            if length <= len(text):
                lengths.setdefault(opening, set()).add(length)
        keys, end = set(known), 0
        for start, opening in _found(text, lengths)[:TRIED]:
            if start < end:
                continue
            for length in sorted(lengths[opening], reverse=True):
                if (opening, length, _hash(text[start : start + length])) in keys:
                    yield start, (end := start + length)
                    break


def _found(text: str, openings: Iterable[str]) -> list[tuple[int, str]]:
    """Where the openings occur at the beginning of a line of a text."""
    found = []
    for opening in openings:
        start = text.find(opening)
        while start >= 0:
            if start == 0 or text[start - 1] == "\n":
                found.append((start, opening))
            start = text.find(opening, start + 1)
    return sorted(found)


def _opening(text: str) -> str:
    """The beginning of the first line only, since a text from the state alone has one line."""
    return text.partition("\n")[0][:OPENING]


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


_given = _Given()
