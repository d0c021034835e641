"""Cuts stored messages into records again by the present rule, and renews their search terms.

Works in short transactions between those of others. Finished rows are marked, so an interrupted run continues where it
stopped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, bindparam, func, or_, select, update

from deltamem_agents.store import journal, records
from deltamem_agents.store.database import Database
from deltamem_agents.store.dialects import FullText
from deltamem_agents.store.records import Words
from deltamem_agents.store.schema import AgentRow, MessageRow, RecordRow

TOGETHER = 256  # messages, or records, in one transaction


@dataclass(frozen=True, slots=True, kw_only=True)
class Recut:
    """One batch of `cut_again`; messages up to ``position`` are now cut by the present rule.

    Args:
        changed: Number of messages whose records changed.
        kept: Number of messages whose records came out the same.
    """

    position: int
    changed: int = 0
    kept: int = 0


@dataclass(frozen=True, slots=True)
class _Found:
    """A record as it is stored."""

    key: int
    text: str
    terms: str | None


def cut_again(database: Database, words: Words, agent: str, after: int) -> Recut | None:
    """See `RecordIndex.cut_again`."""
    rule = words.rule
    texts = database.read(lambda connection: _others(connection, agent, rule, after))
    if not texts:
        return None
    ready = words.ahead(texts.values())  # before the transaction, so that it does not wait for the cutting
    changed = database.write(lambda connection: _cut(connection, ready, agent, list(texts)))
    return Recut(position=max(texts), changed=changed, kept=len(texts) - changed)


def renew_terms(database: Database) -> None:
    """Give records from before version 0007 their present search terms; if all have them, this is one scan.

    Only texts that are not ASCII have terms besides their own words.
    """
    fulltext, after = database.dialect.fulltext, 0
    while True:
        last = database.write(lambda connection, after=after: _renew(connection, fulltext, after))  # type: ignore[misc]
        if last is None:
            return
        after = last


def _others(connection: Connection, agent: str, rule: int, after: int) -> Mapping[int, str]:
    """Texts by position of the next messages whose records were cut by another rule."""
    positions = (
        select(RecordRow.position)
        .distinct()
        .join(AgentRow, AgentRow.key == RecordRow.agent_key)
        .where(AgentRow.id == agent, RecordRow.position > after, or_(RecordRow.cut.is_(None), RecordRow.cut != rule))
        .order_by(RecordRow.position)
        .limit(TOGETHER)
    )
    found = list(connection.scalars(positions))
    texts = (
        select(MessageRow.position, MessageRow.text)
        .join(AgentRow, AgentRow.key == MessageRow.agent_key)
        .where(AgentRow.id == agent, MessageRow.position.in_(found))
    )
    return {row[0]: row[1] for row in connection.execute(texts)}


def _cut(connection: Connection, words: Words, agent: str, positions: Sequence[int]) -> int:
    """Cut the messages that are still live; returns how many changed."""
    found = journal.agent_row(connection, agent, lock=True)
    if found is None:
        return 0
    this = (RecordRow.agent_key == found.key) & RecordRow.position.in_(positions)
    said = select(MessageRow.position, MessageRow.text).where(
        MessageRow.agent_key == found.key, MessageRow.position.in_(positions), MessageRow.left_at.is_(None)
    )
    texts = {row[0]: row[1] for row in connection.execute(said)}
    stored: dict[int, list[_Found]] = {position: [] for position in texts}
    rows = select(RecordRow.position, RecordRow.key, RecordRow.text, RecordRow.terms).where(this)
    for position, key, text, indexed in connection.execute(rows.order_by(RecordRow.position, RecordRow.chunk)):
        if position in stored:
            stored[position].append(_Found(key, text, indexed))
    again: list[tuple[int, str]] = []
    terms: dict[int, str | None] = {}
    for position, text in texts.items():
        pieces = words.pieces(text)
        if [piece.text for piece in pieces] != [record.text for record in stored[position]]:
            again.append((position, text))
            continue
        both = zip(stored[position], pieces, strict=True)
        terms |= {record.key: piece.terms for record, piece in both if record.terms != piece.terms}
    _set_terms(connection, terms)
    if again:
        records.delete_of(connection, found.key, [position for position, _ in again])
        records.add(connection, words, found.key, again)
        counted = update(AgentRow).where(AgentRow.key == found.key).values(cuts=func.coalesce(AgentRow.cuts, 0) + 1)
        connection.execute(counted)
    connection.execute(update(RecordRow).where(this).values(cut=words.rule))
    return len(again)


def _renew(connection: Connection, fulltext: FullText, after: int) -> int | None:
    """Renew the terms of the next records after a key; returns the last one's key, or None if there are none."""
    text = RecordRow.text.expression
    waiting = (
        select(RecordRow.key, RecordRow.text, RecordRow.terms)
        .where(RecordRow.key > after, RecordRow.cut.is_(None), fulltext.not_ascii(text))
        .order_by(RecordRow.key)
        .limit(TOGETHER)
    )
    found = [_Found(*row) for row in connection.execute(waiting)]
    if not found:
        return None
    new = {record.key: fulltext.terms(record.text) for record in found}
    _set_terms(connection, {record.key: new[record.key] for record in found if new[record.key] != record.terms})
    connection.execute(update(RecordRow).where(RecordRow.key.in_(list(new))).values(cut=0))
    return max(new)


def _set_terms(connection: Connection, terms: Mapping[int, str | None]) -> None:
    if terms:
        one = update(RecordRow).where(RecordRow.key == bindparam("of")).values(terms=bindparam("renewed"))
        rows: list[dict[str, Any]] = [{"of": key, "renewed": each} for key, each in terms.items()]
        connection.execute(one.execution_options(synchronize_session=False), rows)
