"""Which of an agent's records a statement is to find, as conditions on their messages."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement

from deltamem_agents.store.schema import MessageRow


@dataclass(frozen=True, slots=True)
class Within:
    """Of one session, written at or after ``since`` and before ``until``; of all where none is given."""

    session: str | None = None
    since: datetime | None = None
    until: datetime | None = None

    def __bool__(self) -> bool:
        return not (self.session is None and self.since is None and self.until is None)

    def conditions(self) -> list[ColumnElement[bool]]:
        """On `MessageRow`, which the statement has to join."""
        found: list[ColumnElement[bool]] = []
        if self.session is not None:
            found.append(MessageRow.session == self.session)
        if self.since is not None:
            found.append(MessageRow.created_at >= self.since)
        if self.until is not None:
            found.append(MessageRow.created_at < self.until)
        return found
