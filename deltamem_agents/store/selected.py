"""A write that depends on what the session holds, such that two writers cannot both add the same missing message.

The selection first runs without a lock. The write then locks the agent, as every write does; if the journal has changed
since, the selection runs again under the lock. So writers wait for another's selection only when they collide, and no
write retries in a loop. Both steps are database transactions, so this holds across processes and threads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeGuard

from sqlalchemy import Connection, delete

from deltamem_agents.messages import NewMessage, check_messages
from deltamem_agents.store import journal
from deltamem_agents.store.message_lookup import Begun, MessageLookup
from deltamem_agents.store.records import Words
from deltamem_agents.store.schema import AgentRow

Select = Callable[[MessageLookup], Sequence[Mapping[str, Any]]]


def is_select(value: object) -> TypeGuard[Select]:
    """Whether a value is a function that selects messages; a class is callable too but does not count."""
    return callable(value) and not isinstance(value, type)


class Selected:
    """A write by `Store.append` with a selecting function; methods may run again when a transaction fails.

    Args:
        words: Cuts the messages into records.
    """

    def __init__(self, words: Words, agent: str, session: str, select: Select) -> None:
        self.messages: list[NewMessage] = []
        self._words = words
        self._agent, self._session, self._select = agent, session, select
        self._seen: tuple[int, int] | None = None  # epoch and head
        self._tried = False

    def look(self, connection: Connection) -> None:
        """Select the messages from what this transaction sees."""
        found = journal.agent_row(connection, self._agent)
        self._seen = None if found is None else (found.epoch, found.head)
        self.messages = check_messages(self._select(MessageLookup(Begun(connection))))

    def cut_ahead(self) -> None:
        """Cut the messages now, so that no transaction waits for the cutting."""
        self._words = self._words.ahead(message.text for message in self.messages)

    def write(self, connection: Connection) -> list[str]:
        """Journal the messages and return their ids; selects them again if the journal has changed since `look`."""
        found = journal.locked(connection, self._agent)
        again, self._tried = self._tried, True
        if again and journal.came_through(connection, found.key, self._session, self.messages):
            return [message.id for message in self.messages]
        unseen = self._seen != (found.epoch, found.head) and (self._seen is not None or found.head > 0)
        if again or unseen:  # after a failed try, what that transaction saw may have been rolled back
            self.look(connection)
        if not self.messages and not found.head:  # the agent was deleted since the look, and `locked` created it again
            connection.execute(delete(AgentRow).where(AgentRow.key == found.key))
        return journal.append(connection, self._words, self._agent, self.messages, self._session)
