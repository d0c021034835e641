"""Erases messages and everything derived from them. Works on an open connection.

The journal is then that of an agent that never saw the messages. A message that an erased one had superseded is live
again, because nothing supersedes it now.
"""

from __future__ import annotations

import hmac
import json
import secrets
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

from sqlalchemy import Connection, delete, func, insert, select

from deltamem_agents import arguments
from deltamem_agents.errors import ConfigError, shown
from deltamem_agents.messages import MessageRef
from deltamem_agents.store import records, timeline, tombstones
from deltamem_agents.store.journal import Agent, agent_row
from deltamem_agents.store.schema import (
    AgentRow,
    EmbeddingRow,
    MessageRow,
    PurgeRow,
    RecordRow,
    RevisionRow,
    RollbackRow,
    TombstoneRow,
    chunked,
)

NAMED = 5  # sessions that an error names at most


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Selects the messages that match every given filter.

    Args:
        ids: Message ids, or pairs of session and id; all versions of a message match. A plain id must belong to one
            session, unless ``session`` names it.
        session: Only messages of this session.
        since: Only messages written at or after this time.
        until: Only messages written before this time.
        whole: All messages of the agent, and the agent itself.
    """

    ids: Collection[str | tuple[str, str]] | None = None
    session: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    whole: bool = False

    @property
    def empty(self) -> bool:
        """Whether no filter was given."""
        return not self.whole and self.ids is None and self.session is None and not (self.since or self.until)


@dataclass(frozen=True, slots=True, kw_only=True)
class Erased:
    """What was erased, or would be, from one agent.

    Args:
        ids: Sessions and ids of the messages, in journal order.
        hashes: An HMAC-SHA256 of each message under a key that is discarded afterwards: enough to tell erased messages
            apart, useless for testing guesses.
        messages, records, embeddings, revisions: Numbers of rows.
        tombstones: Number of tombstones removed that earlier erasures had left.
    """

    agent: str
    ids: tuple[MessageRef, ...] = ()
    hashes: tuple[str, ...] = ()
    messages: int = 0
    records: int = 0
    embeddings: int = 0
    revisions: int = 0
    tombstones: int = 0

    def as_dict(self) -> dict[str, Any]:
        """The fields as a mapping for JSON."""
        return asdict(self) | {"ids": [each.as_dict() for each in self.ids], "hashes": list(self.hashes)}


@dataclass(slots=True)
class Plan:
    """One erasure: what is erased from the named agent and from its forks, which share messages with it."""

    erased: list[Erased] = field(default_factory=list)
    held_by: dict[str, list[MessageRef]] = field(default_factory=dict)  # other agent -> messages that it still holds
    remaining: dict[str, list[MessageRef]] = field(default_factory=dict)  # agent -> messages with a tombstone in it


def erase(
    connection: Connection,
    words: records.Words,
    agent: str,
    chosen: Selection,
    *,
    forks: bool,
    dry: bool,
    tombstone: bool,
) -> Plan:
    """Erase the selected messages, or only report them; see `Store.erase`. The caller has begun a write.

    Raises:
        ConfigError: A plain id belongs to messages in several sessions.
        UnknownAgentError: No such agent.
    """
    found = timeline.required(connection, agent, lock=not dry)
    key = secrets.token_bytes(32)
    rows = _chosen(connection, found, chosen)
    plan = Plan()

    def of(name: str, agent_found: Agent, gone: Sequence[Any], *, whole: bool = False) -> None:
        stays = tombstone and not whole
        erased = _erase(connection, words, name, agent_found, gone, key, whole=whole, dry=dry, tombstone=stays)
        if not tombstone and not whole:
            erased = replace(erased, tombstones=_forget_tombstones(connection, agent_found, chosen, dry=dry))
        if name == agent or erased.messages or erased.tombstones:
            plan.erased.append(erased)
        if stays and gone:
            plan.remaining[name] = list(erased.ids)

    of(agent, found, rows, whole=chosen.whole)
    for other in _relatives(connection, found, agent):
        relative = agent_row(connection, other, lock=forks and not dry)
        shared = _shared(connection, relative, rows) if relative else []
        if relative is not None and forks:
            of(other, relative, shared)
        elif shared:
            plan.held_by[other] = _refs(shared)
    if not dry and any(each.messages or each.tombstones for each in plan.erased):
        connection.execute(insert(PurgeRow).values(requested_at=datetime.now(UTC)))
    return plan


def pending(connection: Connection) -> list[int]:
    """Keys of erasures whose bytes may still be in the database's files."""
    return list(connection.scalars(select(PurgeRow.key)))


def finished(connection: Connection, purged: Sequence[int]) -> None:
    """Mark erasures as purged from the files."""
    for chunk in chunked(purged):
        connection.execute(delete(PurgeRow).where(PurgeRow.key.in_(chunk)))


def _chosen(connection: Connection, agent: Agent, chosen: Selection) -> list[Any]:
    columns = (
        MessageRow.position,
        MessageRow.session,
        MessageRow.id,
        MessageRow.role,
        MessageRow.text,
        MessageRow.blocks,
    )
    query = select(*columns).where(MessageRow.agent_key == agent.key).order_by(MessageRow.position)
    if chosen.session is not None:
        query = query.where(MessageRow.session == chosen.session)
    if chosen.since is not None:
        query = query.where(MessageRow.created_at >= chosen.since)
    if chosen.until is not None:
        query = query.where(MessageRow.created_at < chosen.until)
    if chosen.ids is None:
        return list(connection.execute(query))
    positions = _named(connection, agent, chosen.ids, chosen.session)
    return [
        row for chunk in chunked(positions) for row in connection.execute(query.where(MessageRow.position.in_(chunk)))
    ]


def _named(
    connection: Connection, agent: Agent, ids: Iterable[str | tuple[str, str]], session: str | None
) -> list[int]:
    """Positions of all versions of the messages with these ids, in order.

    Raises:
        ConfigError: A plain id belongs to messages in several sessions.
    """
    alone, wanted = set[str](), set[tuple[str, str]]()
    for each in ids:
        if isinstance(each, str):
            alone.add(each)
        elif session in (None, each[0]):
            wanted.add((each[0], each[1]))
    sessions: dict[str, set[str]] = {}
    for chunk in chunked(sorted(alone)):
        for live in (MessageRow.left_at.is_(None), MessageRow.left_at.is_not(None)):  # each has its own index
            query = select(MessageRow.session, MessageRow.id).where(MessageRow.agent_key == agent.key, live)
            if session is not None:
                query = query.where(MessageRow.session == session)
            for where, name in connection.execute(query.where(MessageRow.id.in_(chunk)).distinct()):
                sessions.setdefault(name, set()).add(where)
    for name, found in sorted(sessions.items()):
        if len(found) > 1:
            raise ConfigError(_ambiguous(name, sorted(found)))
        wanted |= {(where, name) for where in found}
    versions = timeline.versions_of(connection, agent, [(0, *each) for each in wanted])
    return [position for position, *pair in versions if (*pair,) in wanted]


def _ambiguous(name: str, sessions: Sequence[str]) -> str:
    """The error for an id that several sessions have."""
    shown = ", ".join(map(repr, sessions[:NAMED]))
    more = f" and {len(sessions) - NAMED} more" if len(sessions) > NAMED else ""
    return (
        f"message id {name!r} is in {len(sessions)} sessions: {shown}{more}; nothing was erased: name the session with "
        f"session= (--session), or give pairs of session and id, such as ({sessions[0]!r}, {name!r})"
    )


def _refs(rows: Iterable[Any]) -> list[MessageRef]:
    return list(dict.fromkeys(MessageRef(row.session, row.id) for row in rows))


def _erase(
    connection: Connection,
    words: records.Words,
    agent: str,
    found: Agent,
    rows: Sequence[Any],
    key: bytes,
    *,
    whole: bool,
    dry: bool,
    tombstone: bool,
) -> Erased:
    positions = [row.position for row in rows]
    erased_versions = [(row.position, row.session, row.id) for row in rows]
    versions = [] if whole else timeline.versions_of(connection, found, erased_versions)
    restored = timeline.restored(connection, found, versions, set(positions)) if versions else []
    first = 0 if whole else min([*positions, *restored], default=None)
    erased = Erased(
        agent=agent,
        ids=tuple(_refs(rows)),
        hashes=tuple(keyed_hash(key, [row.session, row.id, row.role, row.text, row.blocks]) for row in rows),
        messages=len(rows),
        **_counts(connection, found.key, positions, first),
    )
    if dry or first is None:
        return erased
    if tombstone:
        tombstones.leave(connection, found.key, rows, versions)
    records.delete_of(connection, found.key, positions)
    for chunk in chunked(positions):
        these = MessageRow.position.in_(chunk)
        connection.execute(delete(MessageRow).where(MessageRow.agent_key == found.key, these))
    if whole:
        for table in (RevisionRow, RollbackRow, TombstoneRow):
            connection.execute(delete(table).where(table.agent_key == found.key))
        connection.execute(delete(AgentRow).where(AgentRow.key == found.key))
    else:
        timeline.settle(connection, words, found, restored, since=first)
    return erased


def _forget_tombstones(connection: Connection, found: Agent, chosen: Selection, *, dry: bool) -> int:
    """Remove tombstones of the selected messages; returns their number, 0 for a selection by time.

    Tombstones do not store times.
    """
    if chosen.since is not None or chosen.until is not None:
        return 0
    keys = tombstones.earlier(connection, found.key, chosen.ids, chosen.session)
    if not dry:
        tombstones.remove(connection, keys)
    return len(keys)


def _counts(connection: Connection, key: int, positions: Sequence[int], first: int | None) -> dict[str, int]:
    """Count the rows deleted with messages: their records and embeddings, and the states from ``first`` on."""
    counts = {"records": 0, "embeddings": 0}
    for chunk in chunked(positions):
        these = (RecordRow.agent_key == key) & RecordRow.position.in_(chunk)
        counts["records"] += connection.scalar(select(func.count()).where(these)) or 0
        of_these = EmbeddingRow.record_key.in_(select(RecordRow.key).where(these))
        counts["embeddings"] += connection.scalar(select(func.count()).where(of_these)) or 0
    if first is None:
        return counts | {"revisions": 0}
    known = (RevisionRow.agent_key == key) & (RevisionRow.position >= first)
    return counts | {"revisions": connection.scalar(select(func.count()).where(known)) or 0}


def _relatives(connection: Connection, found: Agent, agent: str) -> list[str]:
    """All other agents of this one's family of forks."""
    root = found.origin or found.key
    family = (AgentRow.key == root) | (AgentRow.origin == root)
    return list(connection.scalars(select(AgentRow.id).where(family, AgentRow.id != agent).order_by(AgentRow.key)))


def _shared(connection: Connection, relative: Agent, rows: Sequence[Any]) -> list[Any]:
    """Messages of another agent with the same session, id, role and content as these."""
    said = set(map(_identity, rows))
    theirs = _chosen(connection, relative, Selection(ids=_refs(rows)))
    return [row for row in theirs if _identity(row) in said]


def _identity(row: Any) -> tuple[str, ...]:
    return row.session, row.id, row.role, row.text, json.dumps(row.blocks, sort_keys=True)


def keyed_hash(key: bytes, value: Any) -> str:
    """HMAC-SHA256 of a JSON value, in hexadecimal."""
    return hmac.new(key, json.dumps(value, sort_keys=True).encode(), sha256).hexdigest()


def check_selection(chosen: Selection) -> None:
    """Check a selection.

    Raises:
        ConfigError: No filter was given, or a filter is not valid.
    """
    arguments.moments(chosen.since, chosen.until, ordered=True)
    if chosen.empty:
        raise ConfigError(
            "no filter was given; pass ids, session, since or until, or delete the whole agent with delete()"
        )
    named = () if chosen.ids is None else chosen.ids
    one = isinstance(named, (str, bytes, MessageRef)) or not isinstance(named, Collection)
    if one or not all(map(_names_a_message, named)):
        raise ConfigError(f"ids are {shown(chosen.ids)}; give a list of message ids, or of pairs of session and id")
    if chosen.session is not None and not isinstance(chosen.session, str):
        raise ConfigError(f"session is {shown(chosen.session)}; give a session's id")
    for each in named:
        arguments.texts(each if isinstance(each, tuple) else [each], "ids")
    if chosen.session is not None:
        arguments.text(chosen.session, "session")


def _names_a_message(value: object) -> bool:
    pair = isinstance(value, tuple) and len(value) == 2 and all(isinstance(part, str) for part in value)
    return pair or isinstance(value, str)
