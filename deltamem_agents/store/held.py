"""`Held`: what sessions hold and held, by ids and by what was said; of the database, or within a transaction."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from sqlalchemy import Connection, bindparam, select

from deltamem_agents import arguments
from deltamem_agents.errors import ConfigError, shown
from deltamem_agents.store import journal, records, tombstones
from deltamem_agents.store.dialects import rows_among
from deltamem_agents.store.messages import Entry, MessageRef, NewMessage, check_id
from deltamem_agents.store.schema import MessageRow
from deltamem_agents.store.tombstones import Said

MAX_POSITION = 2**63 - 1

# Made once, as making a statement takes longer than to run it.
_OF_SESSION = select(MessageRow).where(
    MessageRow.agent_key == bindparam("key"),
    MessageRow.left_at.is_(None),
    MessageRow.session == bindparam("session"),
)

T = TypeVar("T")


class Reading(Protocol):
    """What can be read: a `Database`, or a transaction that was begun."""

    def read(self, work: Callable[[Connection], T], *, alone: bool = False) -> T:
        """What ``work`` makes of a connection; ``alone`` where it runs one statement."""


class Begun:
    """A transaction that was begun: what is read sees all that it sees, and what it has written."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def read(self, work: Callable[[Connection], T], *, alone: bool = False) -> T:
        """As `Reading.read`."""
        return work(self._connection)


class Held:
    """What the sessions of an agent hold, and what they held. Every call is about one agent; an unknown one has none.

    Args:
        database: Each call is one transaction, or part of the one that was begun.
    """

    def __init__(self, database: Reading) -> None:
        self._reading = database

    def version(self, agent: str) -> tuple[int, int] | None:
        """What changes when an agent's records do; None if it is unknown.

        A number that stays while records are only added, and the last position of the journal.
        """
        check_id(agent)
        return self._reading.read(lambda connection: records.version(connection, agent), alone=True)

    def find(self, agent: str, refs: Collection[MessageRef | tuple[str, str]]) -> list[Entry]:
        """The live messages with these sessions and ids, in the journal's order."""
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
        """All that a session ever held, in the order of the conversation: live, replaced and rolled back messages.

        Args:
            messages: Of messages that were erased, those that said the same as one of these are given too.
            after: Only what is at a later position of the journal; of what was erased, all.
        """
        _check_told(agent, session, messages)
        arguments.whole(after, "after", high=MAX_POSITION)

        def work(connection: Connection) -> list[Said]:
            return tombstones.ever_said(connection, agent, session, messages, after)

        return self._reading.read(work)

    def with_other_words(self, agent: str, session: str, messages: Sequence[NewMessage]) -> list[int]:
        """Places of messages whose ids a session held, live, replaced, rolled back or erased, but with other words."""
        _check_told(agent, session, messages)
        return self._reading.read(lambda connection: tombstones.with_other_words(connection, agent, session, messages))


def check_refs(refs: object) -> None:
    """Raise ConfigError unless these are pairs of session and id."""
    given = refs if isinstance(refs, Collection) and not isinstance(refs, (str, bytes, Mapping)) else None
    if given is None or not all(isinstance(each, tuple) and len(each) == 2 for each in given):
        raise ConfigError(f"messages are {shown(refs)}; give a list of pairs of session and id")
    for each in given:
        arguments.texts(each, "a pair of session and id")


def _check_told(agent: str, session: str, messages: Sequence[NewMessage]) -> None:
    """Raise what is wrong with an agent, one of its sessions, and messages as `check_messages` gives them."""
    check_id(agent)
    check_id(session, "session")
    if not isinstance(messages, Sequence) or not all(isinstance(each, NewMessage) for each in messages):
        raise ConfigError(f"messages is {shown(messages)}; give what check_messages returns")


def _in_order(rows: Iterable[Any]) -> list[Entry]:
    return sorted(map(journal.entry, rows), key=lambda each: each.position)
