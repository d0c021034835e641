"""Messages into records: one a message, long ones cut where sentences end. Knows nothing of agents or sessions."""

from __future__ import annotations

import re
from collections.abc import Iterator

PAGE_END = "\f"  # what ends a record wherever it stands
RECORD_LIMIT = 1000  # characters; about the 256 tokens that small embedding models read

# After a full stop with its closing quotes and the space behind it (none in Chinese or Japanese), or after a line.
# A run of full stops is looked at from its beginning only: from each of them it would take the square of its length.
_SENTENCE_END = re.compile(r"(?<![.!?…؟।])[.!?…؟।]++[\"'”’»)\]]*+\s+|[。！？]++[」』”’）]*+\s*+|\n+")


def split_text(text: str, limit: int = RECORD_LIMIT) -> list[str]:
    """Cut a message's text into the texts of its records, each of up to ``limit`` characters; none for an empty text.

    A text within the limit stays whole. Sentences are packed greedily; one beyond the limit is cut at spaces, a word
    beyond it anywhere. A form feed always ends a record.
    """
    return [piece for page in text.split(PAGE_END) for piece in _split_page(page, limit)]


def _split_page(text: str, limit: int) -> list[str]:
    if len(text) <= limit:
        return [text.strip()] if text.strip() else []
    pieces: list[str] = []
    packed: list[str] = []
    size = 0
    for sentence in _sentences(text, limit):
        solid = len(sentence.rstrip())
        if solid and size and size + solid > limit:
            pieces.append("".join(packed))
            packed, size = [], 0
        packed.append(sentence)
        size += len(sentence)
    pieces.append("".join(packed))
    return [piece.strip() for piece in pieces if piece.strip()]


def sentences(text: str) -> list[str]:
    """The sentences of a text, without the space around them."""
    return [piece.strip() for piece in _cut(text) if piece.strip()]


def _sentences(text: str, limit: int) -> Iterator[str]:
    """Sentences with the space behind them, those beyond the limit in parts that are not."""
    for sentence in _cut(text):
        start, stop = 0, len(sentence.rstrip())
        while stop - start > limit:
            cut = sentence.rfind(" ", start + 1, start + limit + 1)
            end = start + limit if cut < start + limit // 2 else cut
            yield sentence[start:end]
            start = end
        yield sentence[start:]


def _cut(text: str) -> Iterator[str]:
    start = 0
    for end in _SENTENCE_END.finditer(text):
        yield text[start : end.end()]
        start = end.end()
    yield text[start:]
