"""`Appender`: the part of `Store` by which messages enter the journal.

Where a database can write several tables in one statement, threads that append to different agents share a statement.
Messages with ids of the caller need a lookup first, so they get a transaction of their own.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from deltamem_agents.messages import NewMessage
from deltamem_agents.store import journal
from deltamem_agents.store.database import Database
from deltamem_agents.store.dialects import bulk_append
from deltamem_agents.store.records import Words
from deltamem_agents.store.schema import LOOKUP
from deltamem_agents.store.selected import Select, Selected
from deltamem_agents.store.write_queue import WriteQueue

SHARED = 100_000  # characters; a longer append gets its own transaction, so that others do not wait for it


@dataclass(slots=True)
class _Append:
    """Messages to append to an agent's journal.

    Args:
        words: Has the messages' texts already cut.
        tried: Whether a statement with these messages was sent and its outcome may be unknown.
    """

    agent: str
    session: str
    messages: Sequence[NewMessage]
    words: Words
    tried: bool = False

    def fits(self) -> bool:
        """Whether the messages can be appended in a shared statement."""
        size = sum(len(message.text) for message in self.messages)
        return 0 < len(self.messages) <= LOOKUP and size <= SHARED and not any(each.named for each in self.messages)


class Appender:
    """Appends to journals; each call is one transaction, or part of one that threads share.

    Args:
        words: Cuts messages into records.
    """

    def __init__(self, database: Database, words: Words) -> None:
        self._database = database
        self._words = words
        shared = database.dialect.writes_tables_at_once
        self._shared: WriteQueue[_Append] | None = WriteQueue(self._write_shared) if shared else None

    def append(self, agent: str, session: str, messages: Sequence[NewMessage]) -> list[str]:
        """Journal checked messages and return their ids; see `Store.append`."""
        words = self._words.ahead(message.text for message in messages)
        wanted = _Append(agent, session, messages, words)
        if self._shared is not None and wanted.fits() and self._shared.write(wanted):
            return [message.id for message in messages]

        def work(connection: Connection) -> list[str]:
            again, wanted.tried = wanted.tried, True
            return journal.append(connection, words, agent, messages, session, again=again)

        return self._database.write(work)

    def append_selected(self, agent: str, session: str, select: Select) -> list[str]:
        """Journal the messages that a function selects and return their ids; see `Store.append`."""
        selected = Selected(self._words, agent, session, select)
        self._database.read(selected.look)
        if not selected.messages:
            return []
        selected.cut_ahead()
        return self._database.write(selected.write)

    def _write_shared(self, appends: Sequence[_Append], _until: float | None) -> list[bool]:
        return self._database.write(lambda connection: _append_shared(connection, appends), alone=True)


def _append_shared(connection: Connection, appends: Sequence[_Append]) -> list[bool]:
    """Append each set of messages; returns for each whether it was stored.

    False if the agent does not exist yet, if another writer has it locked, or if an earlier statement was sent and its
    answer lost, so that the messages may be stored already.
    """
    if any(each.tried for each in appends):
        return [False] * len(appends)
    for each in appends:
        each.tried = True
    left = Counter({each.agent: 0 for each in appends})
    left.update(each.agent for each in appends for _ in each.messages)
    counts = dict(left)
    said, pieces = [], []
    for each in appends:
        for message in each.messages:
            left[each.agent] -= 1
            at = {"agent": each.agent, "left": left[each.agent]}
            said.append({**at, "session": each.session, **_said(message)})
            pieces += [{**at, **piece} for piece in _pieces(each.words, message)]
    stored = bulk_append.append(connection, counts, said, pieces)
    for each in appends:
        each.tried = each.agent in stored  # the answer came: an agent that is missing from it was not written
    return [each.tried for each in appends]


def _said(message: NewMessage) -> dict[str, Any]:
    return {
        "id": message.id,
        "role": message.role,
        "text": message.text,
        # As text: a character that JSON can escape but the database's text cannot hold stays escaped.
        "blocks": None if message.blocks is None else json.dumps(message.blocks),
        "metadata": json.dumps(message.metadata) if message.metadata else None,
        "created_at": message.created_at.isoformat(),
        "folded": message.folded,
    }


def _pieces(words: Words, message: NewMessage) -> Iterator[dict[str, Any]]:
    for chunk, piece in enumerate(words.pieces(message.text)):
        yield {"chunk": chunk, "text": piece.text, "terms": piece.terms, "cut": words.rule}
