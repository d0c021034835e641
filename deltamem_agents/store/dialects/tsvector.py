"""Full text on PostgreSQL: a GIN index over each record's words, stemmed in English, and over its `terms`.

Accents are folded here, as the extension for it is not everywhere: words that have some are in `terms` without them.
Scripts that write no spaces are found as pairs of neighbours, see `unspaced`. PostgreSQL's parser would keep ``a.py``,
``-4012`` and ``x@y.org`` whole, and find none of their words: what joins them is taken for a space. The rank is
PostgreSQL's ``ts_rank``, which knows how often a word occurs in a record and not how rare it is elsewhere.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Index, MetaData, func, literal_column, select
from sqlalchemy.orm import InstrumentedAttribute

from deltamem_agents.store.schema import MessageRow, RecordRow
from deltamem_agents.store.unspaced import UNSPACED, spelled_out

INDEXED = 100_000  # characters of a record, and of its terms; a tsvector holds one megabyte at most
JOINING = "!#&*+-./:;<=>?@_~"  # without what would have to be quoted in SQL
INDEX_NAME = "deltamem_records_words"
_ENGLISH: ColumnElement[object] = literal_column("'english'::regconfig")
_WORD = re.compile(r"\w+")
_APART = str.maketrans(dict.fromkeys(JOINING + "\0", " "))
_Column = ColumnElement[Any] | InstrumentedAttribute[Any]


class Tsvector:
    """As `FullText`."""

    def create(self, connection: Connection) -> None:
        """As `FullText.create`."""
        # On a copy of the table: on the mapped one it would be created for every dialect.
        table = RecordRow.__table__.to_metadata(MetaData())  # type: ignore[attr-defined]  # a Table, as it is mapped
        Index(INDEX_NAME, _vector(table.c.text, table.c.terms), postgresql_using="gin", _table=table).create(connection)

    def terms(self, text: str) -> str | None:
        """As `FullText.terms`."""
        if text.isascii():
            return None
        words = _WORD.findall(unicodedata.normalize("NFC", text))  # composed, as a combining mark would end a word
        folded = " ".join(fold(word) for word in words if fold(word) != word)
        return " \n".join(part for part in (spelled_out(text), folded) if part) or None

    def search(
        self, connection: Connection, agent_key: int, terms: Sequence[str], limit: int, session: str | None
    ) -> list[tuple[int, float]]:
        """As `FullText.search`."""
        query = _query(terms)
        if query is None:
            return []
        vector = _vector(RecordRow.text, RecordRow.terms)
        score = func.ts_rank(vector, query).label("score")
        found = (
            select(RecordRow.key, score)
            .where(RecordRow.agent_key == agent_key, vector.op("@@")(query))
            .order_by(score.desc(), RecordRow.position.desc(), RecordRow.chunk)
            .limit(limit)
        )
        if session is not None:
            found = found.join(
                MessageRow,
                (MessageRow.agent_key == RecordRow.agent_key) & (MessageRow.position == RecordRow.position),
            ).where(MessageRow.session == session)
        return [(row[0], float(row[1])) for row in connection.execute(found)]


def fold(word: str) -> str:
    """A word without accents.

    >>> fold("Zürich")
    'Zurich'
    """
    return "".join(each for each in unicodedata.normalize("NFD", word) if not unicodedata.combining(each))


def _vector(text: _Column, terms: _Column) -> ColumnElement[object]:
    limit: ColumnElement[int] = literal_column(str(INDEXED))
    joining, spaces = f"'{JOINING}'", f"'{' ' * len(JOINING)}'"
    words = func.translate(func.left(text, limit), literal_column(joining), literal_column(spaces))
    spelled = func.left(func.coalesce(terms, literal_column("''")), limit)
    return func.to_tsvector(_ENGLISH, words.op("||")(literal_column("' '")).op("||")(spelled))


def _query(terms: Sequence[str]) -> ColumnElement[object] | None:
    """Any of the terms; whatever they hold is a bound value, never syntax."""
    phrases: dict[str, None] = {}
    for term in terms:
        for run in UNSPACED.findall(term):
            phrases.update((" ".join(run[i : i + 2]), None) for i in range(max(1, len(run) - 1)))
        spaced = UNSPACED.sub(" ", term).translate(_APART).strip()
        if any(character.isalnum() for character in spaced):
            phrases[fold(spaced)] = None
    parts: list[ColumnElement[object]] = [func.phraseto_tsquery(_ENGLISH, phrase) for phrase in phrases]
    while len(parts) > 1:  # in pairs, as an expression of a thousand terms one inside the other is too deep
        paired = [first.op("||")(second) for first, second in zip(parts[::2], parts[1::2], strict=False)]
        parts = paired + parts[len(parts) // 2 * 2 :]
    return parts[0] if parts else None
