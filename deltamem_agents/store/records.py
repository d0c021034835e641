"""Reads and writes records and their embeddings. Knows nothing of how text is cut, embedded or ranked."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from sqlalchemy import (
    BigInteger,
    BindParameter,
    ColumnElement,
    Connection,
    Select,
    bindparam,
    delete,
    exists,
    func,
    insert,
    select,
)
from sqlalchemy.orm import InstrumentedAttribute

from deltamem_agents.errors import ConfigError
from deltamem_agents.messages import ID_LIMIT
from deltamem_agents.store.columns import DamagedValue
from deltamem_agents.store.dialects import FullText, Pgvector, Within, insert_missing, rows_each
from deltamem_agents.store.schema import AgentRow, EmbeddingRow, MessageRow, RecordRow, chunked

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Query = TypeVar("Query", bound="Select[*tuple[Any, ...]]")
Splitter = Callable[[str], Sequence[str]]

# Built once: building a statement takes longer than running it.
_ADD = insert(RecordRow)
_COLUMNS = (  # in the order of the fields of `StoredRecord`
    RecordRow.key,
    RecordRow.text,
    MessageRow.id,
    RecordRow.position,
    RecordRow.chunk,
    MessageRow.session,
    MessageRow.role,
    MessageRow.details,
    MessageRow.created_at,
)
_KEY = select(AgentRow.key).where(AgentRow.id == bindparam("agent"))
_VERSION = select(AgentRow.epoch, AgentRow.cuts, AgentRow.head).where(AgentRow.id == bindparam("agent"))


@dataclass(frozen=True, slots=True)
class Piece:
    """The text of a record, and the terms that find it besides its own words."""

    text: str
    terms: str | None


@dataclass(frozen=True, slots=True)
class Words:
    """Turns a message's text into records: cuts it into pieces and computes each piece's search terms.

    Args:
        split: Cuts a text into the texts of its records.
        fulltext: Computes the terms of a piece.
        ready: Pieces of texts that are already cut.
    """

    split: Splitter
    fulltext: FullText
    ready: Mapping[str, Sequence[Piece]] = field(default_factory=dict, repr=False)

    @property
    def rule(self) -> int:
        """The splitter's attribute ``rule``, a number that differs between cutting rules; 0 if it has none."""
        return int(getattr(self.split, "rule", 0))

    def pieces(self, text: str) -> Sequence[Piece]:
        """The pieces of a message's text, in order."""
        known = self.ready.get(text)
        return [Piece(each, self.fulltext.terms(each)) for each in self.split(text)] if known is None else known

    def ahead(self, texts: Iterable[str]) -> Words:
        """A copy with these texts already cut, so that no transaction waits for the cutting."""
        return replace(self, ready={text: self.pieces(text) for text in texts})


@dataclass(frozen=True, slots=True)
class StoredRecord:
    """A piece of a live message, with the message's details; ``chunk`` counts pieces from 0."""

    key: int
    text: str
    message_id: str
    position: int
    chunk: int
    session: str
    role: str
    details: dict[str, Any] | None
    created_at: datetime

    @property
    def metadata(self) -> dict[str, Any]:
        """The message's metadata."""
        return self.details or {}


def add(connection: Connection, words: Words, agent_key: int, messages: Sequence[tuple[int, str]]) -> None:
    """Store the records of live messages, given as position and text."""
    rows = [
        {
            "agent_key": agent_key,
            "position": position,
            "chunk": chunk,
            "text": piece.text,
            "terms": piece.terms,
            "cut": words.rule,
        }
        for position, text in messages
        for chunk, piece in enumerate(words.pieces(text))
    ]
    if rows:
        connection.execute(_ADD, rows)


def delete_of(connection: Connection, agent_key: int, positions: Collection[int]) -> None:
    """Delete the records of messages and their embeddings."""
    for chunk in chunked(sorted(positions)):
        these = (RecordRow.agent_key == agent_key) & RecordRow.position.in_(chunk)
        # Explicit, because a caller's engine may have foreign keys switched off.
        keys = select(RecordRow.key).where(these)
        connection.execute(delete(EmbeddingRow).where(EmbeddingRow.record_key.in_(keys)))
        connection.execute(delete(RecordRow).where(these))


def found(
    connection: Connection, fulltext: FullText, agent: str, terms: Sequence[str], limit: int, session: str | None
) -> list[tuple[StoredRecord, float]]:
    """Records that contain any of the terms, with their scores, best first; of equal scores the newer record first."""
    of = dict(scores(connection, fulltext, agent, terms, limit, Within(session)))
    hits = [(record, of[record.key]) for record in read(connection, agent, list(of))]
    return sorted(hits, key=lambda hit: (-hit[1], -hit[0].position, hit[0].chunk))


def scores(
    connection: Connection, fulltext: FullText, agent: str, terms: Sequence[str], limit: int, within: Within
) -> Sequence[tuple[int, float]]:
    """Keys and scores of records that contain any of the terms, in no order."""
    key = _key(connection, agent)
    return [] if key is None or limit <= 0 else fulltext.scores(connection, key, terms, limit, within)


def version(connection: Connection, agent: str) -> tuple[int, int] | None:
    """The agent's epoch, with how often its records were cut again, and its head; see `MessageLookup.version`."""
    row = connection.execute(_VERSION, {"agent": agent}).first()
    return None if row is None else (row[0] + ((row[1] or 0) << 64), row[2])


def _key(connection: Connection, agent: str) -> int | None:
    return connection.scalar(_KEY, {"agent": agent})


def read(
    connection: Connection,
    agent: str,
    keys: Sequence[int] | None = None,
    session: str | None = None,
    after: int = 0,
) -> list[StoredRecord]:
    """An agent's records after a position, in journal order; only those with ``keys``, if given."""
    query = _reading(session is not None, keys is not None)
    values = {"agent": agent, "after": after} | ({} if session is None else {"session": session})
    if keys is None:
        return [StoredRecord(*row) for row in connection.execute(query, values)]
    found = [StoredRecord(*row) for row in rows_each(connection, query, RecordRow.key, keys, values)]
    return sorted(found, key=lambda record: (record.position, record.chunk))


@cache
def _reading(of_session: bool, by_key: bool) -> Select[Any]:
    """A query for records with the parameters ``agent``, ``after`` and, if ``of_session``, ``session``.

    In order, unless ``by_key``: an ORDER BY, or a condition on the agent without ``+ 0``, would make SQLite read all
    records of the agent.
    """
    query = select(*_COLUMNS)
    owner = RecordRow.agent_key + 0 if by_key else RecordRow.agent_key
    query = _joined(query, owner).where(AgentRow.id == bindparam("agent"), RecordRow.position > bindparam("after"))
    if of_session:
        query = query.where(MessageRow.session == bindparam("session"))
    return query if by_key else query.order_by(RecordRow.position, RecordRow.chunk)


def without_embedding(
    connection: Connection,
    agent: str,
    model: str,
    limit: int,
    after: int,
    keys: Sequence[int] | None = None,
    newest: bool = False,
) -> list[tuple[int, str]]:
    """Key and text of records after a position that have no embedding under a model, in order.

    Args:
        keys: Only records with these keys.
        newest: Whether the limit keeps the newest records rather than the oldest.
    """
    values = {"agent": agent, "model": model, "after": after, "limit": limit}
    if keys is None:
        rows = [*connection.execute(_missing("newest" if newest else "oldest"), values)]
        return [(row[0], row[1]) for row in (rows[::-1] if newest else rows)]
    del values["limit"]
    found = (connection.execute(_missing("by key"), values | {"keys": list(chunk)}) for chunk in chunked(keys))
    rows = sorted((row for each in found for row in each), key=lambda row: (row[2], row[3]))
    return [(row[0], row[1]) for row in (rows[max(len(rows) - limit, 0) :] if newest else rows[:limit])]


@cache
def _missing(which: Literal["oldest", "newest", "by key"]) -> Select[int, str, int, int]:
    """A query for records after ``after`` without an embedding under ``model``: the first, the last, or by ``keys``."""
    has_one = exists().where(EmbeddingRow.record_key == RecordRow.key, EmbeddingRow.model == bindparam("model"))
    query = select(RecordRow.key, RecordRow.text, RecordRow.position, RecordRow.chunk)
    owner = RecordRow.agent_key + 0 if which == "by key" else RecordRow.agent_key  # as in `_reading`
    query = _joined(query, owner).where(AgentRow.id == bindparam("agent"), ~has_one)
    query = query.where(RecordRow.position > bindparam("after"))
    if which == "by key":
        return query.where(RecordRow.key.in_(bindparam("keys", expanding=True)))
    order = (RecordRow.position, RecordRow.chunk)
    ordered = query.order_by(*(each.desc() for each in order)) if which == "newest" else query.order_by(*order)
    return ordered.limit(bindparam("limit", type_=BigInteger))


def put_embeddings(
    connection: Connection,
    agent: str,
    model: str,
    keys: Sequence[int],
    vectors: NDArray[np.float32],
    index: Pgvector | None = None,
) -> int:
    """Store ``vectors`` [len(keys), dim], one row per record, skipping records that are gone or already have one.

    Args:
        index: Gets the vectors too, if it has a set for the agent; not needed for an agent that is being created.

    Returns:
        The number stored.

    Raises:
        ConfigError: The shape does not match the keys or the dimension stored under this model's name, a number is not
            finite, or the name is empty or longer than 255 characters.
    """
    if vectors.ndim != 2 or len(keys) != len(vectors) or not vectors.shape[1]:
        raise ConfigError(f"embeddings of shape {vectors.shape} for {len(keys)} records; give one row per record")
    if not model or len(model) > ID_LIMIT:
        raise ConfigError(f"an embedding model's name has 1 to {ID_LIMIT} characters, {model[:40]!r} has {len(model)}")
    import numpy as np

    if not np.isfinite(vectors).all():
        raise ConfigError("an embedding holds NaN or infinity; give an embedder that returns finite numbers")
    if index is not None:
        index.hold(connection)
    dim = int(vectors.shape[1])
    stored = connection.scalar(_STORED_DIM, {"agent": agent, "model": model})
    if stored not in (None, dim):
        raise ConfigError(
            f"embeddings of agent {agent!r} under model {model!r} have dimension {stored}, these have {dim}; "
            "give the other embedder another name"
        )
    present: set[int] = set()
    for chunk in chunked(keys):
        given = {"agent": agent, "model": model, "keys": list(chunk)}
        present.update(connection.scalars(_HELD, given))
        present.difference_update(connection.scalars(_WITH_ONE, given))
    little_endian = vectors.astype("<f4", copy=False)
    rows = [
        {"record_key": key, "model": model, "dim": dim, "vector": vector.tobytes()}
        for key, vector in zip(keys, little_endian, strict=True)
        if key in present
    ]
    if rows:
        connection.execute(insert_missing(connection, EmbeddingRow), rows)  # another process may be storing them too
        owner = _key(connection, agent) if index is not None else None
        if index is not None and owner is not None:
            added = [place for place, key in enumerate(keys) if key in present]
            index.put(connection, owner, model, [keys[place] for place in added], vectors[added])
    return len(rows)


def embeddings(connection: Connection, agent: str, model: str, after: int = 0) -> tuple[list[int], NDArray[np.float32]]:
    """Keys [N] and embeddings [N, dim] under a model of the records after a position, in journal order.

    Raises:
        DamagedValue: The stored vectors differ in dimension, or a number is not finite.
    """
    import numpy as np

    values = {"agent": agent, "model": model} | ({"after": after} if after else {})
    rows = connection.execute(_VECTORS_AFTER if after else _VECTORS, values).all()
    if not rows:
        return [], np.zeros((0, 0), np.float32)
    dim = rows[0].dim
    if any(len(row.vector) != 4 * dim for row in rows):
        raise DamagedValue(
            f"embeddings of agent {agent!r} under model {model!r} differ in dimension; give each embedder its own name"
        )
    flat = np.frombuffer(b"".join(row.vector for row in rows), dtype="<f4")
    if not np.isfinite(flat).all():
        raise DamagedValue("an embedding holds values that are not finite")
    return [row.key for row in rows], flat.astype(np.float32, copy=False).reshape(len(rows), dim)


def embedding_models(connection: Connection, agent: str) -> dict[str, int]:
    """Number of an agent's embeddings by model."""
    counted = _scoped(select(EmbeddingRow.model, func.count()), agent)
    counted = counted.join(EmbeddingRow, EmbeddingRow.record_key == RecordRow.key).group_by(EmbeddingRow.model)
    return {row[0]: row[1] for row in connection.execute(counted.order_by(EmbeddingRow.model))}


def drop_embeddings(connection: Connection, index: Pgvector | None, agent: str, keep: str) -> int:
    """Delete an agent's embeddings under all models but one; returns the number deleted."""
    key = _key(connection, agent)
    others = (EmbeddingRow.model != keep) & EmbeddingRow.record_key.in_(
        select(RecordRow.key).where(RecordRow.agent_key == key)
    )
    dropped = connection.execute(delete(EmbeddingRow).where(others).execution_options(preserve_rowcount=True))
    count = int(dropped.rowcount)
    if index is not None and key is not None:
        index.drop(connection, key, keep)
    return count


def _scoped(query: Query, agent: str | ColumnElement[str]) -> Query:
    """``query`` over records, joined with their messages and restricted to one agent."""
    return _joined(query).where(AgentRow.id == agent)


def _joined(query: Query, owner: ColumnElement[int] | InstrumentedAttribute[int] = RecordRow.agent_key) -> Query:
    return (
        query.select_from(RecordRow)
        .join(AgentRow, AgentRow.key == owner)
        .join(MessageRow, (MessageRow.agent_key == RecordRow.agent_key) & (MessageRow.position == RecordRow.position))
    )


def _embedded(query: Query, agent: str | ColumnElement[str], model: str | ColumnElement[str]) -> Query:
    """Like `_scoped`, restricted to records that have an embedding under a model."""
    return _scoped(query, agent).join(
        EmbeddingRow, (EmbeddingRow.record_key == RecordRow.key) & (EmbeddingRow.model == model)
    )


_KEYS: BindParameter[Any] = bindparam("keys", expanding=True)
_STORED_DIM = _embedded(select(EmbeddingRow.dim), bindparam("agent"), bindparam("model")).limit(1)
_HELD = (  # locked until the transaction ends, so that no record is deleted before its embedding refers to it
    _scoped(select(RecordRow.key), bindparam("agent"))
    .where(RecordRow.key.in_(_KEYS))
    .with_for_update(read=True, key_share=True, of=RecordRow)
)
_WITH_ONE = select(EmbeddingRow.record_key).where(
    EmbeddingRow.model == bindparam("model"), EmbeddingRow.record_key.in_(_KEYS)
)
_VECTORS = _embedded(
    select(RecordRow.key, EmbeddingRow.vector, EmbeddingRow.dim), bindparam("agent"), bindparam("model")
).order_by(RecordRow.position, RecordRow.chunk)
_VECTORS_AFTER = _VECTORS.where(RecordRow.position > bindparam("after"))
