"""`ById`: live messages by session and id, and what is known of them changed in place. A part of `Store`."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from sqlalchemy import Connection, bindparam, func, select, update

from deltamem_agents.store import journal
from deltamem_agents.store.dialects import rows_among
from deltamem_agents.store.index import Index
from deltamem_agents.store.messages import Entry, MessageRef, check_id
from deltamem_agents.store.schema import MessageRow

# Made once, as making a statement takes longer than to run it.
_LIVE = select(MessageRow).where(MessageRow.agent_key == bindparam("key"), MessageRow.left_at.is_(None))
_OF_SESSION = _LIVE.where(MessageRow.session == bindparam("session"))
_UNDER = _LIVE.where(func.substr(MessageRow.session, 1, bindparam("length")) == bindparam("prefix"))
_DESCRIBE = update(MessageRow).where(
    MessageRow.agent_key == bindparam("key"), MessageRow.position == bindparam("at"), MessageRow.left_at.is_(None)
)


class ById(Index):
    """Messages that a caller names by ids of its own. Every call is about one agent; an unknown one has none."""

    def find(self, agent: str, refs: Collection[MessageRef | tuple[str, str]]) -> list[Entry]:
        """The live messages with these sessions and ids, in the journal's order."""
        check_id(agent)

        def work(connection: Connection) -> list[Entry]:
            found = journal.agent_row(connection, agent)
            if found is None:
                return []
            sessions: dict[str, list[str]] = {}
            for session, message_id in dict.fromkeys(refs):
                sessions.setdefault(session, []).append(message_id)
            rows: list[Any] = []
            for session, ids in sessions.items():
                rows += rows_among(connection, _OF_SESSION, MessageRow.id, ids, {"key": found.key, "session": session})
            return _in_order(rows)

        return self._database.read(work)

    def under(self, agent: str, prefix: str = "") -> list[Entry]:
        """Live messages of the sessions whose ids begin with ``prefix``, in the journal's order."""
        check_id(agent)

        def work(connection: Connection) -> list[Entry]:
            found = journal.agent_row(connection, agent)
            if found is None:
                return []
            values = {"key": found.key, "prefix": prefix, "length": len(prefix)}
            return _in_order(connection.execute(_UNDER, values))

        return self._database.read(work)

    def describe(self, agent: str, metadata: Mapping[int, Mapping[str, Any]]) -> None:
        """Give live messages other metadata, by their positions; what is not live by then is left as it is.

        Metadata is not folded, so states, records and the epoch stay. A search that narrows by metadata may go by the
        old until the journal grows.

        Args:
            metadata: Position to the whole of its message's metadata, which JSON must be able to hold.

        Raises:
            StoreError: The database could not be written; nothing was.
        """
        check_id(agent)

        def work(connection: Connection) -> None:
            found = journal.agent_row(connection, agent)
            if found is None:
                return
            for position, details in sorted(metadata.items()):
                values = {MessageRow.details: dict(details) or None}
                connection.execute(_DESCRIBE.values(values), {"key": found.key, "at": position})

        self._database.write(work)


def _in_order(rows: Iterable[Any]) -> list[Entry]:
    return sorted(map(journal.entry, rows), key=lambda each: each.position)
