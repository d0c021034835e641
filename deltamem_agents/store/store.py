"""`Store`: the database as the memory layer sees it. Checks arguments, owns transactions; its siblings do the work."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

from sqlalchemy import URL, Engine, insert, inspect, select

from deltamem_agents.errors import StoreError
from deltamem_agents.store import journal, records, revisions
from deltamem_agents.store.database import Database, open_database, reopen_immutable
from deltamem_agents.store.fulltext import FullText, SqliteFullText
from deltamem_agents.store.journal import AgentInfo, Splitter
from deltamem_agents.store.messages import Entry, check_id, check_messages
from deltamem_agents.store.records import StoredRecord
from deltamem_agents.store.revisions import Revision
from deltamem_agents.store.schema import SCHEMA_VERSION, Base, SchemaRow

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def whole(text: str) -> list[str]:
    """One record a message; none where a message has no text."""
    return [text] if text else []


def _check_scope(agent: str, session: str | None) -> None:
    check_id(agent)
    if session is not None:
        check_id(session, "session")


class Store:
    """Agents, their journals, revisions and records in one database. Safe to share among threads and processes.

    Every call is one transaction. Reading an unknown agent gives nothing; `commit` to one raises.
    """

    def __init__(self, database: Database, split: Splitter) -> None:
        self._database = database
        self._split = split
        self._fulltext: FullText = SqliteFullText()

    @classmethod
    def open(cls, url: str | URL | None = None, *, engine: Engine | None = None, split: Splitter = whole) -> Self:
        """Open a database, creating its tables where it has none.

        Args:
            url: A SQLAlchemy URL; ``sqlite:///memory.db`` where no engine is given either. ``sqlite://`` lives in
                memory as long as the store.
            engine: A caller's engine in place of a URL; `close` leaves it open.
            split: Cuts a message's text into the texts of its records.

        Raises:
            ConfigError: The URL or the engine's dialect is not supported.
            StoreError: The database cannot be reached, is not a database, or is of a newer version.
        """
        database = open_database("sqlite:///memory.db" if url is None and engine is None else url, engine)
        try:
            try:
                store = cls(database, split)
                store._prepare()
            except StoreError as error:
                database = reopen_immutable(database, error)
                store = cls(database, split)
                store._prepare()
        except BaseException:
            database.close()
            raise
        return store

    def close(self) -> None:
        """Close the database; calling it again does nothing."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def url(self) -> str:
        """Where the data is, with secrets masked."""
        return self._database.name

    # Journal

    def append(self, agent: str, messages: Sequence[Mapping[str, Any]], session: str) -> list[str]:
        """Journal messages in order, all or none; the agent exists from its first message.

        Args:
            messages: Mappings with ``role`` and ``content`` (text or a list of blocks), optionally ``id``,
                ``metadata`` and ``created_at``. A known id with the same role and text is passed over; with another it
                replaces the old message, which leaves the live journal, and the agent's epoch rises.

        Returns:
            The messages' ids, in order; once this returns they are durable.

        Raises:
            InvalidAgentError: The agent's or session's id is not one.
            InvalidMessageError: A message cannot be journalled; none was.
            StoreError: The database could not be written; nothing was.
        """
        check_id(agent)
        check_id(session, "session")
        checked = check_messages(messages)
        with self._database.write() as connection:
            return journal.append(connection, self._split, agent, checked, session)

    def live(self, agent: str, after: int = 0, session: str | None = None) -> list[Entry]:
        """Live messages of an agent beyond position ``after``, in order; of one session, where one is given."""
        _check_scope(agent, session)
        with self._database.read() as connection:
            return journal.live(connection, agent, after, session)

    def agents(self) -> list[AgentInfo]:
        """All agents, by id."""
        with self._database.read() as connection:
            return journal.agents(connection)

    def agent(self, agent: str) -> AgentInfo | None:
        """One agent, or None where it has never been written to."""
        check_id(agent)
        with self._database.read() as connection:
            return next(iter(journal.agents(connection, agent)), None)

    def sessions(self, agent: str) -> list[str]:
        """An agent's sessions that have live messages, in the order in which they began."""
        check_id(agent)
        with self._database.read() as connection:
            return journal.sessions(connection, agent)

    # Revisions

    def commit(self, agent: str, revision: Revision, *, after: int, keep: Collection[int] = ()) -> int:
        """Store a state that stands for the live journal up to ``revision.position``.

        It is stored if ``revision.epoch`` is the agent's and no revision of its fingerprint is as new. Older ones
        beyond the newest two are then deleted.

        Args:
            after: Position of the revision this one was folded from, 0 for none.
            keep: Positions whose revisions stay: that at the start of the last open segment.

        Returns:
            The position now stored: this one's, or a newer one that another process stored first; after the epoch rose
            the newest of the new epoch, 0 for none.

        Raises:
            UnknownAgentError: No such agent, or it was erased meanwhile; nothing was written.
            ConfigError: The position is not between ``after`` and the end of the journal, or a field is empty.
        """
        check_id(agent)
        with self._database.write() as connection:
            return revisions.commit(connection, agent, revision, after=after, keep=keep)

    def newest_revision(self, agent: str, fingerprint: str, at_or_before: int | None = None) -> Revision | None:
        """The newest revision of the agent's present epoch with this fingerprint.

        Raises:
            StateMismatchError: Its bytes are not those that were stored.
        """
        check_id(agent)
        with self._database.read() as connection:
            return revisions.newest(connection, agent, fingerprint, at_or_before)

    def revisions(self, agent: str) -> list[Revision]:
        """All revisions of the agent's present epoch, oldest first; their checksums are not compared."""
        check_id(agent)
        with self._database.read() as connection:
            return revisions.listed(connection, agent)

    def drop_revisions(self, agent: str) -> int:
        """Delete an agent's stored states, which the journal can be folded into again.

        Returns:
            How many there were; 0 for an unknown agent.
        """
        check_id(agent)
        with self._database.write() as connection:
            return revisions.drop(connection, agent)

    # Records: what `recall` needs of an index

    def search_text(
        self, agent: str, terms: Sequence[str], limit: int, session: str | None = None
    ) -> list[tuple[StoredRecord, float]]:
        """Records that hold any of the terms, with BM25 scores (higher is better), best first, the newer of equals.

        Terms are words or phrases; whatever they hold is text, never syntax.
        """
        _check_scope(agent, session)
        with self._database.read() as connection:
            return records.found(connection, self._fulltext, agent, terms, limit, session)

    def records(self, agent: str, keys: Sequence[int] | None = None, session: str | None = None) -> list[StoredRecord]:
        """An agent's records in the journal's order; only those with the given keys, where keys are given."""
        _check_scope(agent, session)
        with self._database.read() as connection:
            return records.read(connection, agent, keys, session)

    def missing_embeddings(self, agent: str, model: str, limit: int) -> list[tuple[int, str]]:
        """Key and text of up to ``limit`` records that have no embedding under a model, oldest first."""
        check_id(agent)
        with self._database.read() as connection:
            return records.without_embedding(connection, agent, model, limit)

    def put_embeddings(self, agent: str, model: str, keys: Sequence[int], vectors: NDArray[np.float32]) -> int:
        """Store embeddings [len(keys), dim]; records that have gone, or have one already, are passed over.

        Returns:
            How many were stored.

        Raises:
            ConfigError: The shape does not fit the keys or the dimension stored under this model's name, or the name is
                empty or too long.
            StoreError: The database could not be written.
        """
        check_id(agent)
        with self._database.write() as connection:
            return records.put_embeddings(connection, agent, model, keys, vectors)

    def embeddings(self, agent: str, model: str, session: str | None = None) -> tuple[list[int], NDArray[np.float32]]:
        """Keys [N] and embeddings [N, dim] of an agent's records under a model, in the journal's order."""
        _check_scope(agent, session)
        with self._database.read() as connection:
            return records.embeddings(connection, agent, model, session)

    # Schema

    def _prepare(self) -> None:
        """Create the tables where there are none; refuse a version that is not ours before touching anything."""
        version = self._version()
        if version is None or version == SCHEMA_VERSION:
            self._database.use_wal()
        if version is None:
            self._create()
            version = self._version()
        if version != SCHEMA_VERSION:
            raise StoreError(
                f"{self.url} has tables of version {version}, this deltamem-agents knows version {SCHEMA_VERSION}; "
                "install the version of deltamem-agents that wrote it, nothing was changed"
            )

    def _version(self) -> int | None:
        with self._database.read() as connection:
            if not inspect(connection).has_table(SchemaRow.__tablename__):
                return None
            return connection.scalar(select(SchemaRow.version))

    def _create(self) -> None:
        with self._database.write() as connection:
            if inspect(connection).has_table(SchemaRow.__tablename__):
                return  # another process was first
            Base.metadata.create_all(connection)
            self._fulltext.create(connection)
            connection.execute(insert(SchemaRow).values(version=SCHEMA_VERSION))
