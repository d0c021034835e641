"""`Held`: looks up the messages that a session holds or held, by id and by wording."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from sqlalchemy import Connection, bindparam, select

from deltamem_agents import arguments
from deltamem_agents.errors import ConfigError, shown
from deltamem_agents.messages import Entry, MessageRef, NewMessage, check_id
from deltamem_agents.store import journal, records, tombstones
from deltamem_agents.store.dialects import rows_among
from deltamem_agents.store.schema import MessageRow
from deltamem_agents.store.tombstones import Said

MAX_POSITION = 2**63 - 1

# Built once: building a statement takes longer than running it.
_OF_SESSION = select(MessageRow).where(
    MessageRow.agent_key == bindparam("key"),
    MessageRow.left_at.is_(None),
    MessageRow.session == bindparam("session"),
)

T = TypeVar("T")


class Reading(Protocol):
    """A source to read from: a `Database`, or an open transaction."""

    def read(self, work: Callable[[Connection], T], *, alone: bool = False) -> T:
        """Run ``work`` on a connection and return its result; ``alone`` if it runs a single statement."""


class Begun:
    """An open transaction: reads see its snapshot and its own writes."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def read(self, work: Callable[[Connection], T], *, alone: bool = False) -> T:
        """See `Reading.read`."""
        return work(self._connection)


class Held:
    """Reads what the sessions of an agent hold and held. Every call is about one agent; an unknown one has no messages.

    Every method raises InvalidAgentError for an agent or session id that is not valid, and, if it reads from a
    `Database`, ClosedError, ForkedError and StoreError as `Database.read` does.

    Args:
        database: Each call is one transaction of a `Database`, or part of a `Begun` transaction.
    """

    def __init__(self, database: Reading) -> None:
        self._reading = database

    def version(self, agent: str) -> tuple[int, int] | None:
        """A version that changes whenever the agent's records do; None for an unknown agent.

        Consists of a number that stays the same while records are only added, and the journal's last position.
        """
        check_id(agent)
        return self._reading.read(lambda connection: records.version(connection, agent), alone=True)

    def find(self, agent: str, refs: Collection[MessageRef | tuple[str, str]]) -> list[Entry]:
        """The live messages with these sessions and ids, in journal order.

        Raises:
            ConfigError: ``refs`` are not pairs of session and id.
        """
        check_id(agent)
        check_refs(refs)

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

        return self._reading.read(work)

    def ever_said(self, agent: str, session: str, messages: Sequence[NewMessage] = (), *, after: int = 0) -> list[Said]:
        """All messages that a session ever held, in conversation order: live, replaced and rolled back ones.

        Args:
            messages: Erased messages are included if they say the same as one of these.
            after: Only messages at a later position; does not apply to erased ones.

        Raises:
            ConfigError: ``messages`` were not checked by `check_messages`, or ``after`` is not a position.
        """
        _check_told(agent, session, messages)
        arguments.whole(after, "after", high=MAX_POSITION)

        def work(connection: Connection) -> list[Said]:
            return tombstones.ever_said(connection, agent, session, messages, after)

        return self._reading.read(work)

    def with_other_words(self, agent: str, session: str, messages: Sequence[NewMessage]) -> list[int]:
        """Indices of messages whose ids the session holds or held, but always with other words.

        Counts live, replaced, rolled back and erased messages.

        Raises:
            ConfigError: ``messages`` were not checked by `check_messages`.
        """
        _check_told(agent, session, messages)
        return self._reading.read(lambda connection: tombstones.with_other_words(connection, agent, session, messages))


def check_refs(refs: object) -> None:
    """Check pairs of session and id.

    Raises:
        ConfigError: They are not a collection of such pairs.
    """
    given = refs if isinstance(refs, Collection) and not isinstance(refs, (str, bytes, Mapping)) else None
    if given is None or not all(isinstance(each, tuple) and len(each) == 2 for each in given):
        raise ConfigError(f"messages are {shown(refs)}; give a list of pairs of session and id")
    for each in given:
        arguments.texts(each, "a pair of session and id")


def _check_told(agent: str, session: str, messages: Sequence[NewMessage]) -> None:
    """Check ids of an agent and session, and that messages come from `check_messages`."""
    check_id(agent)
    check_id(session, "session")
    if not isinstance(messages, Sequence) or not all(isinstance(each, NewMessage) for each in messages):
        raise ConfigError(f"messages is {shown(messages)}; give what check_messages returns")


def _in_order(rows: Iterable[Any]) -> list[Entry]:
    return sorted(map(journal.entry, rows), key=lambda each: each.position)
