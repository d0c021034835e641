"""Full text on SQLite: FTS5 with external content. Triggers update the index in the transaction that changes records.

FTS5 removes the accents of Latin letters, then stems words (Porter). Other words whose search form differs from their
written form, see `search_form`, are in the column ``terms`` in their search form; a query searches both columns.
Scripts without spaces are searched as pairs of neighbouring characters, see `search_form`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from sqlalchemy import ColumnElement, Connection, LargeBinary, bindparam, cast, func, text

from deltamem_agents.search_form import UNSPACED, folded, normalized, search_form, spelled_out, words_of
from deltamem_agents.store.dialects.fts5_levels import MOST_LEVELS, levels
from deltamem_agents.store.dialects.rows import Within, plain_rows
from deltamem_agents.store.schema import UtcDateTime

INDEX = "deltamem_records_fts"
TRIGGERS = ("deltamem_records_added", "deltamem_records_removed", "deltamem_records_changed")
REMEDY = "'deltamem db repair' rebuilds it from the records"

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
    """CREATE TRIGGER IF NOT EXISTS deltamem_records_changed AFTER UPDATE OF key, agent_key, text, terms
           ON deltamem_records BEGIN
           INSERT INTO deltamem_records_fts(deltamem_records_fts, rowid, agent_key, text, terms)
           VALUES ('delete', old.key, old.agent_key, old.text, old.terms);
           INSERT INTO deltamem_records_fts(rowid, agent_key, text, terms)
           VALUES (new.key, new.agent_key, new.text, new.terms); END""",
)

SQLITE_SCORES = text(  # :match includes the agent
    """SELECT rowid, -bm25(deltamem_records_fts, 0.0, 1.0, 1.0) AS score
       FROM deltamem_records_fts WHERE deltamem_records_fts MATCH :match ORDER BY score DESC, rowid DESC LIMIT :limit"""
)

SQLITE_NARROWED = text(
    """SELECT f.rowid, -bm25(deltamem_records_fts, 0.0, 1.0, 1.0) AS score
       FROM deltamem_records_fts AS f
       JOIN deltamem_records AS r ON r.key = f.rowid
       JOIN deltamem_messages AS m ON m.agent_key = r.agent_key AND m.position = r.position
       WHERE deltamem_records_fts MATCH :match AND (:session IS NULL OR m.session = :session)
         AND (:since IS NULL OR m.created_at >= :since) AND (:until IS NULL OR m.created_at < :until)
       ORDER BY score DESC, f.rowid DESC LIMIT :limit"""
).bindparams(bindparam("since", type_=UtcDateTime), bindparam("until", type_=UtcDateTime))


class Fts5:
    """BM25 by FTS5. A search finds only records of one agent, but word rarity is counted over all agents."""

    columns = ()

    def create(self, connection: Connection) -> None:
        """See `FullText.create`."""
        for statement in SQLITE_TABLES:
            connection.exec_driver_sql(statement)

    def terms(self, text: str) -> str | None:
        """See `FullText.terms`."""
        if text.isascii():
            return None
        form = search_form(text)
        known = {_indexed(word) for word in words_of(text)}
        others = " ".join(word for word in words_of(folded(UNSPACED.sub(" ", form))) if word not in known)
        return " \n".join(part for part in (spelled_out(form), others) if part) or None

    def not_ascii(self, column: ColumnElement[str]) -> ColumnElement[bool]:
        """See `FullText.not_ascii`."""
        return func.length(cast(column, LargeBinary)) != func.length(column)

    def scores(
        self, connection: Connection, agent_key: int, terms: Sequence[str], limit: int, within: Within
    ) -> Sequence[tuple[int, float]]:
        """See `FullText.scores`."""
        match = match_expression(agent_key, terms)
        if match is None:
            return []
        values = {"match": match, "limit": limit}
        if not within:
            return plain_rows(connection.execute(SQLITE_SCORES, values))
        values |= {"session": within.session, "since": within.since, "until": within.until}
        return plain_rows(connection.execute(SQLITE_NARROWED, values))


def index_exists(driver: sqlite3.Connection) -> bool:
    """Whether the database has our full-text index."""
    return driver.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (INDEX,)).fetchone() is not None


def is_about_index(found: str) -> bool:
    """Whether a finding of ``PRAGMA quick_check``, which checks FTS5 indexes since SQLite 3.44, is about our index."""
    return found.startswith("fts5:") or INDEX in found


def problems(driver: sqlite3.Connection) -> list[str]:
    """Describe what is wrong with the index: parts missing, different from the records, or impossible to open."""
    made = {name: sql for name, sql in driver.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL")}
    named = (INDEX, *TRIGGERS)
    missing = [name for name in named if name not in made]
    if missing:
        return [f"the full-text index lacks {', '.join(missing)}: {REMEDY}"]
    found = [
        f"the trigger {name} is not the one that keeps the full-text index in step: {REMEDY}"
        for name in TRIGGERS
        if _plain(made[name]) != _plain(SQLITE_TABLES[1 + TRIGGERS.index(name)])
    ]
    try:
        driver.execute(f"SELECT rowid FROM {INDEX} WHERE {INDEX} MATCH 'a' LIMIT 1").fetchall()
        driver.execute(f"INSERT INTO {INDEX}({INDEX}, rank) VALUES ('integrity-check', 1)")
    except sqlite3.Error as error:
        driver.rollback()  # otherwise newer releases of SQLite fail again at the end of the transaction
        if "locked" in str(error):
            found.append(f"the full-text index could not be checked ({error}): try again when nobody is writing")
        elif "readonly" not in str(error):
            found.append(f"the full-text index is broken ({error}): {REMEDY}")
    high = levels(driver, INDEX)
    if high is not None and len(high) > MOST_LEVELS and not found:
        found.append(f"the full-text index has {len(high)} levels; with 2,000 it can no longer be opened: {REMEDY}")
    return found


def rebuild(driver: sqlite3.Connection) -> None:
    """Rebuild the index from the records in one transaction, whatever state it is in.

    An index that cannot be opened cannot be dropped either. So its entry in the schema is deleted first, which turns
    its data tables into ordinary tables that can be dropped.

    Raises:
        sqlite3.Error: The database cannot be written; nothing was changed.
    """
    driver.execute("BEGIN IMMEDIATE")
    try:
        driver.execute("PRAGMA writable_schema = ON")
        driver.execute("DELETE FROM sqlite_master WHERE name = ? AND sql LIKE 'CREATE VIRTUAL TABLE%'", (INDEX,))
        driver.execute("PRAGMA writable_schema = RESET")
        for trigger in TRIGGERS:
            driver.execute(f"DROP TRIGGER IF EXISTS {trigger}")
        for table in ("data", "idx", "docsize", "config", "content"):
            driver.execute(f"DROP TABLE IF EXISTS {INDEX}_{table}")
        for statement in SQLITE_TABLES:
            driver.execute(statement)
        driver.execute(f"INSERT INTO {INDEX}({INDEX}) VALUES ('rebuild')")
        driver.execute("COMMIT")
    finally:
        if driver.in_transaction:
            driver.execute("ROLLBACK")
        driver.execute("PRAGMA writable_schema = OFF")


def _plain(sql: str) -> str:
    return "".join(sql.replace("IF NOT EXISTS", "").split())


def match_expression(agent_key: int, terms: Sequence[str]) -> str | None:
    """An FTS5 query for one agent's records with any of the terms, which are quoted so that they are never syntax.

    >>> match_expression(7, ["indent", "住在"])
    'agent_key : "7" AND ({text terms} : "indent" OR {terms} : "住 在")'
    """
    phrases: dict[str, None] = {}
    for given in terms:
        term = search_form(given, both=False)
        for run in UNSPACED.findall(term):
            pairs = [run[i : i + 2] for i in range(len(run) - 1)] or [run]
            phrases.update((f"{{terms}} : {_quoted(' '.join(pair))}", None) for pair in pairs)
        spaced = folded(UNSPACED.sub(" ", term)).strip()
        if any(character.isalnum() for character in spaced):
            phrases[f"{{text terms}} : {_quoted(spaced)}"] = None
    return f'agent_key : "{agent_key}" AND ({" OR ".join(phrases)})' if phrases else None


def _indexed(word: str) -> str:
    """A word as FTS5 indexes it before stemming; only Latin letters lose their accents."""
    plain = "".join(each for each in normalized("NFD", word) if not "\u0300" <= each <= "\u036f")
    return (plain if plain.isascii() else word).lower()


def _quoted(phrase: str) -> str:
    return '"' + phrase.replace("\0", " ").replace('"', '""') + '"'
