"""Records as frameworks receive them: one by one with their metadata, or as text that can be shortened; briefs."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Self
from urllib.parse import quote

from deltamem_agents.recall import Record, recall_text
from deltamem_agents.recall.budget import text_within
from deltamem_agents.recall.given import note_given

_FENCED = re.compile(r"<rules-([0-9a-f]{8})>\n(.*?)\n</rules-\1>", re.DOTALL)


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


class RecalledText(str):
    """Text for a prompt, with its records, best first. `recalled_in` recognizes it in a later prompt.

    Args:
        records: The records; `recall_text` formats them.
        text: The text; defaults to that of the records.
    """

    __slots__ = ("records",)
    records: Sequence[Record]

    def __new__(cls, records: Sequence[Record] = (), text: str = "") -> Self:  # noqa: D102  # see the class
        made = super().__new__(cls, text or recall_text(records))
        made.records = records
        if made:
            note_given(made)
        return made

    def within(self, limit: int, measure: Callable[[str], int]) -> Self:
        """This text, or that of its highest-ranked records that fit into ``limit``; empty if none fits.

        Args:
            measure: Computes the length of a text, such as its number of tokens.
        """
        if not self or measure(self) <= limit:
            return self
        text, kept = text_within(self.records, max(limit, 0), measure)
        return type(self)(kept, text)


def fenced(text: str) -> str:
    """A brief between marks with a hash of what stands between them."""
    mark = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"<rules-{mark}>\n{text}\n</rules-{mark}>"


def without_briefs(text: str) -> str:
    """A prompt's text without the briefs in it, and without the empty lines before them.

    >>> without_briefs("Be kind.\\n\\n" + fenced("Indent with two spaces."))
    'Be kind.'
    """
    kept, end = [], 0
    for found in _FENCED.finditer(text):
        if fenced(found[2]) == found[0]:
            kept.append(text[end : found.start()].rstrip("\n"))
            end = found.end()
    return "".join([*kept, text[end:]]) if end else text
