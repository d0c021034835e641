"""The tables, as SQLAlchemy 2 typed models. Knows nothing of what a message, a state or an embedding means.

    agents ─┬─ messages ── records ── embeddings    (records also feed a full-text index, see `dialects`)
            ├─ rollbacks
            ├─ tombstones
            └─ revisions
    purges, tokens, requests

On PostgreSQL the vectors of large agents are indexed in two further tables, see `dialects.pgvector`.

Every table name begins with ``deltamem_``, so that the tables can live in a user's own database, on PostgreSQL in a
schema of their own. Besides its id, an agent has a small integer key, which the other tables and the full-text index
store. A change here needs a migration, see `migrations`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from secrets import token_bytes
from typing import Any, TypeVar

from sqlalchemy import ForeignKey, ForeignKeyConstraint, Index, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from deltamem_agents.messages import ID_LIMIT, ROLES
from deltamem_agents.store.columns import Blob, Flag, Json, Name, UtcDateTime, Whole, Words

__all__ = ["UtcDateTime", "chunked"]

SECRET_BYTES = 32
SCOPES = ("read", "write", "admin")  # of an access token; each includes those before it
LOOKUP = 500  # values in one statement; SQLite allows no more than 999 parameters in old builds

T = TypeVar("T")


def chunked(values: Sequence[T]) -> Iterator[Sequence[T]]:
    """Split values into chunks of at most `LOOKUP`."""
    return (values[start : start + LOOKUP] for start in range(0, len(values), LOOKUP))


class Base(DeclarativeBase):
    """Registry of this package's tables."""


class AgentRow(Base):
    """An agent.

    ``head`` is the last journal position ever used, so that no position is used twice. ``epoch`` starts at random, so
    that an agent that is deleted and written to again is never mistaken for its predecessor. ``origin`` is the key of
    the agent at the root of its forks, null for an agent that was not forked. ``secret`` is the HMAC key for hashes
    that leave the database; once it is deleted with the agent, those hashes reveal nothing. Up to position
    ``agent_ids_until``, a message replaced one of the same id in any session, as before version 0004; null if that
    makes no difference. ``tombstone_key`` is the HMAC key for tombstones, null until there is one; a fork inherits it.
    ``cuts`` counts how often records were cut again, null for never.
    """

    __tablename__ = "deltamem_agents"
    __table_args__ = ({"sqlite_autoincrement": True},)  # a deleted agent's key must not come back
    key: Mapped[int] = mapped_column(Whole(1, key=True), primary_key=True)
    id: Mapped[str] = mapped_column(Name(ID_LIMIT), unique=True)
    epoch: Mapped[int] = mapped_column(Whole(key=True))
    head: Mapped[int] = mapped_column(Whole())
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    origin: Mapped[int | None] = mapped_column(Whole(1, key=True, optional=True))
    secret: Mapped[bytes] = mapped_column(Blob(), default=lambda: token_bytes(SECRET_BYTES))
    agent_ids_until: Mapped[int | None] = mapped_column(Whole(optional=True))
    tombstone_key: Mapped[bytes | None] = mapped_column(Blob(optional=True))
    cuts: Mapped[int | None] = mapped_column(Whole(optional=True))


Index("deltamem_agents_origin", AgentRow.origin)


class MessageRow(Base):
    """A message of the journal.

    ``left_at`` is the position of the entry that removed it from the live journal; null while it is live. ``folded``
    says whether its text goes into the state; it never changes, since the state is a function of the live journal.
    """

    __tablename__ = "deltamem_messages"
    agent_key: Mapped[int] = mapped_column(ForeignKey("deltamem_agents.key", ondelete="CASCADE"), primary_key=True)
    position: Mapped[int] = mapped_column(Whole(1), primary_key=True, autoincrement=False)
    id: Mapped[str] = mapped_column(Name(ID_LIMIT))
    session: Mapped[str] = mapped_column(Name(ID_LIMIT))
    role: Mapped[str] = mapped_column(Name(16, ROLES))
    text: Mapped[str] = mapped_column(Words())
    blocks: Mapped[list[Any] | None] = mapped_column(Json(list))  # null where the content is `text`
    details: Mapped[dict[str, Any] | None] = mapped_column("metadata", Json(dict))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    left_at: Mapped[int | None] = mapped_column(Whole(1, optional=True))
    folded: Mapped[bool] = mapped_column(Flag())


Index(
    "deltamem_messages_live_id",
    MessageRow.agent_key,
    MessageRow.session,
    MessageRow.id,
    unique=True,
    sqlite_where=MessageRow.left_at.is_(None),
    postgresql_where=MessageRow.left_at.is_(None),
)

Index(
    "deltamem_messages_superseded_id",
    MessageRow.agent_key,
    MessageRow.session,
    MessageRow.id,
    sqlite_where=MessageRow.left_at.is_not(None),
    postgresql_where=MessageRow.left_at.is_not(None),
)


class RollbackRow(Base):
    """A rollback entry: from ``position`` on, the journal continues from its content at ``target``."""

    __tablename__ = "deltamem_rollbacks"
    agent_key: Mapped[int] = mapped_column(ForeignKey("deltamem_agents.key", ondelete="CASCADE"), primary_key=True)
    position: Mapped[int] = mapped_column(Whole(1), primary_key=True, autoincrement=False)
    target: Mapped[int] = mapped_column(Whole())
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)


class RevisionRow(Base):
    """A stored state: the fold of the live journal up to ``position``, valid in ``epoch``."""

    __tablename__ = "deltamem_revisions"
    agent_key: Mapped[int] = mapped_column(ForeignKey("deltamem_agents.key", ondelete="CASCADE"), primary_key=True)
    fingerprint: Mapped[str] = mapped_column(Name(ID_LIMIT), primary_key=True)
    position: Mapped[int] = mapped_column(Whole(1), primary_key=True, autoincrement=False)
    epoch: Mapped[int] = mapped_column(Whole(key=True))
    parent: Mapped[int] = mapped_column(Whole())
    checksum: Mapped[str] = mapped_column(Name(64))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    state: Mapped[bytes] = mapped_column(Blob())


class RecordRow(Base):
    """A retrievable piece of a live message.

    ``terms`` are words that find it in full text besides its own, see `dialects`. ``cut`` is the number of the rule
    that cut the message, 0 for a rule without a number, null before version 0007.
    """

    __tablename__ = "deltamem_records"
    __table_args__ = (
        UniqueConstraint("agent_key", "position", "chunk"),
        ForeignKeyConstraint(
            ["agent_key", "position"],
            ["deltamem_messages.agent_key", "deltamem_messages.position"],
            ondelete="CASCADE",
        ),
        # The full-text index refers to rows by key: a reused key could not be distinguished from its predecessor.
        {"sqlite_autoincrement": True},
    )
    key: Mapped[int] = mapped_column(Whole(1, key=True), primary_key=True)
    agent_key: Mapped[int] = mapped_column(Whole(1))
    position: Mapped[int] = mapped_column(Whole(1))
    chunk: Mapped[int] = mapped_column(Whole(small=True))
    text: Mapped[str] = mapped_column(Words())
    terms: Mapped[str | None] = mapped_column(Words(optional=True))
    cut: Mapped[int | None] = mapped_column(Whole(optional=True))


class EmbeddingRow(Base):
    """A record's embedding under one model: ``dim`` float32 numbers, little-endian."""

    __tablename__ = "deltamem_embeddings"
    record_key: Mapped[int] = mapped_column(ForeignKey("deltamem_records.key", ondelete="CASCADE"), primary_key=True)
    model: Mapped[str] = mapped_column(Name(ID_LIMIT), primary_key=True)
    dim: Mapped[int] = mapped_column(Whole(1, small=True))
    vector: Mapped[bytes] = mapped_column(Blob())


class TombstoneRow(Base):
    """Hashes of an erased message, see `tombstones`; ``place`` is the position of the first message with its id."""

    __tablename__ = "deltamem_tombstones"
    key: Mapped[int] = mapped_column(Whole(1, key=True), primary_key=True)
    agent_key: Mapped[int] = mapped_column(ForeignKey("deltamem_agents.key", ondelete="CASCADE"))
    place: Mapped[int] = mapped_column(Whole(1))
    session: Mapped[bytes] = mapped_column(Blob())
    message: Mapped[bytes] = mapped_column(Blob())
    said: Mapped[bytes] = mapped_column(Blob())


Index("deltamem_tombstones_session", TombstoneRow.agent_key, TombstoneRow.session)


class PurgeRow(Base):
    """An erasure whose rows are deleted but whose bytes may still be in the database's files. Names no agent."""

    __tablename__ = "deltamem_purges"
    __table_args__ = ({"sqlite_autoincrement": True},)
    key: Mapped[int] = mapped_column(Whole(1, key=True), primary_key=True)
    requested_at: Mapped[datetime] = mapped_column(UtcDateTime)


class TokenRow(Base):
    """An access token of a server, see `access_tokens`. Only its SHA-256 is stored.

    ``name`` names the token where it is listed and revoked. ``agents`` are patterns of agent ids. ``parent`` is the key
    of the token that a person logged in with; the row goes with it.
    """

    __tablename__ = "deltamem_tokens"
    __table_args__ = ({"sqlite_autoincrement": True},)
    key: Mapped[int] = mapped_column(Whole(1, key=True), primary_key=True)
    name: Mapped[str] = mapped_column(Name(32))
    hash: Mapped[str] = mapped_column(Name(64), unique=True)
    agents: Mapped[list[Any]] = mapped_column(Json(list))
    scope: Mapped[str] = mapped_column(Name(16, SCOPES))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    expires_at: Mapped[datetime | None] = mapped_column(UtcDateTime(optional=True))
    parent: Mapped[int | None] = mapped_column(
        Whole(1, key=True, optional=True), ForeignKey("deltamem_tokens.key", ondelete="CASCADE")
    )


Index("deltamem_tokens_name", TokenRow.name, unique=True)


class RequestRow(Base):
    """A request with an idempotency key, see `request_log`; ``status`` and ``answer`` are null while it runs."""

    __tablename__ = "deltamem_requests"
    __table_args__ = (UniqueConstraint("caller", "name"), {"sqlite_autoincrement": True})
    key: Mapped[int] = mapped_column(Whole(1, key=True), primary_key=True)
    caller: Mapped[str] = mapped_column(Name(32))
    name: Mapped[str] = mapped_column(Name(ID_LIMIT))
    digest: Mapped[str] = mapped_column(Name(64))
    status: Mapped[int | None] = mapped_column(Whole(small=True, optional=True))
    answer: Mapped[str | None] = mapped_column(Words(optional=True))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
