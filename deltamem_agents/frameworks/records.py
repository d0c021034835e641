"""Arguments of a retriever's search, and ids and metadata of the records it returns."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from urllib.parse import quote

from deltamem_agents.recall import Record


def search_arguments(
    k: int,
    session: str | None,
    since: datetime | None,
    until: datetime | None,
    where: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Keyword arguments of `AgentMemory.recall` for records only: no model answers, the state is not read."""
    narrowed = {"session": session, "since": since, "until": until, "metadata": where}
    return {"k": k, **narrowed, "mode": "vector", "generate": False}


def record_id(agent: str, record: Record) -> str:
    """A record's id: agent, session and id of its message, and the number of its piece unless it is the first.

    Message ids are unique only within their session. Separators within a part are escaped as in a URL.
    """
    named = "/".join(quote(each, safe=" :@+,;=()[]") for each in (agent, *record.ref))
    return named if not record.chunk else f"{named}#{record.chunk}"


def record_facts(agent: str, record: Record) -> dict[str, Any]:
    """A record's metadata in JSON types: the message's own metadata and ours, which wins if a name is the same."""
    facts = {
        "score": record.score,
        "source": f"{agent}/{record.session}",
        "agent_id": agent,
        "session": record.session,
        "message_id": record.message_id,
        "role": record.role,
        "created_at": record.created_at.isoformat(),
        "position": record.position,
        "chunk": record.chunk,
        "outdated": record.outdated,
    }
    return {**record.metadata, **facts}
