"""`States`: the part of `Store` that keeps the states folded from agents' journals."""

from __future__ import annotations

from deltamem_agents import arguments
from deltamem_agents.messages import check_id
from deltamem_agents.store import revisions, statistics
from deltamem_agents.store.database import Database
from deltamem_agents.store.fold_input import FoldInput, fold_input
from deltamem_agents.store.revisions import Retention, Revision, check_retention
from deltamem_agents.store.statistics import StoredStates


class States:
    """Stored states of agents. Every call is about one agent; an unknown one has none.

    Every method raises InvalidAgentError for an agent's id that is not valid, ConfigError for an argument of the wrong
    type or out of range, and ClosedError, ForkedError and StoreError as `Database.read` and `write` do.

    Args:
        retention: Which states to keep; see `Store.open`.

    Raises:
        ConfigError: The retention is not valid.
    """

    def __init__(self, database: Database, retention: Retention) -> None:
        self._database = database
        self._retention = check_retention(retention)

    def commit(self, agent: str, revision: Revision, *, after: int) -> int:
        """Store a state folded from the live journal up to ``revision.position``.

        It is stored if ``revision.epoch`` is the agent's and no revision of its fingerprint is as new. The store's
        retention then decides which older ones are deleted.

        Args:
            after: Position of the revision this one was folded from, 0 for none.

        Returns:
            The position now stored: this one's, or a newer one that another process stored first. If the epoch has
            risen, the newest stored position, 0 for none.

        Raises:
            UnknownAgentError: No such agent, or it was erased meanwhile; nothing was written.
            ConfigError: The position is not between ``after`` and the end of the journal, or a field is empty.
        """
        check_id(agent)
        arguments.instance(revision, "revision", Revision)
        arguments.whole(after, "after")
        return self._database.write(
            lambda connection: revisions.commit(connection, agent, revision, after=after, retention=self._retention)
        )

    def newest(self, agent: str, fingerprint: str, at_or_before: int | None = None) -> Revision | None:
        """The newest revision of the agent's present epoch with this fingerprint; None if there is none.

        Raises:
            StateMismatchError: Its checksum does not match its bytes.
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
        """Collect the input for folding an agent's journal; None for an unknown agent.

        Args:
            at: Fold the journal as it was at this position; None for now.
            anew: Whether to ignore stored states.

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

    def positions(self, agent: str, fingerprint: str) -> list[int]:
        """Positions of the revisions of the agent's present epoch with this fingerprint, in order."""
        check_id(agent)
        arguments.text(fingerprint, "fingerprint")
        return self._database.read(lambda connection: revisions.positions(connection, agent, fingerprint))

    def summary(self, agent: str, fingerprint: str | None = None) -> StoredStates:
        """Count and size of an agent's stored states, and the position of the newest of a fingerprint.

        Args:
            fingerprint: The newest is that of this fingerprint; None for any.
        """
        check_id(agent)
        arguments.text("" if fingerprint is None else fingerprint, "fingerprint")
        return self._database.read(lambda connection: statistics.stored_states(connection, agent, fingerprint))

    def drop(self, agent: str) -> int:
        """Delete an agent's stored states; folding the journal makes them again.

        Returns:
            The number deleted; 0 for an unknown agent.
        """
        check_id(agent)
        return self._database.write(lambda connection: revisions.drop(connection, agent))
