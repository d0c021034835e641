"""Why a search found a record: the words it shares with the query, how much it resembles it, and what else counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from deltamem_agents.recall.protocols import Record
from deltamem_agents.recall.questions import Question
from deltamem_agents.recall.ranking import RESEMBLING, signals_of
from deltamem_agents.recall.words import looked_for, text_terms

if TYPE_CHECKING:
    from deltamem_agents.recall.candidates import Candidates


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """What speaks for one record of a search.

    Args:
        words: Words of the record that the query asks for, as the record has them, each once.
        word_score: BM25 score of the record; 0 if it shares no word with the query.
        similarity: Cosine of the embeddings of query and record; None without an embedding of both.
        resembles: Whether the similarity is high enough to find the record by itself.
        beside: Whether a neighbouring message shares a word with the query or resembles it.
        named: Whether the query names the record's speaker.
        standing: Whether the record states a rule or a preference.
    """

    words: tuple[str, ...] = ()
    word_score: float = 0.0
    similarity: float | None = None
    resembles: bool = False
    beside: bool = False
    named: bool = False
    standing: bool = False


def shared_words(query: str, text: str) -> tuple[str, ...]:
    """The words of a text that a query asks for, as the text has them, each once.

    >>> shared_words("How do we indent files?", "We indent this file with spaces, and every file alike.")
    ('indent', 'file')
    """
    wanted = looked_for(query)
    found: dict[str, None] = {}
    for chunk in text.split():
        word = chunk.strip(".,;:!?()[]{}\"'“”‘’…")
        if word and not wanted.isdisjoint(text_terms(word)):
            found.setdefault(word)
    return tuple(found)


def reasons(query: str, records: Sequence[Record], candidates: Candidates | None) -> list[Reason]:
    """Why each of these records was found.

    Args:
        candidates: What the query's search ranks; None if it finds nothing.
    """
    words = [shared_words(query, each.text) for each in records]
    if candidates is None:
        return [Reason(words=each) for each in words]
    snapshot = candidates.snapshot
    signals = signals_of(query, snapshot, candidates.vector, Question.read(query, []))
    found = []
    for record, shared in zip(records, words, strict=True):
        places = np.flatnonzero(snapshot.position == record.position)
        if record.chunk >= len(places):
            found.append(Reason(words=shared))
            continue
        place = places[record.chunk]
        known = signals.meaning is not None and not snapshot.blank[place]
        cosine = float(signals.meaning[place]) if known and signals.meaning is not None else None
        near = signals.around is not None and float(signals.around[place]) >= RESEMBLING
        found.append(
            Reason(
                words=shared,
                word_score=float(signals.words[place]),
                similarity=cosine,
                resembles=cosine is not None and cosine >= RESEMBLING,
                beside=bool(signals.covered[place] > signals.words[place]) or near,
                named=bool(signals.named[place]),
                standing=bool(signals.standing[place]),
            )
        )
    return found
