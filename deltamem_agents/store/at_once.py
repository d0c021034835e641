"""Appending in one statement, where a database's statement may write several tables: one round trip, one transaction.

For messages without ids of the caller's, as nothing has to be looked up first.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Connection,
    DateTime,
    Integer,
    Select,
    TableValuedAlias,
    Text,
    bindparam,
    cast,
    column,
    func,
    insert,
    select,
    true,
    update,
)

from deltamem_agents.store import records
from deltamem_agents.store.messages import NewMessage
from deltamem_agents.store.schema import LOOKUP, AgentRow, MessageRow, RecordRow


def fits(messages: Sequence[NewMessage]) -> bool:
    """Whether messages can be appended this way."""
    return 0 < len(messages) <= LOOKUP and not any(message.named for message in messages)


def append(
    connection: Connection, words: records.Words, agent: str, messages: Sequence[NewMessage], session: str
) -> bool:
    """As `journal.append`; False where there is no such agent yet, and nothing was written."""
    said = [
        {
            "nth": nth,
            "id": message.id,
            "role": message.role,
            "text": message.text,
            # As text: a character that JSON can name and the database's text cannot hold stays as it was named.
            "blocks": None if message.blocks is None else json.dumps(message.blocks),
            "metadata": json.dumps(message.metadata) if message.metadata else None,
            "created_at": message.created_at.isoformat(),
        }
        for nth, message in enumerate(messages, 1)
    ]
    pieces = [
        {"nth": nth, "chunk": chunk, "text": piece, "terms": words.fulltext.terms(piece)}
        for nth, message in enumerate(messages, 1)
        for chunk, piece in enumerate(words.split(message.text))
    ]
    values = {"agent": agent, "session": session, "count": len(messages), "said": said, "pieces": pieces}
    return connection.execute(_APPEND, values).first() is not None


def _rows(name: str, **columns: Any) -> TableValuedAlias:
    """A parameter that holds a JSON list of objects, as a table."""
    typed = [column(each, kind) for each, kind in columns.items()]
    given = func.json_to_recordset(bindparam(name, type_=JSON))
    return given.table_valued(*typed, name=f"{name}_rows").render_derived(with_types=True)


def _statement() -> Select[Any]:
    count = bindparam("count", type_=BigInteger)
    taken = (
        update(AgentRow)
        .where(AgentRow.id == bindparam("agent"))
        .values(head=AgentRow.head + count)
        .returning(AgentRow.key, (AgentRow.head - count).label("before"))
        .cte("taken")
    )
    said = _rows(
        "said",
        nth=Integer,
        id=Text,
        role=Text,
        text=Text,
        blocks=Text,
        metadata=Text,
        created_at=DateTime(timezone=True),
    )
    messages = select(
        taken.c.key,
        taken.c.before + said.c.nth,
        said.c.id,
        bindparam("session", type_=Text),
        said.c.role,
        said.c.text,
        cast(said.c.blocks, JSON),
        cast(said.c.metadata, JSON),
        said.c.created_at,
    ).select_from(taken.join(said, true()))
    pieces = _rows("pieces", nth=Integer, chunk=Integer, text=Text, terms=Text)
    cut = select(taken.c.key, taken.c.before + pieces.c.nth, pieces.c.chunk, pieces.c.text, pieces.c.terms).select_from(
        taken.join(pieces, true())
    )
    columns = ["agent_key", "position", "id", "session", "role", "text", "blocks", "metadata", "created_at"]
    stored = insert(MessageRow).from_select(columns, messages).cte("stored")
    found = insert(RecordRow).from_select(["agent_key", "position", "chunk", "text", "terms"], cut)
    return select(taken.c.before).add_cte(stored, found.cte("found"))


_APPEND = _statement()
