"""Full text on SQLite: FTS5 with external content, kept in step by triggers, in the transaction that changes records.

Words are stemmed (Porter) after accents are folded. Scripts that write no spaces are found as pairs of neighbours, see
`unspaced`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from sqlalchemy import Connection, bindparam, text

from deltamem_agents.store.dialects.narrowing import Within
from deltamem_agents.store.dialects.rows import plain_rows
from deltamem_agents.store.schema import UtcDateTime
from deltamem_agents.unspaced import UNSPACED, spelled_out

SQLITE_TABLES = (
    """CREATE VIRTUAL TABLE IF NOT EXISTS deltamem_records_fts USING fts5(
           agent_key, text, terms, content='deltamem_records', content_rowid='key',
           tokenize="porter unicode61 remove_diacritics 2 categories 'L* N* Co Mn Mc'")""",
    """CREATE TRIGGER IF NOT EXISTS deltamem_records_added AFTER INSERT ON deltamem_records BEGIN
           INSERT INTO deltamem_records_fts(rowid, agent_key, text, terms)
           VALUES (new.key, new.agent_key, new.text, new.terms); END""",
    """CREATE TRIGGER IF NOT EXISTS deltamem_records_removed AFTER DELETE ON deltamem_records BEGIN
           INSERT INTO deltamem_records_fts(deltamem_records_fts, rowid, agent_key, text, terms)
           VALUES ('delete', old.key, old.agent_key, old.text, old.terms); END""",
    """CREATE TRIGGER IF NOT EXISTS deltamem_records_changed AFTER UPDATE ON deltamem_records BEGIN
           INSERT INTO deltamem_records_fts(deltamem_records_fts, rowid, agent_key, text, terms)
           VALUES ('delete', old.key, old.agent_key, old.text, old.terms);
           INSERT INTO deltamem_records_fts(rowid, agent_key, text, terms)
           VALUES (new.key, new.agent_key, new.text, new.terms); END""",
)

SQLITE_SEARCH = text(
    """SELECT f.rowid, -bm25(deltamem_records_fts, 0.0, 1.0, 1.0) AS score
       FROM deltamem_records_fts AS f
       JOIN deltamem_records AS r ON r.key = f.rowid
       JOIN deltamem_messages AS m ON m.agent_key = r.agent_key AND m.position = r.position
       WHERE deltamem_records_fts MATCH :match AND r.agent_key = :agent_key
         AND (:session IS NULL OR m.session = :session)
       ORDER BY score DESC, r.position DESC, r.chunk LIMIT :limit"""
)

SQLITE_SCORES = text(  # the agent is part of what is matched
    """SELECT rowid, -bm25(deltamem_records_fts, 0.0, 1.0, 1.0) AS score
       FROM deltamem_records_fts WHERE deltamem_records_fts MATCH :match ORDER BY score DESC LIMIT :limit"""
)

SQLITE_NARROWED = text(
    """SELECT f.rowid, -bm25(deltamem_records_fts, 0.0, 1.0, 1.0) AS score
       FROM deltamem_records_fts AS f
       JOIN deltamem_records AS r ON r.key = f.rowid
       JOIN deltamem_messages AS m ON m.agent_key = r.agent_key AND m.position = r.position
       WHERE deltamem_records_fts MATCH :match AND (:session IS NULL OR m.session = :session)
         AND (:since IS NULL OR m.created_at >= :since) AND (:until IS NULL OR m.created_at < :until)
       ORDER BY score DESC LIMIT :limit"""
).bindparams(bindparam("since", type_=UtcDateTime), bindparam("until", type_=UtcDateTime))


class Fts5:
    """BM25 by FTS5. How rare a word is, is counted over all agents; which records are found, in one agent alone."""

    columns = ()

    def create(self, connection: Connection) -> None:
        """As `FullText.create`."""
        for statement in SQLITE_TABLES:
            connection.exec_driver_sql(statement)

    def terms(self, text: str) -> str | None:
        """As `FullText.terms`."""
        return spelled_out(text)

    def search(
        self, connection: Connection, agent_key: int, terms: Sequence[str], limit: int, session: str | None
    ) -> list[tuple[int, float]]:
        """As `FullText.search`."""
        match = match_expression(agent_key, terms)
        if match is None:
            return []
        values = {"match": match, "agent_key": agent_key, "session": session, "limit": limit}
        return [(row[0], float(row[1])) for row in connection.execute(SQLITE_SEARCH, values)]

    def scores(
        self, connection: Connection, agent_key: int, terms: Sequence[str], limit: int, within: Within
    ) -> Sequence[tuple[int, float]]:
        """As `FullText.scores`."""
        match = match_expression(agent_key, terms)
        if match is None:
            return []
        values = {"match": match, "limit": limit}
        if not within:
            return plain_rows(connection.execute(SQLITE_SCORES, values))
        values |= {"session": within.session, "since": within.since, "until": within.until}
        return plain_rows(connection.execute(SQLITE_NARROWED, values))


def optimize(connection: sqlite3.Connection) -> None:
    """Merge the index into one piece, which drops the terms of deleted rows; nothing where there is no index."""
    if connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'deltamem_records_fts'").fetchone():
        connection.execute("INSERT INTO deltamem_records_fts(deltamem_records_fts) VALUES ('optimize')")


def match_expression(agent_key: int, terms: Sequence[str]) -> str | None:
    """An FTS5 query for one agent's records that hold any of the terms; whatever they hold is quoted, never syntax.

    >>> match_expression(7, ["indent", "住在"])
    'agent_key : "7" AND ({text} : "indent" OR {terms} : "住 在")'
    """
    phrases: dict[str, None] = {}
    for term in terms:
        for run in UNSPACED.findall(term):
            pairs = [run[i : i + 2] for i in range(len(run) - 1)] or [run]
            phrases.update((f"{{terms}} : {_quoted(' '.join(pair))}", None) for pair in pairs)
        spaced = UNSPACED.sub(" ", term)
        if any(character.isalnum() for character in spaced):
            phrases[f"{{text}} : {_quoted(spaced.strip())}"] = None
    return f'agent_key : "{agent_key}" AND ({" OR ".join(phrases)})' if phrases else None


def _quoted(phrase: str) -> str:
    return '"' + phrase.replace("\0", " ").replace('"', '""') + '"'
