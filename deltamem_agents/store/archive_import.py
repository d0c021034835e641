"""Stores a checked archive as an agent. Works on an open connection; `Store` owns the transaction.

States are not stored: only a fold proves that a state belongs to its journal.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Iterator, Set
from typing import Any

from sqlalchemy import Connection, insert, select

from deltamem_agents.errors import ArchiveError, ConfigError
from deltamem_agents.store import journal, records, timeline
from deltamem_agents.store.archive import FETCHED, Progress
from deltamem_agents.store.archive_reading import Checked, Placed, embeddings, messages, rollbacks
from deltamem_agents.store.schema import RecordRow, RollbackRow

HELD = 16 << 20  # bytes of messages stored in one batch, roughly
_IN_PIECES = select(RecordRow.position).distinct().where(RecordRow.chunk > 0)


def import_(
    connection: Connection, words: records.Words, checked: Checked, agent: str | None, progress: Progress | None
) -> str:
    """Store a checked archive as an agent; see `Store.import_`. The caller has begun a write.

    Raises:
        ArchiveError: The live messages do not match the rollbacks.
        ConfigError: The agent exists.
    """
    name = checked.agent if agent is None else agent
    head, until = checked.manifest["head"], checked.manifest["agent_ids_until"]
    if not journal.create(connection, name, head=head, agent_ids_until=until):
        raise ConfigError(f"agent {name!r} exists; import under another name, or delete that one first")
    made = timeline.required(connection, name)
    total = checked.manifest["messages"]
    with zipfile.ZipFile(checked.path) as archive:
        done = 0
        for rows in _batches(messages(archive, checked)):
            journal.store(connection, words, made.key, {each.position: _row(made.key, each) for each in rows})
            done += len(rows)
            if progress is not None:
                progress("messages", done, total)
        for row in rollbacks(archive, checked):
            connection.execute(insert(RollbackRow).values(agent_key=made.key, **row))
        cut = set[int]()
        if checked.manifest.get("cut") != words.rule:
            cut = {position for _, _, keys, _ in embeddings(archive, checked) for position, chunk in keys if chunk}
            cut |= set(connection.scalars(_IN_PIECES.where(RecordRow.agent_key == made.key)))
        for model, dim, keys, vectors in embeddings(archive, checked):
            _store_embeddings(connection, name, made.key, model, dim, keys, vectors, cut)
    if sorted(timeline.live_positions(connection, made.key)) != timeline.positions_at(connection, made, made.head):
        raise ArchiveError(f"{checked.path}: its live messages do not match its rollbacks")
    return name


def _store_embeddings(
    connection: Connection,
    agent: str,
    key: int,
    model: str,
    dim: int,
    keys: list[tuple[int, int]],
    vectors: bytes,
    cut: Set[int],
) -> None:
    """Store the embeddings of records that were cut by the present rule; the others are computed when needed.

    Args:
        cut: Positions of messages that another rule may have cut; their embeddings are skipped.
    """
    import numpy as np

    query = select(RecordRow.position, RecordRow.chunk, RecordRow.key).where(
        RecordRow.agent_key == key, RecordRow.position.between(keys[0][0], keys[-1][0])
    )
    found = {(row[0], row[1]): row[2] for row in connection.execute(query)}
    matrix = np.frombuffer(vectors, dtype="<f4").reshape(len(keys), dim)
    rows = [i for i, each in enumerate(keys) if each in found and each[0] not in cut]
    if rows:
        records.put_embeddings(connection, agent, model, [found[keys[i]] for i in rows], matrix[rows])


def _batches(placed: Iterable[Placed]) -> Iterator[list[Placed]]:
    rows: list[Placed] = []
    held = 0
    for each in placed:
        rows.append(each)
        held += each.size
        if len(rows) == FETCHED or held > HELD:
            yield rows
            rows, held = [], 0
    if rows:
        yield rows


def _row(key: int, placed: Placed) -> dict[str, Any]:
    row = journal.message_row(key, placed.position, placed.session, placed.message)
    return row | {"left_at": placed.left_at}
