"""Which of the ranked records are handed over. Knows records and the query's text, no scores.

What takes places and answers nothing is held back:

- an "ok", a "thanks": never handed over;
- the same text again, and the same fact in other words: once is enough, the newest in the place of the best, and what
  the user said rather than what a model said of it; a question never stands for a statement;
- the same question asked before, and "I don't know" replies: nothing resembles a question more, and it answers nothing.

What carries a fact is not held back, though it ends in a question.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from deltamem_agents.recall.content import asks, asks_news, is_chatter, knows_nothing
from deltamem_agents.recall.lexical import query_terms
from deltamem_agents.recall.paraphrases import Gist, gist, says_the_same
from deltamem_agents.recall.protocols import IndexedRecord, speaker
from deltamem_agents.recall.words import text_terms

WEAK_SHARE = 5  # one in so many may be a question or an "I don't know"
COMPARED = 300  # records, the best, that others may be paraphrases of
ALIKE = 0.5  # of a question's words that are the query's

Cosine = Callable[[int, int], float | None]  # of the records with these keys


def select(
    query: str, ranked: Sequence[IndexedRecord], k: int, cosine: Cosine = lambda one, other: None
) -> list[IndexedRecord]:
    """The k records to hand over, in the order of ``ranked``, which are all candidates by their score, best first.

    What tools gave stands behind what was said.
    """
    asked = _normal(query)
    said = [record for record in ranked if not is_chatter(record.text) or _normal(record.text) == asked]
    unique = _once(said, cosine)
    stated = {_normal(record.text) for record in unique if not asks(record.text)}
    chosen: dict[int, None] = {}
    weak_left = k // WEAK_SHARE
    held_back: list[int] = []
    for record in unique:
        repeats = _normal(record.text) == asked
        if is_weak(record) and (repeats or _answers_nothing(record, query, stated)):
            if not weak_left or repeats:
                held_back.append(record.key)
                continue
            weak_left -= 1
        if len(chosen) < k:
            chosen[record.key] = None
    for key in held_back:  # better than nothing
        if len(chosen) < k:
            chosen[key] = None
    return sorted((record for record in unique if record.key in chosen), key=lambda record: record.role == "tool")


def is_weak(record: IndexedRecord) -> bool:
    """Whether a record is nothing but a question, or a model's reply that it does not know."""
    return (record.role == "assistant" and knows_nothing(record.text)) or asks(record.text)


def _answers_nothing(record: IndexedRecord, query: str, stated: set[str]) -> bool:
    """Whether a weak record asks what the query does, or what is stated besides, and tells nothing by it."""
    if not asks(record.text) or _normal(record.text) in stated:
        return True
    words = _words(record.text)
    return not asks_news(record.text, query) and len(words & _words(query)) >= ALIKE * len(words)


def _once(ranked: Sequence[IndexedRecord], cosine: Cosine) -> list[IndexedRecord]:
    """Each fact once, in the place of the best that says it."""
    places: list[tuple[IndexedRecord, str, Gist | None]] = []  # by what was said best
    stands: list[IndexedRecord] = []  # what is handed over in each place
    exact: dict[tuple[bool, str, str, str], int] = {}
    for record in ranked:
        name, question = speaker(record), asks(record.text)
        essence = None if question else gist(record.text)
        place = exact.get((question, record.role, _normal(record.text), name))
        if place is None and essence is not None:
            place = next(
                (
                    number
                    for number, (other, by, before) in enumerate(places[:COMPARED])
                    if before is not None
                    and by == name
                    and says_the_same(essence, before, cosine(record.key, other.key))
                ),
                None,
            )
        if place is None:
            place = len(places)
            places.append((record, name, essence))
            stands.append(record)
        elif _rather(record, stands[place]):
            stands[place] = record
        exact.setdefault((question, record.role, _normal(record.text), name), place)
    return stands


def _rather(record: IndexedRecord, other: IndexedRecord) -> bool:
    """Whether of two records that say the same the first is handed over: a person's, and then the newer."""
    first, second = record.role not in ("assistant", "tool"), other.role not in ("assistant", "tool")
    if first != second:
        return first
    return (record.position, record.chunk) > (other.position, other.chunk)


def _words(text: str) -> frozenset[str]:
    """The words with content of a text, without endings."""
    return frozenset(term for word in query_terms(text) for term in text_terms(word) if " " not in term)


def _normal(text: str) -> str:
    return " ".join(text.casefold().split()).rstrip(" .!?")
