"""What is journalled and not folded, indexed or embedded yet. Works on an open connection."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from sqlalchemy import Connection, exists, func, select

from deltamem_agents.store.schema import AgentRow, EmbeddingRow, MessageRow, RecordRow, RevisionRow


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """What a database holds for the next recall to do, of all agents.

    Args:
        unfolded: Live messages beyond the newest stored state of their agent.
        unindexed: Live messages with text that full text does not find.
        unembedded: Records without an embedding.
    """

    unfolded: int = 0
    unindexed: int = 0
    unembedded: int = 0

    def as_dict(self) -> dict[str, int]:
        """For JSON."""
        return asdict(self)


def count(connection: Connection, fingerprint: str | None, model: str | None) -> Backlog:
    """Count it.

    Args:
        fingerprint: Of the states that count; None for any.
        model: Of the embeddings that count; None for any.
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
