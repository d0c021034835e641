"""Appends in one statement where a database can write several tables in one: one round trip, one transaction.

Only for messages without caller-given ids, which need no lookup first. Threads that append to different agents share
a statement. The statement waits for no lock: it skips an agent that is locked at the moment.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Connection,
    DateTime,
    Integer,
    Select,
    TableValuedAlias,
    Text,
    any_,
    bindparam,
    cast,
    column,
    func,
    insert,
    select,
    true,
    update,
)

from deltamem_agents.messages import NewMessage
from deltamem_agents.store import records
from deltamem_agents.store.schema import LOOKUP, AgentRow, MessageRow, RecordRow

SHARED = 100_000  # characters; a longer append gets its own transaction, so that others do not wait for it


@dataclass(slots=True)
class Append:
    """Messages to append to an agent's journal.

    Args:
        words: Has the messages' texts already cut.
        tried: Whether a statement with these messages was sent and its outcome may be unknown.
    """

    agent: str
    session: str
    messages: Sequence[NewMessage]
    words: records.Words
    tried: bool = False

    def fits(self) -> bool:
        """Whether the messages can be appended in a shared statement."""
        size = sum(len(message.text) for message in self.messages)
        return 0 < len(self.messages) <= LOOKUP and size <= SHARED and not any(each.named for each in self.messages)


def append(connection: Connection, appends: Sequence[Append]) -> list[bool]:
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
    wanted = [{"agent": agent, "count": count} for agent, count in left.items()]
    said, pieces = [], []
    for each in appends:
        for message in each.messages:
            left[each.agent] -= 1
            at = {"agent": each.agent, "left": left[each.agent]}
            said.append({**at, "session": each.session, **_said(message)})
            pieces += [{**at, **piece} for piece in _pieces(each.words, message)]
    values = {"wanted": wanted, "said": said, "pieces": pieces}
    stored = set(connection.scalars(_APPEND, values))
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


def _pieces(words: records.Words, message: NewMessage) -> Iterator[dict[str, Any]]:
    for chunk, piece in enumerate(words.pieces(message.text)):
        yield {"chunk": chunk, "text": piece.text, "terms": piece.terms, "cut": words.rule}


def _rows(name: str, **columns: Any) -> TableValuedAlias:
    """A table whose rows are the objects of a JSON list, given as a parameter."""
    typed = [column(each, kind) for each, kind in columns.items()]
    given = func.json_to_recordset(bindparam(name, type_=JSON))
    return given.table_valued(*typed, name=f"{name}_rows").render_derived(with_types=True)


def _statement() -> Select[Any]:
    wanted = _rows("wanted", agent=Text, count=BigInteger)
    # The lateral join makes PostgreSQL loop over the wanted agents: whatever its statistics, no plan scans a table.
    # This first subquery skips locked agents.
    one = (
        select(AgentRow.key)
        .where(AgentRow.id == wanted.c.agent)
        .limit(1)
        .with_for_update(skip_locked=True)
        .lateral("one")
    )
    locked = select(one.c.key, wanted.c.count).select_from(wanted.join(one, true())).cte("locked")
    count = select(locked.c.count).where(locked.c.key == AgentRow.key).scalar_subquery()
    taken = (
        update(AgentRow)
        .where(AgentRow.key == any_(func.array(select(locked.c.key).scalar_subquery())))
        .values(head=AgentRow.head + count)
        .returning(AgentRow.key, AgentRow.id, AgentRow.head)
        .cte("taken")
    )
    said = _rows(
        "said",
        agent=Text,
        left=Integer,
        session=Text,
        id=Text,
        role=Text,
        text=Text,
        blocks=Text,
        metadata=Text,
        created_at=DateTime(timezone=True),
        folded=Boolean,
    )
    messages = select(
        taken.c.key,
        taken.c.head - said.c.left,
        said.c.id,
        said.c.session,
        said.c.role,
        said.c.text,
        cast(said.c.blocks, JSON),
        cast(said.c.metadata, JSON),
        said.c.created_at,
        said.c.folded,
    ).select_from(taken.join(said, taken.c.id == said.c.agent))
    pieces = _rows("pieces", agent=Text, left=Integer, chunk=Integer, text=Text, terms=Text, cut=BigInteger)
    cut = select(
        taken.c.key,
        taken.c.head - pieces.c.left,
        pieces.c.chunk,
        pieces.c.text,
        pieces.c.terms,
        pieces.c.cut,
    ).select_from(taken.join(pieces, taken.c.id == pieces.c.agent))
    columns = ["agent_key", "position", "id", "session", "role", "text", "blocks", "metadata", "created_at", "folded"]
    stored = insert(MessageRow).from_select(columns, messages).cte("stored")
    found = insert(RecordRow).from_select(["agent_key", "position", "chunk", "text", "terms", "cut"], cut)
    return select(taken.c.id).add_cte(stored, found.cte("found"))


_APPEND = _statement()
