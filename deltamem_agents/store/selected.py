"""A write that depends on what the session holds: two at once must not both find that something is missing there.

The first look takes no lock. The write locks the agent, as each write does; where the journal is not what it was at the
look, it looks again with the agent locked. So nobody waits for the looking of others, save where they met, and nothing
is tried over and over. Both are transactions of the database: processes meet there as threads do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeGuard

from sqlalchemy import Connection, delete

from deltamem_agents.store import journal
from deltamem_agents.store.held import Begun, Held
from deltamem_agents.store.messages import NewMessage, check_messages
from deltamem_agents.store.records import Words
from deltamem_agents.store.schema import AgentRow

Select = Callable[[Held], Sequence[Mapping[str, Any]]]


def is_select(value: object) -> TypeGuard[Select]:
    """Whether it is a function; a class can be called, too, and is none."""
    return callable(value) and not isinstance(value, type)


class Selected:
    """What `Store.append` writes that is given a function; its methods may be called again when a transaction failed.

    Args:
        words: Cuts messages.
    """

    def __init__(self, words: Words, agent: str, session: str, select: Select) -> None:
        self.messages: list[NewMessage] = []
        self._words = words
        self._agent, self._session, self._select = agent, session, select
        self._seen: tuple[int, int] | None = None  # epoch and head
        self._tried = False

    def look(self, connection: Connection) -> None:
        """Select the messages by what this transaction sees."""
        found = journal.agent_row(connection, self._agent)
        self._seen = None if found is None else (found.epoch, found.head)
        self.messages = check_messages(self._select(Held(Begun(connection))))

    def cut_ahead(self) -> None:
        """Cut the messages now, so that no transaction waits for that."""
        self._words = self._words.ahead(message.text for message in self.messages)

    def write(self, connection: Connection) -> list[str]:
        """Journal them, and where somebody wrote since the look, select them anew before; their ids."""
        found = journal.locked(connection, self._agent)
        again, self._tried = self._tried, True
        if again and journal.came_through(connection, found.key, self._session, self.messages):
            return [message.id for message in self.messages]
        unseen = self._seen != (found.epoch, found.head) and (self._seen is not None or found.head > 0)
        if again or unseen:  # what a transaction saw that was not stored may never have been
            self.look(connection)
        if not self.messages and not found.head:  # it was deleted since the look, and `locked` has made it
            connection.execute(delete(AgentRow).where(AgentRow.key == found.key))
        return journal.append(connection, self._words, self._agent, self.messages, self._session)
