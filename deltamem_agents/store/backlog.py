"""Counts what is journalled but not yet folded, indexed or embedded. Works on an open connection."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from sqlalchemy import Connection, exists, func, select

from deltamem_agents.store.schema import AgentRow, EmbeddingRow, MessageRow, RecordRow, RevisionRow


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


def count(connection: Connection, fingerprint: str | None, model: str | None) -> Backlog:
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
