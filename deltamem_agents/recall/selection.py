"""Choose which of the ranked records to return, by their texts and the query's text; scores are not used.

Records that would take a place without answering anything are left out:

- An "ok" or a "thanks" is never returned.
- The same text, or the same fact in other words, is returned once: the newest version takes the place of the best, and
  the user's words are preferred to a model's. A question never replaces a statement.
- The same question asked before, and "I don't know" replies, are mostly left out: they resemble a query more than
  anything else does, but answer nothing.

A record that states a fact is kept even if it ends in a question.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from deltamem_agents.recall.content import asks, asks_news, is_chatter, knows_nothing
from deltamem_agents.recall.paraphrases import Gist, gist, says_the_same
from deltamem_agents.recall.protocols import IndexedRecord, speaker
from deltamem_agents.recall.words import query_terms, text_terms

WEAK_SHARE = 5  # one in so many records may be a question or an "I don't know"
COMPARED = 300  # best records with which the others are compared for paraphrases
ALIKE = 0.5  # share of a question's words that are also the query's, from which it asks the same

Cosine = Callable[[int, int], float | None]  # takes the keys of two records


def select(
    query: str, ranked: Sequence[IndexedRecord], k: int, cosine: Cosine = lambda one, other: None
) -> list[IndexedRecord]:
    """The k records to return, in the order of ``ranked``, with tool output after everything else.

    Args:
        ranked: All candidates, best first.
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
    for key in held_back:  # fill places that are left
        if len(chosen) < k:
            chosen[key] = None
    return sorted((record for record in unique if record.key in chosen), key=lambda record: record.role == "tool")


def is_weak(record: IndexedRecord) -> bool:
    """Whether a record is only a question, or a model's reply that it does not know."""
    return (record.role == "assistant" and knows_nothing(record.text)) or asks(record.text)


def _answers_nothing(record: IndexedRecord, query: str, stated: set[str]) -> bool:
    """Whether a weak record tells nothing: an "I don't know", a question like the query, or one also stated."""
    if not asks(record.text) or _normal(record.text) in stated:
        return True
    words = _words(record.text)
    return not asks_news(record.text, query) and len(words & _words(query)) >= ALIKE * len(words)


def _once(ranked: Sequence[IndexedRecord], cosine: Cosine) -> list[IndexedRecord]:
    """Each fact once, at the place of the best record that states it."""
    places: list[tuple[IndexedRecord, str, Gist | None]] = []  # the best record of each place
    stands: list[IndexedRecord] = []  # the record to return at each place
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
    """Whether to return ``record`` rather than ``other``, which says the same: prefer a person's, then the newer."""
    first, second = record.role not in ("assistant", "tool"), other.role not in ("assistant", "tool")
    if first != second:
        return first
    return (record.position, record.chunk) > (other.position, other.chunk)


def _words(text: str) -> frozenset[str]:
    """The content words of a text, without endings."""
    return frozenset(term for word in query_terms(text) for term in text_terms(word) if " " not in term)


def _normal(text: str) -> str:
    return " ".join(text.casefold().split()).rstrip(" .!?")
