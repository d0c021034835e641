"""Cut messages into records: usually one record a message, with long messages cut where sentences end."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

PAGE_END = "\f"  # always ends a record
RECORD_LIMIT = 1000  # characters; about the 256 tokens of English that small embedding models read

# After a full stop with its closing quotes and the space after it (none in Chinese or Japanese), or after a line.
# A run of full stops is matched from its beginning only: starting at each of them would take quadratic time.
_SENTENCE_END = re.compile(r"(?<![.!?…؟।])[.!?…؟।]++[\"'”’»)\]]*+\s+|[。！？]++[」』”’）]*+\s*+|\n+")


@dataclass(frozen=True, slots=True)
class Measure:
    """How much of a text an embedder reads.

    Args:
        limit: The most that it reads, in the unit of ``count``.
        count: Size of a text, including what is added to every text.
        spare: If given, no ASCII text counts more than its characters plus this, so that short texts need no counting.
    """

    limit: int
    count: Callable[[str], int]
    spare: int | None = None

    def fits(self, text: str) -> bool:
        """Whether the embedder reads the whole text."""
        if self.spare is not None and len(text) + self.spare <= self.limit and text.isascii():
            return True
        return self.count(text) <= self.limit


def split_text(text: str, limit: int = RECORD_LIMIT, measure: Measure | None = None) -> list[str]:
    """Cut a message's text into the texts of its records, of up to ``limit`` characters each; an empty text has none.

    A text within the limit stays whole. Sentences are packed greedily. A sentence beyond the limit is cut at spaces, a
    word beyond it anywhere. A form feed always ends a record.

    Args:
        measure: Another limit for each record, unless a single character exceeds it.
    """
    return [piece for page in text.split(PAGE_END) for piece in _split_page(page, limit, measure)]


def _split_page(text: str, limit: int, measure: Measure | None) -> list[str]:
    if len(text) <= limit and (measure is None or measure.fits(text.strip())):
        return [text.strip()] if text.strip() else []
    pieces: list[str] = []
    packed: list[str] = []
    size = counted = 0
    always = measure.count("") if measure is not None else 0
    for sentence in _sentences(text, limit, measure):
        solid = len(sentence.rstrip())
        count = measure.count(sentence) - always if measure is not None and sentence else 0
        full = size + solid > limit or (measure is not None and always + counted + count > measure.limit)
        if solid and size and full:
            pieces.append("".join(packed))
            packed, size, counted = [], 0, 0
        packed.append(sentence)
        size += len(sentence)
        counted += count
    pieces.append("".join(packed))
    return [piece.strip() for piece in pieces if piece.strip()]


def sentences(text: str) -> list[str]:
    """The sentences of a text, without the space around them."""
    return [piece.strip() for piece in _cut(text) if piece.strip()]


def _sentences(text: str, limit: int, measure: Measure | None) -> Iterator[str]:
    """Sentences with the space after them; sentences beyond the limit are split into parts within it."""
    for sentence in _cut(text):
        start, stop = 0, len(sentence.rstrip())
        while stop - start > limit or (measure is not None and stop > start and not measure.fits(sentence[start:stop])):
            room = min(limit, stop - start) if measure is None else _room(sentence[start : start + limit], measure)
            cut = sentence.rfind(" ", start + 1, start + room + 1)
            end = start + room if cut < start + room // 2 else cut
            end = max(end, start + 1)
            yield sentence[start:end]
            start = end
        yield sentence[start:]


def _room(text: str, measure: Measure) -> int:
    """How many characters from the beginning of a text fit the measure; at least one."""
    room = len(text)
    while room > 1 and not measure.fits(text[:room]):
        share = measure.limit / max(measure.count(text[:room]), 1)
        room = max(1, min(room - 1, int(room * share)))
    return room


def _cut(text: str) -> Iterator[str]:
    start = 0
    for end in _SENTENCE_END.finditer(text):
        yield text[start : end.end()]
        start = end.end()
    yield text[start:]
