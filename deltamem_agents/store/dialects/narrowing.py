"""Restricts a search to some of an agent's records, by conditions on their messages."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement

from deltamem_agents.store.schema import MessageRow


@dataclass(frozen=True, slots=True)
class Within:
    """Messages of one session, written at or after ``since`` and before ``until``; None does not restrict."""

    session: str | None = None
    since: datetime | None = None
    until: datetime | None = None

    def __bool__(self) -> bool:
        return not (self.session is None and self.since is None and self.until is None)

    def conditions(self) -> list[ColumnElement[bool]]:
        """Conditions on `MessageRow`, which the statement must join."""
        found: list[ColumnElement[bool]] = []
        if self.session is not None:
            found.append(MessageRow.session == self.session)
        if self.since is not None:
            found.append(MessageRow.created_at >= self.since)
        if self.until is not None:
            found.append(MessageRow.created_at < self.until)
        return found
