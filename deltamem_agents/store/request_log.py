"""`RequestLog`: the part of `Store` that remembers a server's answers to requests with an idempotency key.

A key counts for 24 hours and for one caller. A request that ended without an answer, because its process died, may be
taken over after a minute: what it does must be safe to do again.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

from sqlalchemy import Connection, delete, select, update

from deltamem_agents import arguments
from deltamem_agents.store.database import Database
from deltamem_agents.store.dialects import insert_missing
from deltamem_agents.store.schema import RequestRow

LIFETIME = timedelta(hours=24)
RUNNING = timedelta(minutes=1)  # after which a request without an answer is taken to have died


@dataclass(frozen=True, slots=True, kw_only=True)
class Logged:
    """What is known of a key.

    Args:
        outcome: "new": the caller runs the request. "answered": here is the answer. "running": it still runs.
            "other": the key belongs to another request.
    """

    outcome: Literal["new", "answered", "running", "other"]
    status: int = 0
    answer: str = ""


class RequestLog:
    """Answers by caller and idempotency key.

    Every method raises ClosedError, ForkedError and StoreError as `Database.write` does.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def begin(self, caller: str, name: str, digest: str) -> Logged:
        """Claim a key, unless a request has it.

        Args:
            caller: Whose key it is.
            name: The key.
            digest: Hash of the request, by which a different one is told from the same one sent again.

        Raises:
            InvalidAgentError: The key is not a string of 1 to 255 characters.
        """
        arguments.identifier(name, "idempotency key")

        now = datetime.now(UTC)

        def work(connection: Connection) -> Logged:
            connection.execute(delete(RequestRow).where(RequestRow.created_at < now - LIFETIME))
            mine = (RequestRow.caller == caller, RequestRow.name == name)
            claim = {"caller": caller, "name": name, "digest": digest, "created_at": now}
            connection.execute(insert_missing(connection, RequestRow).values(**claim))
            row = connection.execute(select(RequestRow).where(*mine).with_for_update()).one()
            if row.created_at == now:  # mine, from this try or from one whose answer was lost
                return Logged(outcome="new")
            if row.digest != digest:
                return Logged(outcome="other")
            if row.status is not None:
                return Logged(outcome="answered", status=row.status, answer=row.answer or "")
            if row.created_at > now - RUNNING:
                return Logged(outcome="running")
            connection.execute(update(RequestRow).where(RequestRow.key == row.key).values(created_at=now))
            return Logged(outcome="new")

        return self._database.write(work)

    def end(self, caller: str, name: str, status: int, answer: str) -> None:
        """Store the answer to a request that was begun."""
        mine = (RequestRow.caller == caller, RequestRow.name == name)
        query = update(RequestRow).where(*mine).values(status=status, answer=answer)
        self._database.write(lambda connection: connection.execute(query) and None)

    def abandon(self, caller: str, name: str) -> None:
        """Free a key whose request failed and may be sent again."""
        mine = (RequestRow.caller == caller, RequestRow.name == name, RequestRow.status.is_(None))
        query = delete(RequestRow).where(*mine)
        self._database.write(lambda connection: connection.execute(query) and None)
