"""A record as the frameworks' retrievers hand it over: its text, and what is known of it."""

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
    """Keyword arguments of `AgentMemory.recall` for records alone: no model answers, the state is not read."""
    narrowed = {"session": session, "since": since, "until": until, "metadata": where}
    return {"k": k, **narrowed, "mode": "vector", "generate": False}


def record_id(agent: str, record: Record) -> str:
    """What names a record: agent, session and id of its message, and which piece of it, where there are several.

    Message ids are unique within their session only. Characters that stand for something here are escaped, as in a URL.
    """
    named = "/".join(quote(each, safe=" :@+,;=()[]") for each in (agent, *record.ref))
    return named if not record.chunk else f"{named}#{record.chunk}"


def record_facts(agent: str, record: Record) -> dict[str, Any]:
    """What is known of a record, in JSON's types; the message's own metadata goes after it and replaces nothing."""
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
