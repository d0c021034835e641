"""What the store asks of a dialect. No code."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from sqlalchemy import ColumnElement, Connection, Engine
from sqlalchemy.exc import DBAPIError

from deltamem_agents.store.dialects.narrowing import Within
from deltamem_agents.store.dialects.pgvector import Pgvector
from deltamem_agents.store.turns import Turn


class FullText(Protocol):
    """A dialect's full-text index over records."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that it adds to the table of records and fills by itself; they depend on the row's text alone."""

    def create(self, connection: Connection) -> None:
        """Create the index and what keeps it in step."""

    def terms(self, text: str) -> str | None:
        """What is to be found of a text besides its own words; None where there is nothing, as for ASCII alone."""

    def not_ascii(self, column: ColumnElement[str]) -> ColumnElement[bool]:
        """Whether a text has characters that are not ASCII; it may say so of one without."""

    def search(
        self, connection: Connection, agent_key: int, terms: Sequence[str], limit: int, session: str | None
    ) -> list[tuple[int, float]]:
        """Keys and scores (higher is better) of an agent's records that hold any of the terms, best first."""

    def scores(
        self, connection: Connection, agent_key: int, terms: Sequence[str], limit: int, within: Within
    ) -> Sequence[tuple[int, float]]:
        """As `search`, in no order; the best where there are more than ``limit``."""


class Dialect(Protocol):
    """One kind of database."""

    @property
    def fulltext(self) -> FullText:
        """Its full-text index."""

    @property
    def vectors(self) -> Pgvector | None:
        """Its vector index, where it can have one."""

    @property
    def writes_tables_at_once(self) -> bool:
        """Whether one statement may write several tables."""

    @property
    def shares_commits(self) -> bool:
        """Whether threads that write at once are faster in one transaction."""

    @property
    def outside_reach(self) -> tuple[str, ...]:
        """Where erased text may still be, that no statement of ours can reach."""

    def check_schema(self, engine: Engine, schema: str) -> None:
        """Raise ConfigError where there can be no such schema."""

    def check_server(self, engine: Engine) -> None:
        """Raise ConfigError where what an engine connects to is not supported."""

    def prepare(self, engine: Engine, schema: str | None) -> None:
        """Set up what holds for the database as a whole, before tables are looked for."""

    def lock(self, connection: Connection, name: str) -> None:
        """Wait until nobody else holds the lock of this name; it is given back when the transaction ends."""

    def reading(self) -> Turn:
        """Waited for by a transaction that reads."""

    def writing(self) -> Turn:
        """Waited for by a transaction that writes."""

    @property
    def busy_seconds(self) -> float | None:
        """That a call waits at most for others who use the database; None where the database itself decides."""

    def wait_until(self, driver: Any, until: float | None) -> None:
        """Let what follows on the driver's connection wait for others until then at most, by `time.monotonic`."""

    def begin_read(self, connection: Connection) -> None:
        """Let the transaction that has begun see one snapshot."""

    def begin_write(self, connection: Connection) -> None:
        """Let what the transaction that has begun reads still hold when it writes."""

    def passing(self, error: DBAPIError) -> bool:
        """Whether the same transaction may well succeed a moment later."""

    def remedy(self, cause: str) -> str | None:
        """What to do about an error with this message."""

    def created(self, connection: Connection) -> None:
        """Set up what holds for tables that were just made, in the transaction that made them."""

    def purge(self, engine: Engine, *, whole: bool) -> str | None:
        """Take the bytes of deleted rows out of the database's files; why that is not finished, or None.

        Args:
            whole: Whether that may keep others waiting for long.
        """

    def repair(self, engine: Engine) -> list[str]:
        """Make anew what can be made from other tables; what that was."""

    def check(self, connection: Connection) -> list[str]:
        """What is wrong with the database's files, as the database itself sees it."""
