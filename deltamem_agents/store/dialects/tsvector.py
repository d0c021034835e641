"""Full text on PostgreSQL: a GIN index over each record's words, with English stemming, and over its `terms`.

A trigger stores the words in a column, so that ranking need not parse the text again and a fork can copy them.

Accents and case are folded here, because the extension for it is not always available: words whose search form differs
from their written form, see `search_form`, are in `terms` in their search form. Scripts without spaces are searched as
pairs of neighbouring characters, see `search_form`. PostgreSQL's parser would keep ``a.py``, ``-4012`` and
``x@y.org`` whole and not find the words in them, so joining characters are replaced by spaces. The rank is PostgreSQL's
``ts_rank``, which counts how often a word occurs in a record but not how rare it is elsewhere.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

from sqlalchemy import ARRAY, ColumnElement, Connection, Select, Text, bindparam, cast, func, literal_column, select
from sqlalchemy.dialects.postgresql import TSQUERY

from deltamem_agents.search_form import UNSPACED, folded, normalized, search_form, spelled_out, words_of
from deltamem_agents.store.dialects.rows import Within, plain_rows
from deltamem_agents.store.schema import MessageRow, RecordRow

TOGETHER = 4_096  # terms in one query; a much larger query overflows the server's stack
INDEXED = 100_000  # characters indexed of a record and of its terms; a tsvector holds at most one megabyte
JOINING = "!#&*+-./:;<=>?@_~"  # replaced by spaces; without characters that SQL would need quoted
_SPACES = " " * len(JOINING)
_ENGLISH: ColumnElement[object] = literal_column("'english'::regconfig")
_WORDS: ColumnElement[object] = literal_column("deltamem_records.words")
_WORD = re.compile(r"\w+")
_APART = str.maketrans(dict.fromkeys(JOINING + "\0", " "))

TRIGGERS = (
    """CREATE TRIGGER deltamem_records_added BEFORE INSERT ON {prefix}deltamem_records FOR EACH ROW
           WHEN (NEW.words IS NULL) EXECUTE FUNCTION {prefix}deltamem_records_words()""",
    """CREATE TRIGGER deltamem_records_changed BEFORE UPDATE OF text, terms ON {prefix}deltamem_records FOR EACH ROW
           EXECUTE FUNCTION {prefix}deltamem_records_words()""",
)
TABLES = (
    "ALTER TABLE {prefix}deltamem_records ADD COLUMN words tsvector",
    f"""CREATE OR REPLACE FUNCTION {{prefix}}deltamem_records_words() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
           NEW.words := to_tsvector('pg_catalog.english', translate(left(NEW.text, {INDEXED}), '{JOINING}', '{_SPACES}')
               || ' ' || left(coalesce(NEW.terms, ''), {INDEXED}));
           RETURN NEW; END $$""",
    *TRIGGERS,
    "CREATE INDEX deltamem_records_words ON {prefix}deltamem_records USING gin (words)",
)


class Tsvector:
    """The `FullText` of PostgreSQL."""

    columns = ("words",)

    def create(self, connection: Connection) -> None:
        """See `FullText.create`."""
        for statement in TABLES:
            connection.exec_driver_sql(statement.format(prefix=schema_prefix(connection)))

    def terms(self, text: str) -> str | None:
        """See `FullText.terms`."""
        if text.isascii():
            return None
        form = search_form(text)
        # Whether an invisible character ends a word for PostgreSQL's parser depends on its locale.
        known = {word for chunk in text.split() if search_form(chunk) == chunk for word in _WORD.findall(chunk)}
        others = " ".join(
            plain
            for word in words_of(UNSPACED.sub(" ", form))
            if (plain := fold(word)) not in known and not (word.isascii() and word in known)
        )
        return " \n".join(part for part in (spelled_out(form), others) if part) or None

    def not_ascii(self, column: ColumnElement[str]) -> ColumnElement[bool]:
        """See `FullText.not_ascii`."""
        return func.octet_length(column) != func.char_length(column)

    def scores(
        self, connection: Connection, agent_key: int, terms: Sequence[str], limit: int, within: Within
    ) -> Sequence[tuple[int, float]]:
        """See `FullText.scores`."""
        queries = queries_of(terms)
        return _together(
            [plain_rows(connection.execute(_narrowed(_ranked(agent_key, query, limit), within))) for query in queries],
            limit,
        )


def schema_prefix(connection: Connection) -> str:
    """The schema prefix of table names in handwritten SQL; empty for the default schema."""
    schema = (connection.get_execution_options().get("schema_translate_map") or {}).get(None)
    return f'"{schema}".' if schema else ""


def fold(word: str) -> str:
    """A word's form for searching, without combining marks, which would end a word for PostgreSQL's parser.

    >>> fold("Zürich")
    'zurich'
    """
    return "".join(each for each in normalized("NFD", folded(word)) if not unicodedata.combining(each))


def _ranked(agent_key: int, query: ColumnElement[object], limit: int) -> Select[Any]:
    """A query for keys and ranks of an agent's records that contain any of the terms, best first."""
    once = select(query.label("query")).scalar_subquery()  # evaluated once, not for each record
    score = func.ts_rank(_WORDS, once).label("score")
    found = select(RecordRow.key, score).where(RecordRow.agent_key == agent_key, _WORDS.op("@@")(once))
    return found.order_by(score.desc(), RecordRow.key.desc()).limit(limit)


def _together(found: Sequence[Sequence[Any]], limit: int) -> Sequence[Any]:
    """Merge the results of several queries by adding up the ranks of each record."""
    if len(found) < 2:
        return found[0] if found else []
    ranks: dict[int, float] = {}
    for hits in found:
        for key, rank in hits:
            ranks[key] = ranks.get(key, 0.0) + rank
    return sorted(ranks.items(), key=lambda hit: (-hit[1], -hit[0]))[:limit]


def _narrowed(found: Select[Any], within: Within) -> Select[Any]:
    if not within:
        return found
    message = (MessageRow.agent_key == RecordRow.agent_key) & (MessageRow.position == RecordRow.position)
    return found.join(MessageRow, message).where(*within.conditions())


def queries_of(terms: Sequence[str]) -> list[ColumnElement[object]]:
    """Queries for any of the terms, one per `TOGETHER` terms; terms are bound values, never query syntax."""
    phrases: dict[str, None] = {}
    for given in terms:
        term = search_form(given, both=False)
        for run in UNSPACED.findall(term):
            phrases.update((" ".join(run[i : i + 2]), None) for i in range(max(1, len(run) - 1)))
        spaced = UNSPACED.sub(" ", term).translate(_APART).strip()
        if any(character.isalnum() for character in spaced) and len(spaced) <= INDEXED:
            phrases[fold(spaced)] = None
    return [_query(batch) for batch in batched(phrases, TOGETHER)]


def _query(phrases: Sequence[str]) -> ColumnElement[object]:
    given = (
        func.unnest(bindparam(None, list(phrases), type_=ARRAY(Text))).table_valued("phrase").render_derived("given")
    )
    each = select(func.phraseto_tsquery(_ENGLISH, given.c.phrase).label("query")).subquery("each")
    joined = func.string_agg(cast(each.c.query, Text), literal_column("' | '"))
    return select(cast(joined, TSQUERY)).where(func.numnode(each.c.query) > 0).scalar_subquery()


def batched(values: Iterable[str], size: int) -> Iterator[list[str]]:
    """Split values into lists of up to ``size``."""
    left = iter(values)
    while batch := list(islice(left, size)):
        yield batch
