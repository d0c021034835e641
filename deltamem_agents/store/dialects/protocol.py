"""The protocols that a dialect and its full-text index implement. No code."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from sqlalchemy import ColumnElement, Connection, Engine
from sqlalchemy.exc import DBAPIError

from deltamem_agents.store.dialects.pgvector import Pgvector
from deltamem_agents.store.dialects.rows import Within
from deltamem_agents.store.turns import Turn


class FullText(Protocol):
    """A dialect's full-text index over records."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that the index adds to the records table and fills itself, from the row's text alone."""

    def create(self, connection: Connection) -> None:
        """Create the index and the triggers that keep it up to date."""

    def terms(self, text: str) -> str | None:
        """Words that find a text besides its own; None if there are none, as for a text of ASCII only."""

    def not_ascii(self, column: ColumnElement[str]) -> ColumnElement[bool]:
        """A condition that a text has non-ASCII characters; it may also hold for a text without."""

    def scores(
        self, connection: Connection, agent_key: int, terms: Sequence[str], limit: int, within: Within
    ) -> Sequence[tuple[int, float]]:
        """Keys and scores (higher is better), in no order, of the best ``limit`` records with any of the terms."""


class Dialect(Protocol):
    """One kind of database."""

    @property
    def fulltext(self) -> FullText:
        """The full-text index."""

    @property
    def vectors(self) -> Pgvector | None:
        """The vector index, if the database can have one."""

    @property
    def writes_tables_at_once(self) -> bool:
        """Whether one statement may write several tables."""

    @property
    def shares_commits(self) -> bool:
        """Whether concurrent writers are faster when they share a transaction."""

    @property
    def outside_reach(self) -> tuple[str, ...]:
        """Places that may still hold erased text and that our statements cannot reach."""

    def check_schema(self, engine: Engine, schema: str) -> None:
        """Check the name of a schema.

        Raises:
            ConfigError: There can be no such schema.
        """

    def check_server(self, engine: Engine) -> None:
        """Check the server that an engine connects to.

        Raises:
            ConfigError: The server is not supported.
        """

    def prepare(self, engine: Engine, schema: str | None) -> None:
        """Set up the database as a whole, before looking for tables."""

    def lock(self, connection: Connection, name: str) -> None:
        """Wait for the lock of this name and hold it until the transaction ends."""

    def reading(self) -> Turn:
        """The turn that a reading transaction takes."""

    def writing(self) -> Turn:
        """The turn that a writing transaction takes."""

    @property
    def busy_seconds(self) -> float | None:
        """How long a call waits at most for other users of the database; None if the database decides."""

    def wait_until(self, driver: Any, until: float | None) -> None:
        """Set the deadline, by `time.monotonic`, until which statements on the driver's connection wait for others."""

    def begin_read(self, connection: Connection) -> None:
        """Make the transaction that has begun see one snapshot."""

    def begin_write(self, connection: Connection) -> None:
        """Make sure that what the transaction that has begun reads still holds when it writes."""

    def passing(self, error: DBAPIError) -> bool:
        """Whether an error is transient, so that the same transaction may succeed a moment later."""

    def remedy(self, cause: str) -> str | None:
        """What to do about an error with this message."""

    def created(self, connection: Connection) -> None:
        """Set up tables that were just created, in the transaction that created them."""

    def purge(self, engine: Engine, *, whole: bool) -> str | None:
        """Remove the bytes of deleted rows from the database's files; returns why that is not finished, or None.

        Args:
            whole: Whether the purge may keep others waiting for long.
        """

    def repair(self, engine: Engine) -> list[str]:
        """Rebuild what is derived from other tables; returns what was rebuilt, in sentences."""

    def check(self, connection: Connection) -> list[str]:
        """Describe damage to the database's files that the database itself detects."""
