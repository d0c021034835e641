"""The tables, as SQLAlchemy 2 typed models. Knows nothing of what a message, a state or an embedding means.

    agents ─┬─ messages ── records ── embeddings        (records also feed a full-text index, see `fulltext`)
            └─ revisions

Every table name begins with ``deltamem_``, so that they can live in a user's own database. Agents have a small integer
key besides their id: it is what the other tables and the full-text index carry.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    String,
    Text,
    UniqueConstraint,
)
from sqlalchemy.engine import Dialect
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator

SCHEMA_VERSION = 1
ID_LIMIT = 255  # characters of an agent, session, message or model id

BigKey = BigInteger().with_variant(Integer, "sqlite")  # SQLite numbers rows by itself only in INTEGER columns


class UtcDateTime(TypeDecorator[datetime]):
    """An aware datetime, kept in UTC; SQLite, which has no time zones, gets it without one."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """In UTC, as the dialect wants it."""
        if value is None:
            return None
        utc = value.astimezone(UTC)
        return utc.replace(tzinfo=None) if dialect.name == "sqlite" else utc

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """In UTC, aware."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Base(DeclarativeBase):
    """Registry of this package's tables."""


class SchemaRow(Base):
    """The version of the tables: one row."""

    __tablename__ = "deltamem_schema"
    version: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)


class AgentRow(Base):
    """An agent. ``head`` is the last journal position ever given out, so that no position is used twice."""

    __tablename__ = "deltamem_agents"
    __table_args__ = ({"sqlite_autoincrement": True},)  # a deleted agent's key must not come back
    key: Mapped[int] = mapped_column(BigKey, primary_key=True)
    id: Mapped[str] = mapped_column(String(ID_LIMIT), unique=True)
    epoch: Mapped[int] = mapped_column(Integer)
    head: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)


class MessageRow(Base):
    """A journal entry. ``left_at`` is the position of the entry by which it left the live journal; null while live."""

    __tablename__ = "deltamem_messages"
    agent_key: Mapped[int] = mapped_column(ForeignKey("deltamem_agents.key", ondelete="CASCADE"), primary_key=True)
    position: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    id: Mapped[str] = mapped_column(String(ID_LIMIT))
    session: Mapped[str] = mapped_column(String(ID_LIMIT))
    role: Mapped[str] = mapped_column(String(16))
    text: Mapped[str] = mapped_column(Text)
    blocks: Mapped[list[Any] | None] = mapped_column(JSON(none_as_null=True))  # null where the content is `text`
    details: Mapped[dict[str, Any] | None] = mapped_column("metadata", JSON(none_as_null=True))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    left_at: Mapped[int | None] = mapped_column(BigInteger)


Index(
    "deltamem_messages_live_id",
    MessageRow.agent_key,
    MessageRow.id,
    unique=True,
    sqlite_where=MessageRow.left_at.is_(None),
    postgresql_where=MessageRow.left_at.is_(None),
)


class RevisionRow(Base):
    """A stored state: the fold of the live journal up to ``position``, as seen in ``epoch``."""

    __tablename__ = "deltamem_revisions"
    agent_key: Mapped[int] = mapped_column(ForeignKey("deltamem_agents.key", ondelete="CASCADE"), primary_key=True)
    fingerprint: Mapped[str] = mapped_column(String(ID_LIMIT), primary_key=True)
    position: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    epoch: Mapped[int] = mapped_column(Integer)
    parent: Mapped[int] = mapped_column(BigInteger)
    checksum: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    state: Mapped[bytes] = mapped_column(LargeBinary)


class RecordRow(Base):
    """A retrievable piece of a live message. ``terms`` spells scripts without spaces out for the full-text index."""

    __tablename__ = "deltamem_records"
    __table_args__ = (
        UniqueConstraint("agent_key", "position", "chunk"),
        ForeignKeyConstraint(
            ["agent_key", "position"],
            ["deltamem_messages.agent_key", "deltamem_messages.position"],
            ondelete="CASCADE",
        ),
        # The full-text index names rows by key: a key that came back could not be told from the one before.
        {"sqlite_autoincrement": True},
    )
    key: Mapped[int] = mapped_column(BigKey, primary_key=True)
    agent_key: Mapped[int] = mapped_column(BigInteger)
    position: Mapped[int] = mapped_column(BigInteger)
    chunk: Mapped[int] = mapped_column(Integer)
    text: Mapped[str] = mapped_column(Text)
    terms: Mapped[str | None] = mapped_column(Text)


class EmbeddingRow(Base):
    """A record's embedding under one model: ``dim`` float32 numbers, little-endian."""

    __tablename__ = "deltamem_embeddings"
    record_key: Mapped[int] = mapped_column(ForeignKey("deltamem_records.key", ondelete="CASCADE"), primary_key=True)
    model: Mapped[str] = mapped_column(String(ID_LIMIT), primary_key=True)
    dim: Mapped[int] = mapped_column(Integer)
    vector: Mapped[bytes] = mapped_column(LargeBinary)
