"""Counts: the stored states of an agent, and the work that all agents leave. Works on an open connection."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime

from sqlalchemy import Connection, exists, func, select, true

from deltamem_agents.store.schema import AgentRow, EmbeddingRow, MessageRow, RecordRow, RevisionRow


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredStates:
    """A summary of an agent's revisions: count and bytes over all fingerprints, and the newest of one fingerprint.

    ``position``, ``checksum`` and ``created_at`` describe the newest; they are None if there is none.
    """

    count: int = 0
    bytes: int = 0
    position: int | None = None
    checksum: str | None = None
    created_at: datetime | None = None


def stored_states(connection: Connection, agent: str, fingerprint: str | None) -> StoredStates:
    """Summarize an agent's revisions without decoding or checking a state.

    Args:
        fingerprint: The newest is that of this fingerprint; None for any.
    """
    of_agent = RevisionRow.agent_key == select(AgentRow.key).where(AgentRow.id == agent).scalar_subquery()
    count, size = connection.execute(
        select(func.count(), func.coalesce(func.sum(func.length(RevisionRow.state)), 0)).where(of_agent)
    ).one()
    newest = connection.execute(
        select(RevisionRow.position, RevisionRow.checksum, RevisionRow.created_at)
        .where(of_agent, true() if fingerprint is None else RevisionRow.fingerprint == fingerprint)
        .order_by(RevisionRow.position.desc())
        .limit(1)
    ).first()
    if newest is None:
        return StoredStates(count=count, bytes=size)
    return StoredStates(count=count, bytes=size, position=newest[0], checksum=newest[1], created_at=newest[2])


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """Work that all agents of a database leave to their next recall.

    Args:
        unfolded: Live messages after the newest stored state of their agent.
        unindexed: Live messages with text that have no record, so full text cannot find them.
        unembedded: Records without an embedding.
    """

    unfolded: int = 0
    unindexed: int = 0
    unembedded: int = 0

    def as_dict(self) -> dict[str, int]:
        """The fields as a mapping for JSON."""
        return asdict(self)


def backlog(connection: Connection, fingerprint: str | None, model: str | None) -> Backlog:
    """Count the backlog.

    Args:
        fingerprint: Only states with this fingerprint count; None counts all.
        model: Only embeddings under this model count; None counts all.
    """
    newest = select(func.max(RevisionRow.position)).where(
        RevisionRow.agent_key == AgentRow.key, RevisionRow.epoch == AgentRow.epoch
    )
    if fingerprint is not None:
        newest = newest.where(RevisionRow.fingerprint == fingerprint)
    live = select(func.count()).select_from(MessageRow).where(MessageRow.left_at.is_(None), MessageRow.text != "")
    unfolded = live.join(AgentRow, AgentRow.key == MessageRow.agent_key).where(
        MessageRow.folded, MessageRow.position > func.coalesce(newest.scalar_subquery(), 0)
    )
    record = exists().where(RecordRow.agent_key == MessageRow.agent_key, RecordRow.position == MessageRow.position)
    embedding = exists().where(EmbeddingRow.record_key == RecordRow.key)
    if model is not None:
        embedding = embedding.where(EmbeddingRow.model == model)
    unembedded = select(func.count()).select_from(RecordRow).where(~embedding)
    return Backlog(
        unfolded=connection.scalar(unfolded) or 0,
        unindexed=connection.scalar(live.where(~record)) or 0,
        unembedded=connection.scalar(unembedded) or 0,
    )
