"""Forks an agent by copying its rows under another key. Works on an open connection; `store` owns the transaction."""

from __future__ import annotations

from functools import cache
from typing import Any

from sqlalchemy import Column, Connection, MetaData, Table, insert, literal, select
from sqlalchemy.orm import aliased

from deltamem_agents.errors import ConfigError
from deltamem_agents.store import journal, timeline, tombstones
from deltamem_agents.store.dialects import FullText
from deltamem_agents.store.schema import Base, EmbeddingRow, MessageRow, RecordRow, RevisionRow, RollbackRow


def fork(connection: Connection, fulltext: FullText, agent: str, new: str) -> None:
    """Make ``new`` an agent with the same journal and states; see `Store.fork`. The caller has begun a write.

    Raises:
        ConfigError: ``new`` exists.
        UnknownAgentError: No such agent.
    """
    found = timeline.required(connection, agent, lock=True)
    origin, until = found.origin or found.key, found.agent_ids_until
    if not journal.create(connection, new, head=found.head, origin=origin, agent_ids_until=until):
        raise ConfigError(f"agent {new!r} exists; fork {agent!r} under another name, or delete that one first")
    made = timeline.required(connection, new)
    for table in (MessageRow, RollbackRow):
        _copy(connection, table, found.key, agent_key=made.key)
    _copy(connection, RevisionRow, found.key, agent_key=made.key, epoch=made.epoch)
    _copy(connection, RecordRow, found.key, *fulltext.columns, agent_key=made.key, key=None)
    _copy_embeddings(connection, found.key, made.key)
    tombstones.copy(connection, found.key, made.key)


def _copy(connection: Connection, model: type[Base], source: int, /, *more: str, **changed: Any) -> None:
    """Copy an agent's rows of one table.

    Args:
        more: Further columns to copy, which the model does not have.
        changed: New values of columns; None lets the database set the column.
    """
    table = _with_columns(model, more)
    columns = [each for each in table.columns if changed.get(each.name, each) is not None]
    values = [literal(changed[each.name]) if each.name in changed else each for each in columns]
    rows = select(*values).where(table.c.agent_key == source).order_by(table.c.position)
    connection.execute(insert(table).from_select(columns, rows))


@cache  # a new table for each fork would stay in SQLAlchemy's statement cache
def _with_columns(model: type[Base], more: tuple[str, ...]) -> Table:
    table = model.__table__
    assert isinstance(table, Table)
    if more:
        table = table.to_metadata(MetaData())
        for name in more:
            table.append_column(Column(name))
    return table


def _copy_embeddings(connection: Connection, key: int, new: int) -> None:
    old_record, new_record = aliased(RecordRow), aliased(RecordRow)
    same = (old_record.position == new_record.position) & (old_record.chunk == new_record.chunk)
    rows = (
        select(new_record.key, EmbeddingRow.model, EmbeddingRow.dim, EmbeddingRow.vector)
        .join(old_record, old_record.key == EmbeddingRow.record_key)
        .join(new_record, same)
        .where(old_record.agent_key == key, new_record.agent_key == new)
        .order_by(new_record.key)
    )
    columns = [EmbeddingRow.record_key, EmbeddingRow.model, EmbeddingRow.dim, EmbeddingRow.vector]
    connection.execute(insert(EmbeddingRow).from_select(columns, rows))
