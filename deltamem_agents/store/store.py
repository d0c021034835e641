"""`Store`: the database as the memory layer sees it. Checks arguments, owns transactions; its siblings do the work."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from sqlalchemy import URL, Connection, Engine

from deltamem_agents import arguments
from deltamem_agents.errors import ConfigError, shown
from deltamem_agents.store import (
    archive,
    archive_reading,
    backlog,
    bulk_append,
    damage,
    erasing,
    forking,
    journal,
    revisions,
    timeline,
    versions,
)
from deltamem_agents.store.backlog import Backlog
from deltamem_agents.store.bulk_append import Append
from deltamem_agents.store.database import Database, looked_at, open_database
from deltamem_agents.store.erasing import Plan, Selection
from deltamem_agents.store.fold_input import FoldInput, fold_input
from deltamem_agents.store.index import check_scope
from deltamem_agents.store.journal import AgentInfo
from deltamem_agents.store.message_lookup import MessageLookup
from deltamem_agents.store.messages import Entry, check_id, check_messages
from deltamem_agents.store.records import Splitter, Words
from deltamem_agents.store.revisions import Retention, Revision, StoredStates, check_retention
from deltamem_agents.store.selected import Select, Selected, is_select
from deltamem_agents.store.sqlite_files import file_of
from deltamem_agents.store.targets import check_target
from deltamem_agents.store.turns import Turn, in_turn
from deltamem_agents.store.write_queue import WriteQueue

DEFAULT_URL = "sqlite:///memory.db"


def whole(text: str) -> list[str]:
    """One record a message; none where a message has no text."""
    return [text] if text else []


class Store(MessageLookup):
    """Agents, their journals, revisions and records in one database. Safe to share among threads and processes.

    Every call is one transaction. Reading an unknown agent gives nothing; `commit` to one raises.
    """

    def __init__(self, database: Database, split: Splitter, retention: Retention = "thin") -> None:
        super().__init__(database, Words(split, database.dialect.fulltext))
        self._retention = check_retention(retention)
        self._purging = Turn()
        database.look_for_damage(damage.found)
        shared = database.dialect.writes_tables_at_once
        self._appends: WriteQueue[Append] | None = WriteQueue(self._append_at_once) if shared else None

    @classmethod
    def open(
        cls,
        url: str | URL | None = None,
        *,
        engine: Engine | None = None,
        schema: str | None = None,
        split: Splitter = whole,
        retention: Retention = "thin",
    ) -> Self:
        """Open a database, creating its tables where it has none.

        Args:
            url: A SQLAlchemy URL of SQLite or PostgreSQL; ``sqlite:///memory.db`` where no engine is given either.
                ``sqlite://`` lives in memory as long as the store.
            engine: A caller's engine in place of a URL; `close` leaves it open.
            schema: Of PostgreSQL, where the tables are; made where there is none. By default the connection's.
            split: Cuts a message's text into the texts of its records.
            retention: Which stored states are kept: "thin" (all of the last day, then one a day), "all", or the newest
                so many of each agent. That at the start of the open segment stays in any case.

        Raises:
            ConfigError: The URL or the engine's dialect is not supported, or the retention is none.
            MissingExtraError: The database's driver is not installed.
            StoreError: The database cannot be reached, is not a database, or its tables are of another version.
        """
        cls.check_opening(url, engine, schema, retention)
        arguments.function(split, "split")
        database = open_database(DEFAULT_URL if url is None and engine is None else url, engine, schema)
        database, _ = looked_at(database, versions.prepare)
        database.enable_retries()
        return cls(database, split, retention)

    @staticmethod
    def check_opening(url: object, engine: object, schema: object, retention: object) -> None:
        """Raise ConfigError for what `open` cannot take; nothing is opened."""
        if url is not None and not isinstance(url, str | URL):
            raise ConfigError(f"url is {shown(url)}; give one like sqlite:///memory.db")
        arguments.instance(engine, "engine", Engine, optional=True)
        if schema is not None:
            arguments.text(schema, "schema")
        check_retention(retention)

    def _append_at_once(self, appends: Sequence[Append], _until: float | None) -> list[bool]:
        return self._database.write(lambda connection: bulk_append.append(connection, appends), alone=True)

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

    def same_database(self, other: Store) -> bool:
        """Whether another store was opened with the same URL, passwords aside."""
        arguments.instance(other, "other", Store)
        mine, theirs = self._database, other._database
        return mine.url.set(password=None) == theirs.url.set(password=None) and mine.schema == theirs.schema

    # Journal

    def append(self, agent: str, messages: Sequence[Mapping[str, Any]] | Select, session: str) -> list[str]:
        """Journal messages in order, all or none; the agent exists from its first message.

        Args:
            messages: Mappings with ``role`` and ``content`` (text or a list of blocks), optionally ``id``,
                ``metadata``, ``created_at`` and ``folded`` (whether its text goes into the state; by default that of
                all but tools). An id that the session knows is passed over with the same role and text; with another
                it replaces the old message, which leaves the live journal, and the agent's epoch rises.
                Or a function that makes them of what the session holds; nobody else writes to the agent in between.
                What it asks of the `Held` that it is given is one state of the journal, and nothing else of the store
                may be asked within. It may be called several times; what it gave last is journalled.

        Returns:
            The messages' ids, in order; once this returns they are durable.

        Raises:
            InvalidAgentError: The agent's or session's id is not one.
            InvalidMessageError: A message cannot be journalled; none was.
            StoreError: The database could not be written; nothing was.
            Exception: What the function raises; nothing was journalled.
        """
        check_id(agent)
        check_id(session, "session")
        if is_select(messages):
            return self._append_selected(Selected(self._words, agent, session, messages))
        checked = check_messages(messages)
        words = self._words.ahead(message.text for message in checked)
        wanted = Append(agent, session, checked, words)
        if self._appends is not None and wanted.fits() and self._appends.write(wanted):
            return [message.id for message in checked]

        def work(connection: Connection) -> list[str]:
            again, wanted.tried = wanted.tried, True
            return journal.append(connection, words, agent, checked, session, again=again)

        return self._database.write(work)

    def _append_selected(self, selected: Selected) -> list[str]:
        self._database.read(selected.look)
        if not selected.messages:
            return []
        selected.cut_ahead()
        return self._database.write(selected.write)

    def live(self, agent: str, after: int = 0, session: str | None = None) -> list[Entry]:
        """Live messages of an agent beyond position ``after``, in order; of one session, where one is given."""
        check_scope(agent, session)
        arguments.whole(after, "after")
        return self._database.read(lambda connection: journal.live(connection, agent, after, session))

    def agents(self) -> list[AgentInfo]:
        """All agents, by id."""
        return self._database.read(lambda connection: journal.agents(connection))

    def agent(self, agent: str) -> AgentInfo | None:
        """One agent, or None where it has never been written to."""
        check_id(agent)
        return self._database.read(lambda connection: next(iter(journal.agents(connection, agent)), None))

    def knows(self, agent: str) -> bool:
        """Whether an agent was ever written to; as quick for a long journal as for a short one."""
        check_id(agent)
        return self._database.read(lambda connection: journal.agent_row(connection, agent) is not None, alone=True)

    def secret(self, agent: str) -> bytes | None:
        """The key of hashes about an agent that leave the database; None for an unknown agent.

        It is the agent's own, random, in no archive or fork, and goes when the agent is deleted.
        """
        check_id(agent)
        return self._database.read(lambda connection: journal.secret(connection, agent))

    def sessions(self, agent: str) -> list[str]:
        """An agent's sessions that have live messages, in the order in which they began."""
        check_id(agent)
        return self._database.read(lambda connection: journal.sessions(connection, agent))

    def at(self, agent: str, position: int) -> list[Entry]:
        """The messages that were live when the journal ended at ``position``, in order.

        Raises:
            UnknownAgentError: No such agent.
            ConfigError: The journal has no such position.
        """
        check_id(agent)

        def entries(connection: Connection) -> list[Entry]:
            found = timeline.required(connection, agent)
            timeline.check_position(agent, position, found.head)
            return journal.at_positions(connection, found.key, timeline.positions_at(connection, found, position))

        return self._database.read(entries)

    def log(self, agent: str, session: str | None = None, at: int | None = None) -> list[Entry]:
        """Live messages in order; of one session, or as the journal stood at a position. Empty for an unknown agent.

        Raises:
            ConfigError: The journal has no such position.
        """
        check_scope(agent, session)
        if at is None or not self.knows(agent):
            return self.live(agent, session=session)
        return [entry for entry in self.at(agent, at) if session in (None, entry.session)]

    def rollback(self, agent: str, position: int) -> int:
        """Let the journal go on from how it stood at ``position``: an entry of its own, which can be rolled back too.

        Returns:
            The position of that entry; the end of the journal where nothing changes and none was made.

        Raises:
            UnknownAgentError: No such agent.
            ConfigError: The journal has no such position.
        """
        check_id(agent)
        return self._database.write(lambda connection: timeline.rollback(connection, self._words, agent, position))

    def fork(self, agent: str, new: str) -> None:
        """Make ``new`` an agent with the same journal and states. From then on the two know nothing of one another.

        Raises:
            UnknownAgentError: No such agent.
            ConfigError: ``new`` exists.
        """
        check_id(agent)
        check_id(new)
        done: list[bool] = []

        def work(connection: Connection) -> None:
            if done and journal.agent_row(connection, new) is not None:
                return  # the first try had come through, and the answer was lost
            forking.fork(connection, self._words.fulltext, agent, new)
            done.append(True)

        self._database.write(work)

    # Erasure

    def erase(
        self,
        agent: str,
        chosen: Selection,
        *,
        forks: bool = False,
        dry_run: bool = False,
        tombstone: bool = True,
    ) -> Plan:
        """Delete messages and all that was made of them, or tell what would be; `purge` then cleans the files.

        Args:
            forks: Also from agents that share the messages by forking; without it these are listed.
            tombstone: Whether each message leaves a keyed hash, see `tombstones`. If not, those that earlier erasures
                have left go too, where ids or a session alone say which. With the whole agent all go in any case.

        Raises:
            UnknownAgentError: No such agent.
            ConfigError: Nothing was chosen, by times that are none, or by an id that several sessions have.
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
            return before[-1]  # the first try's, where it had come through and the answer was lost

        return run(work)

    def purge(self, *, whole: bool = True) -> str | None:
        """Take what was erased out of the database's files: why that has to wait, or None where nothing is left there.

        Args:
            whole: Whether that may keep others waiting for long: PostgreSQL's large tables are rewritten.

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

        return in_turn(self._purging, purge)  # whoever waited here finds that others have purged for all

    @property
    def outside_reach(self) -> tuple[str, ...]:
        """Where erased text may still be, that no statement of ours can reach."""
        return self._database.dialect.outside_reach

    # Archives

    def export(
        self, agent: str, path: Path, progress: archive.Progress | None = None, *, overwrite: bool = False
    ) -> int:
        """Write an agent's journal, states and embeddings to one file, see `archive`; how many messages.

        Args:
            overwrite: Whether a file that is there may be replaced.

        Raises:
            UnknownAgentError: No such agent.
            ConfigError: The file is there, or it is one of the database's own, which is never written over.
            StoreError: The file cannot be written.
        """
        check_id(agent)
        path = arguments.path(path)
        arguments.function(progress, "progress")
        check_target(path, file_of(self._database.url), overwrite=arguments.flag(overwrite, "overwrite"))
        return self._database.read(lambda connection: archive.export(connection, agent, path, progress))

    def import_(self, path: Path, agent: str | None = None, progress: archive.Progress | None = None) -> str:
        """Make an agent of a file that `export` wrote; all of it is checked before any is stored.

        States in the file are looked at and not stored: only a fold shows that a state is that of its journal.

        Args:
            agent: Its name here; by default that in the file.

        Returns:
            Its name.

        Raises:
            ArchiveError: The file is damaged, or no such file.
            ConfigError: There is such an agent already.
        """
        if agent is not None:
            check_id(agent)
        path = arguments.path(path)
        arguments.function(progress, "progress")
        checked = archive_reading.check(path, progress)
        done: list[str] = []

        def work(connection: Connection) -> str:
            if not done or journal.agent_row(connection, done[0]) is None:
                done[:] = [archive_reading.import_(connection, self._words, checked, agent, progress)]
            return done[0]

        return self._database.write(work)

    # Revisions

    def commit(self, agent: str, revision: Revision, *, after: int, keep: Collection[int] = ()) -> int:
        """Store a state that stands for the live journal up to ``revision.position``.

        It is stored if ``revision.epoch`` is the agent's and no revision of its fingerprint is as new. Which older ones
        then go, the store's retention says.

        Args:
            after: Position of the revision this one was folded from, 0 for none.
            keep: Positions whose revisions stay, besides that at ``after``.

        Returns:
            The position now stored: this one's, or a newer one that another process stored first; after the epoch rose
            the newest of the new epoch, 0 for none.

        Raises:
            UnknownAgentError: No such agent, or it was erased meanwhile; nothing was written.
            ConfigError: The position is not between ``after`` and the end of the journal, or a field is empty.
        """
        check_id(agent)
        arguments.instance(revision, "revision", Revision)
        arguments.whole(after, "after")
        arguments.wholes(list(keep) if isinstance(keep, (set, frozenset)) else keep, "keep")
        return self._database.write(
            lambda connection: revisions.commit(
                connection, agent, revision, after=after, keep=keep, retention=self._retention
            )
        )

    def newest_revision(self, agent: str, fingerprint: str, at_or_before: int | None = None) -> Revision | None:
        """The newest revision of the agent's present epoch with this fingerprint.

        Raises:
            StateMismatchError: Its bytes are not those that were stored.
        """
        check_id(agent)
        arguments.text(fingerprint, "fingerprint")
        arguments.whole(0 if at_or_before is None else at_or_before, "at_or_before")
        return self._database.read(
            lambda connection: revisions.newest(connection, agent, fingerprint, at_or_before), alone=True
        )

    def fold_input(
        self, agent: str, fingerprint: str, at: int | None = None, *, anew: bool = False
    ) -> FoldInput | None:
        """What there is to fold of an agent's journal, as it stands or stood at ``at``; None for an unknown agent.

        Args:
            anew: Whether stored states are left aside.

        Raises:
            ConfigError: The journal has no such position.
            StateMismatchError: A stored state is damaged.
        """
        check_id(agent)
        arguments.text(fingerprint, "fingerprint")
        anew = arguments.flag(anew, "anew")
        return self._database.read(lambda connection: fold_input(connection, agent, fingerprint, at, anew=anew))

    def revisions(self, agent: str) -> list[Revision]:
        """All revisions of the agent's present epoch, oldest first; their checksums are not compared."""
        check_id(agent)
        return self._database.read(lambda connection: revisions.listed(connection, agent))

    def stored_states(self, agent: str, fingerprint: str | None = None) -> StoredStates:
        """How many states of an agent are stored, how large they are, and where the newest of a fingerprint stands.

        Args:
            fingerprint: Any by default.
        """
        check_id(agent)
        arguments.text("" if fingerprint is None else fingerprint, "fingerprint")
        return self._database.read(lambda connection: revisions.summary(connection, agent, fingerprint))

    def backlog(self, fingerprint: str | None = None, model: str | None = None) -> Backlog:
        """What there is left to fold, to index and to embed, of all agents.

        Args:
            fingerprint: Of the states that count; any by default.
            model: Of the embeddings that count; any by default.
        """
        arguments.text("" if fingerprint is None else fingerprint, "fingerprint")
        arguments.text("" if model is None else model, "model")
        return self._database.read(lambda connection: backlog.count(connection, fingerprint, model))

    def drop_revisions(self, agent: str) -> int:
        """Delete an agent's stored states, which the journal can be folded into again.

        Returns:
            How many there were; 0 for an unknown agent.
        """
        check_id(agent)
        return self._database.write(lambda connection: revisions.drop(connection, agent))
