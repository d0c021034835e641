"""Appends to several journals in one statement, where a database can write several tables in one: one round trip.

The statement waits for no lock: it skips an agent that is locked at the moment.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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

from deltamem_agents.store.schema import AgentRow, MessageRow, RecordRow


def append(
    connection: Connection,
    counts: Mapping[str, int],
    messages: Sequence[Mapping[str, Any]],
    records: Sequence[Mapping[str, Any]],
) -> set[str]:
    """Append messages to the journals of several agents, with their records.

    Args:
        counts: How many messages each agent gets.
        messages: The columns of each message, with ``agent`` in place of its key. In place of its position, ``left``
            says how many of the agent's messages follow it. Blocks and metadata are JSON as text, times are ISO 8601.
        records: The columns of each record, with ``agent`` and ``left`` of its message.

    Returns:
        The agents whose messages were stored. One is missing if it does not exist, or another writer has it locked.
    """
    wanted = [{"agent": agent, "count": count} for agent, count in counts.items()]
    return set(connection.scalars(_APPEND, {"wanted": wanted, "said": messages, "pieces": records}))


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
