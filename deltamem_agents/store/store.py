"""`Store`: the database as the memory layer sees it. Checks arguments and owns transactions; siblings do the work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from sqlalchemy import URL, Connection, Engine

from deltamem_agents import arguments
from deltamem_agents.messages import Entry, check_descriptions, check_id, check_messages
from deltamem_agents.store import (
    archive,
    archive_import,
    archive_reading,
    damage,
    erasing,
    forking,
    journal,
    statistics,
    timeline,
    versions,
)
from deltamem_agents.store.access_tokens import AccessTokens
from deltamem_agents.store.appender import Appender
from deltamem_agents.store.database import RETRY_SECONDS, Database, check_place, looked_at, open_database
from deltamem_agents.store.erasing import Plan, Selection
from deltamem_agents.store.journal import AgentInfo
from deltamem_agents.store.journal_events import JournalEvents
from deltamem_agents.store.message_lookup import MessageLookup
from deltamem_agents.store.record_index import RecordIndex, check_scope
from deltamem_agents.store.records import Splitter, Words
from deltamem_agents.store.request_log import RequestLog
from deltamem_agents.store.revisions import Retention, check_retention
from deltamem_agents.store.selected import Select, is_select
from deltamem_agents.store.sqlite_files import file_of
from deltamem_agents.store.states import States
from deltamem_agents.store.statistics import Backlog
from deltamem_agents.store.turns import Turn, in_turn
from deltamem_agents.store.whole_files import check_target

DEFAULT_URL = "sqlite:///memory.db"


def whole(text: str) -> list[str]:
    """The default splitter: one record per message, none for a message without text."""
    return [text] if text else []


class Store:
    """Agents, their journals, states and records in one database. Safe to share among threads and processes.

    Every call is one transaction. Reading an unknown agent gives an empty result; `States.commit` to one raises.

    Attributes:
        messages: Finds messages by session and id, or by what they say.
        records: Searches the records of messages, and keeps their embeddings.
        states: Keeps the states that were folded from the journals.
        events: Reads journals as what happened to them, page by page.
        tokens, requests: A server's access tokens, and its answers to requests with an idempotency key.

    Besides what each method lists, methods that read or write raise ClosedError after `close`, ForkedError in a process
    forked after the store was opened, InvalidAgentError for an agent or session id that is not valid, ConfigError for
    an argument of the wrong type or out of range, and StoreError if the database cannot be used or is damaged.
    """

    def __init__(self, database: Database, split: Splitter, retention: Retention = "thin") -> None:
        self._database = database
        self._words = Words(split, database.dialect.fulltext)
        self.messages = MessageLookup(database)
        self.records = RecordIndex(database, self._words)
        self.states = States(database, retention)
        self.events = JournalEvents(database)
        self.tokens = AccessTokens(database)
        self.requests = RequestLog(database)
        self._appender = Appender(database, self._words)
        self._purging = Turn()
        database.look_for_damage(damage.found)

    @classmethod
    def open(
        cls,
        url: str | URL | None = None,
        *,
        engine: Engine | None = None,
        schema: str | None = None,
        split: Splitter = whole,
        retention: Retention = "thin",
        retry_seconds: float = RETRY_SECONDS,
    ) -> Self:
        """Open a database, creating its tables if it has none.

        Args:
            url: A SQLAlchemy URL of SQLite or PostgreSQL; ``sqlite:///memory.db`` if neither url nor engine is given.
                ``sqlite://`` is a database in memory that lives as long as the store.
            engine: A caller's engine instead of a URL; `close` leaves it open.
            schema: PostgreSQL schema of the tables, created if missing. Defaults to the connection's.
            split: Cuts a message's text into the texts of its records.
            retention: Which stored states to keep: "thin" (all of the last day, then one a day), "all", or a number of
                newest states per agent. The state at the start of the open segment is always kept.
            retry_seconds: How long a call retries while the database is unreachable.

        Raises:
            ConfigError: The URL or the engine's dialect is not supported, or an argument is not valid.
            ForkedError: The SQLite file was in use in the parent when this process was forked.
            MissingExtraError: The database's driver is not installed.
            StoreError: The database cannot be reached, is not a database, or its tables are of another version.
        """
        check_place(url, engine, schema)
        check_retention(retention)
        arguments.function(split, "split")
        database = open_database(DEFAULT_URL if url is None and engine is None else url, engine, schema)
        database, _ = looked_at(database, versions.prepare)
        database.enable_retries(retry_seconds)
        return cls(database, split, retention)

    def close(self) -> None:
        """Close the database; calling it again does nothing."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def url(self) -> str:
        """The database's URL, with secrets masked."""
        return self._database.name

    def same_database(self, other: Store) -> bool:
        """Whether another store was opened with the same URL and schema, ignoring passwords."""
        arguments.instance(other, "other", Store)
        mine, theirs = self._database, other._database
        return mine.url.set(password=None) == theirs.url.set(password=None) and mine.schema == theirs.schema

    def append(self, agent: str, messages: Sequence[Mapping[str, Any]] | Select, session: str) -> list[str]:
        """Journal messages in order, all or none; the agent exists from its first message.

        Args:
            messages: Mappings with ``role`` and ``content`` (text or a list of blocks), and optionally ``id``,
                ``metadata``, ``created_at`` and ``folded`` (whether the text goes into the state; by default true for
                all roles but tool). A message whose id the session already has is skipped if role and text are the
                same. Otherwise it replaces the old message, which leaves the live journal, and the epoch rises.
                Or a function that returns such mappings, given a `MessageLookup`; no other writer changes the agent
                between its reads and the write. The lookup shows one snapshot of the journal; the function must not use
                the store otherwise. It may be called several times; its last result is journalled.

        Returns:
            The messages' ids, in order; once this returns they are durable.

        Raises:
            InvalidAgentError: The agent's or session's id is not valid.
            InvalidMessageError: A message cannot be journalled; none was.
            StoreError: The database could not be written; nothing was.
            Exception: Whatever the function raises; nothing was journalled.
        """
        check_id(agent)
        check_id(session, "session")
        if is_select(messages):
            return self._appender.append_selected(agent, session, messages)
        return self._appender.append(agent, session, check_messages(messages))

    def describe(self, agent: str, metadata: Mapping[int, Mapping[str, Any]]) -> None:
        """Replace the metadata of live messages; positions that are not live are skipped.

        Metadata is not folded, so states, records and the epoch stay. A search filtered by metadata may use the old
        metadata until the journal grows.

        Args:
            metadata: Position to the message's complete new metadata, which must be JSON.

        Raises:
            ConfigError: ``metadata`` does not map positions to JSON objects.
            StoreError: The database could not be written; nothing was.
        """
        check_id(agent)
        check_descriptions(metadata)
        self._database.write(lambda connection: journal.describe(connection, agent, metadata))

    def live(self, agent: str, after: int = 0, session: str | None = None, *, limit: int | None = None) -> list[Entry]:
        """The first ``limit`` live messages after position ``after``, in order; only those of ``session``, if given."""
        check_scope(agent, session)
        arguments.whole(after, "after")
        return self._database.read(lambda connection: journal.live(connection, agent, after, session, limit))

    def agents(self, *, after: str = "", limit: int | None = None) -> list[AgentInfo]:
        """The first ``limit`` agents whose id comes after ``after``, ordered by id as the database compares."""
        arguments.text(after, "after")
        return self._database.read(lambda connection: journal.agents(connection, after=after, limit=limit))

    def agent(self, agent: str) -> AgentInfo | None:
        """One agent, or None if it has never been written to."""
        check_id(agent)
        return self._database.read(lambda connection: next(iter(journal.agents(connection, agent)), None))

    def knows(self, agent: str) -> bool:
        """Whether an agent exists; as fast for a long journal as for a short one."""
        check_id(agent)
        return self._database.read(lambda connection: journal.agent_row(connection, agent) is not None, alone=True)

    def secret(self, agent: str) -> bytes | None:
        """The HMAC key for hashes about an agent that leave the database; None for an unknown agent.

        The key is random for each agent, never part of an archive or fork, and deleted with the agent.
        """
        check_id(agent)
        return self._database.read(lambda connection: journal.secret(connection, agent))

    def sessions(self, agent: str) -> list[str]:
        """An agent's sessions that have live messages, in the order they began."""
        check_id(agent)
        return self._database.read(lambda connection: journal.sessions(connection, agent))

    def at(self, agent: str, position: int) -> list[Entry]:
        """The messages that were live when the journal ended at ``position``, in order.

        Raises:
            UnknownAgentError: No such agent.
            ConfigError: The journal has no such position.
        """
        check_id(agent)
        return self._database.read(lambda connection: timeline.entries_at(connection, agent, position))

    def log(self, agent: str, session: str | None = None, at: int | None = None) -> list[Entry]:
        """Live messages in order, optionally of one session, or as the journal was at position ``at``.

        Empty for an unknown agent.

        Raises:
            ConfigError: The journal has no such position.
        """
        check_scope(agent, session)
        if at is None or not self.knows(agent):
            return self.live(agent, session=session)
        return [entry for entry in self.at(agent, at) if session in (None, entry.session)]

    def rollback(self, agent: str, position: int) -> int:
        """Restore the journal's content at ``position`` by a new entry, which can be rolled back too.

        Returns:
            The position of that entry, or the end of the journal if nothing changes and no entry was made.

        Raises:
            UnknownAgentError: No such agent.
            ConfigError: The journal has no such position.
        """
        check_id(agent)
        return self._database.write(lambda connection: timeline.rollback(connection, self._words, agent, position))

    def fork(self, agent: str, new: str) -> None:
        """Make ``new`` an agent with the same journal and states; from then on the two are independent.

        Raises:
            UnknownAgentError: No such agent.
            ConfigError: ``new`` exists.
        """
        check_id(agent)
        check_id(new)
        done: list[bool] = []

        def work(connection: Connection) -> None:
            if done and journal.agent_row(connection, new) is not None:
                return  # the first try was stored, but its answer was lost
            forking.fork(connection, self._words.fulltext, agent, new)
            done.append(True)

        self._database.write(work)

    def erase(
        self,
        agent: str,
        chosen: Selection,
        *,
        forks: bool = False,
        dry_run: bool = False,
        tombstone: bool = True,
    ) -> Plan:
        """Delete messages and everything derived from them; `purge` then cleans the files.

        Args:
            forks: Whether to erase the messages from forks too; otherwise the plan lists the forks that hold them.
            dry_run: Whether to report what would be erased without changing anything.
            tombstone: Whether each message leaves a keyed hash, see `tombstones`. If false, tombstones that earlier
                erasures left of the selected messages are deleted too, unless ``chosen`` has since or until. Erasing
                the whole agent deletes all its tombstones.

        Raises:
            UnknownAgentError: No such agent.
            ConfigError: No filter was given, a filter is not valid, or a plain id belongs to several sessions.
        """
        check_id(agent)
        arguments.instance(chosen, "what is to be erased", Selection)
        forks, dry_run = arguments.flag(forks, "forks"), arguments.flag(dry_run, "dry_run")
        tombstone = arguments.flag(tombstone, "tombstone")
        erasing.check_selection(chosen)
        run = self._database.read if dry_run else self._database.write
        before: list[Plan] = []

        def work(connection: Connection) -> Plan:
            if before and journal.agent_row(connection, agent) is None:
                return before[-1]
            plan = erasing.erase(connection, self._words, agent, chosen, forks=forks, dry=dry_run, tombstone=tombstone)
            if not before or plan.erased[0].messages:
                before.append(plan)
            return before[-1]  # of the first try, if that was stored but its answer was lost

        return run(work)

    def purge(self, *, whole: bool = True) -> str | None:
        """Remove erased bytes from the database's files.

        Args:
            whole: Whether to rewrite PostgreSQL's large tables too, which may keep others waiting for long.

        Returns:
            Why the purge is not finished, or None if nothing is left in the files.

        Raises:
            StoreError: The database cannot be reached.
        """

        def purge() -> str | None:
            waiting = self._database.read(erasing.pending)
            if not waiting:
                return None
            reason = self._database.purge(whole=whole)
            if reason is None:
                self._database.write(lambda connection: erasing.finished(connection, waiting))
            return reason

        return in_turn(self._purging, purge)  # a thread that waited finds that the other has purged its erasures too

    @property
    def outside_reach(self) -> tuple[str, ...]:
        """Places that may still hold erased text and that our statements cannot reach."""
        return self._database.dialect.outside_reach

    def export(
        self, agent: str, path: Path, progress: archive.Progress | None = None, *, overwrite: bool = False
    ) -> int:
        """Write an agent's journal, states and embeddings to one file, see `archive`; returns the number of messages.

        Args:
            progress: Called with the name of the step, the number done, and the total.
            overwrite: Whether an existing file may be replaced.

        Raises:
            UnknownAgentError: No such agent.
            ConfigError: The file exists, or belongs to the database itself, which is never overwritten.
            StoreError: The file cannot be written.
        """
        check_id(agent)
        path = arguments.path(path)
        arguments.function(progress, "progress")
        check_target(path, file_of(self._database.url), overwrite=arguments.flag(overwrite, "overwrite"))
        return self._database.read(lambda connection: archive.export(connection, agent, path, progress))

    def import_(self, path: Path, agent: str | None = None, progress: archive.Progress | None = None) -> str:
        """Create an agent from a file that `export` wrote; the whole file is checked before anything is stored.

        States in the file are checked but not stored: only a fold proves that a state belongs to its journal.

        Args:
            agent: The new agent's id; defaults to that in the file.
            progress: Called with the name of the step, the number done, and the total.

        Returns:
            The new agent's id.

        Raises:
            ArchiveError: The file is missing, damaged or not such a file.
            ConfigError: The agent exists.
        """
        if agent is not None:
            check_id(agent)
        path = arguments.path(path)
        arguments.function(progress, "progress")
        checked = archive_reading.check(path, progress)
        done: list[str] = []

        def work(connection: Connection) -> str:
            if not done or journal.agent_row(connection, done[0]) is None:
                done[:] = [archive_import.import_(connection, self._words, checked, agent, progress)]
            return done[0]

        return self._database.write(work)

    def backlog(self, fingerprint: str | None = None, model: str | None = None) -> Backlog:
        """Count what is left to fold, index and embed, over all agents.

        Args:
            fingerprint: Only states with this fingerprint count; None counts all.
            model: Only embeddings under this model count; None counts all.
        """
        arguments.text("" if fingerprint is None else fingerprint, "fingerprint")
        arguments.text("" if model is None else model, "model")
        return self._database.read(lambda connection: statistics.backlog(connection, fingerprint, model))
