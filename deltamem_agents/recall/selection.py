"""Which of the ranked records are handed over. Knows records and the query's text, no scores.

Two things push an answer out of the first k, and are held back here:

- the same text again: once is enough, the newest in the place of the best;
- earlier questions and "I don't know" replies: nothing resembles a question more than the same question asked before,
  and it answers nothing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from deltamem_agents.recall.protocols import IndexedRecord
from deltamem_agents.recall.records import sentences

WEAK_SHARE = 5  # one in so many may be a question or an "I don't know"

_WH = r"(?:what|where|when|which|who|whom|whose|why|how)"
_VERB = (
    r"(?:is|are|was|were|am|do|does|did|can|could|should|shall|would|will|has|have|had|might|may"
    r"|many|much|often|long|old|far|big|about|to|come)"
)
_QUESTION = re.compile(
    rf"^(?:(?:and|so|but|hey|hi|ok|okay|well|oh|please|sorry)\b[\s,]*)*{_WH}(?:['’]s|['’]re|\s+{_VERB})\b"
)
_TELLING = re.compile(
    r"\b(?:did (?:you|i) (?:know|hear|tell|mention)|(?:can|could|would|will) you (?:please )?(?:just )?"
    r"(?:remember|note|keep|save|store|write|memorise|memorize|make a note)|(?:is it|it's) ok|right\?|okay\?|ok\?)"
)
_ASKING_BACK = re.compile(
    rf"\b(?:remember|tell|know|said|say|mention|mentioned|told|recall) (?:me |you )?(?:again )?{_WH}\b"
)
_UNKNOWING = re.compile(
    r"\b(?:i|we) (?:do not|don['’]t|did not|didn['’]t|can ?not|can['’]t) (?:\w+ )?"
    r"(?:know|have|remember|recall|find|see)\b"
    r"|\bi['’]?a?m (?:not sure|unsure|afraid)|\bno (?:idea|information|record)\b|^(?:unknown|unsure|not sure)\b"
)
UNKNOWING_LIMIT = 160  # characters; a longer reply says something besides


def select(query: str, ranked: Sequence[IndexedRecord], k: int) -> list[IndexedRecord]:
    """The k records to hand over, in the order of ``ranked``, which are all candidates by their score, best first."""
    asked = _normal(query)
    unique: dict[tuple[str, str], IndexedRecord] = {}
    for record in ranked:
        same = unique.setdefault((record.role, _normal(record.text)), record)
        if (record.position, record.chunk) > (same.position, same.chunk):  # said again: it counts from then
            unique[(record.role, _normal(record.text))] = record
    strong = {record.key for record in unique.values() if not is_weak(record)}
    chosen: dict[int, None] = {}
    weak_left = k // WEAK_SHARE
    held_back: list[int] = []
    for record in unique.values():
        if record.key not in strong:
            if not weak_left or _normal(record.text) == asked:
                held_back.append(record.key)
                continue
            weak_left -= 1
        if len(chosen) < k:
            chosen[record.key] = None
    for key in held_back:  # better than nothing
        if len(chosen) < k:
            chosen[key] = None
    return [record for record in unique.values() if record.key in chosen]


def is_weak(record: IndexedRecord) -> bool:
    """Whether a record is nothing but a question, or an assistant's reply that it does not know."""
    if record.role == "assistant" and knows_nothing(record.text):
        return True
    parts = sentences(record.text)
    return bool(parts) and all(_asks(part.lower()) for part in parts)


def knows_nothing(reply: str) -> bool:
    """Whether a reply says that it does not know, and nothing besides.

    >>> knows_nothing("I don't know."), knows_nothing("I don't know, but it may be blue.")
    (True, False)
    """
    lowered = reply.lower()
    return len(reply) <= UNKNOWING_LIMIT and _UNKNOWING.search(lowered) is not None and " but " not in lowered


def _asks(sentence: str) -> bool:
    marked = sentence.rstrip("\"'”’»)]").endswith(("?", "？", "؟"))
    if marked:
        return not _TELLING.search(sentence) or bool(_ASKING_BACK.search(sentence))
    return not sentence.endswith((".", "!", ":", ";")) and bool(_QUESTION.match(sentence))


def _normal(text: str) -> str:
    return " ".join(text.casefold().split()).rstrip(" .!?")
