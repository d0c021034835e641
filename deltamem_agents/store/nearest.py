"""Finds records by their embeddings, and builds the index over vectors. Also samples records and reads neighbours."""

from __future__ import annotations

import logging
import random
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Select, bindparam, func, select

from deltamem_agents.errors import ConfigError
from deltamem_agents.store import journal, records
from deltamem_agents.store.columns import DamagedValue
from deltamem_agents.store.database import Database
from deltamem_agents.store.dialects import Dialect, Within, rows_each
from deltamem_agents.store.dialects.rows import plain_rows
from deltamem_agents.store.records import StoredRecord
from deltamem_agents.store.schema import EmbeddingRow, MessageRow, RecordRow

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Found = tuple[list[int], NDArray[np.float32]]


log = logging.getLogger(__name__)

BLOCK = 4_096  # positions whose vectors are in memory at a time
FILLED = 1_000  # positions whose vectors one transaction adds to an index
LOOKED_AT = 8  # positions searched for neighbours on either side of a record

# Built once: building a statement takes longer than running it.
_OF_AGENT = select(RecordRow.key, EmbeddingRow.vector).join(
    EmbeddingRow, (EmbeddingRow.record_key == RecordRow.key) & (EmbeddingRow.model == bindparam("model"))
)
_BLOCK = _OF_AGENT.where(
    RecordRow.agent_key == bindparam("agent"),
    RecordRow.position >= bindparam("first"),
    RecordRow.position < bindparam("end"),
)
_NEXT = (
    select(RecordRow.position)
    .where(RecordRow.agent_key == bindparam("agent"), RecordRow.position >= bindparam("first"))
    .order_by(RecordRow.position)
    .limit(1)
)
_LAST = (
    select(RecordRow.position)
    .where(RecordRow.agent_key == bindparam("agent"))
    .order_by(RecordRow.position.desc())
    .limit(1)
)
_KEYED = _OF_AGENT.where(RecordRow.agent_key + 0 == bindparam("agent"))  # + 0: search by key, not by agent
_DIM = (
    select(EmbeddingRow.dim)
    .join(RecordRow, RecordRow.key == EmbeddingRow.record_key)
    .where(RecordRow.agent_key == bindparam("agent"), EmbeddingRow.model == bindparam("model"))
    .limit(1)
)
_KEYS_AT = select(RecordRow.key).where(RecordRow.agent_key == bindparam("agent"))
_PLACES = select(RecordRow.position).where(RecordRow.agent_key + 0 == bindparam("agent"))  # + 0: search by key
# Filtered for live messages in Python; in SQL, PostgreSQL would read all live messages of the agent.
_SESSIONS = select(MessageRow.position, MessageRow.session, MessageRow.left_at).where(
    MessageRow.agent_key == bindparam("agent")
)


def nearest(
    connection: Connection,
    dialect: Dialect,
    agent: str,
    model: str,
    vector: NDArray[np.float32],
    limit: int,
    within: Within,
) -> Found:
    """Keys [n] and cosines [n] of up to ``limit`` records, the nearest first.

    With an index, a few of the nearest may be missing; without one, all vectors are read, a block at a time.

    Raises:
        ConfigError: The vector's dimension differs from that of the stored ones.
        DamagedValue: A stored number is not finite.
    """
    import numpy as np

    nothing: Found = ([], np.zeros(0, np.float32))
    found = journal.agent_row(connection, agent)
    if found is None or limit <= 0 or not vector.any():
        return nothing
    stored = connection.scalar(_DIM, {"agent": found.key, "model": model})
    if stored is None:
        return nothing
    if stored != len(vector):
        raise ConfigError(
            f"embeddings of agent {agent!r} under model {model!r} have dimension {stored}, the query's has "
            f"{len(vector)}; give the other embedder another name"
        )
    known = dialect.vectors.found(connection, found.key, model) if dialect.vectors is not None else None
    if dialect.vectors is not None and known is not None and known.indexed:
        hits = dialect.vectors.nearest(connection, known, vector, limit, within)
        if len(hits) >= limit or not within:
            return [key for key, _ in hits], np.array([cosine for _, cosine in hits], np.float32)
    blocks = _blocks(connection, {"agent": found.key, "model": model}, found.head, within)
    return _best(blocks, vector, limit)


def by_key(connection: Connection, agent: str, model: str, keys: Sequence[int]) -> Found:
    """Keys [n] and embeddings [n, dim] of the given records that have one, in no order."""
    import numpy as np

    found = journal.agent_row(connection, agent)
    if found is None or not keys:
        return [], np.zeros((0, 0), np.float32)
    parameters = {"agent": found.key, "model": model}
    return _unpacked(list(rows_each(connection, _KEYED, RecordRow.key, keys, parameters, plain=True)))


def index_vectors(database: Database, agent: str, model: str) -> bool:
    """Build an index that `nearest` uses from now on; returns whether there is one.

    Continues where an earlier call was interrupted. Vectors that any process embeds meanwhile are indexed too.

    Raises:
        ClosedError: The database was closed.
        ForkedError: The database was opened in the parent process.
        StoreError: The database cannot be written.
    """
    vectors = database.dialect.vectors
    if vectors is None:
        return False

    def begin(connection: Connection) -> Any:
        found = journal.agent_row(connection, agent)
        if found is None:
            return None
        dim = connection.scalar(_DIM, {"agent": found.key, "model": model})
        known = vectors.found(connection, found.key, model)
        if dim is not None and (known is None or known.dim != dim):
            known = vectors.begin(connection, found.key, model, dim)
        return None if known is None or known.dim != dim else (known, found.key, found.head)

    begun = database.read(lambda connection: _indexed(connection, database.dialect, agent, model))
    if begun is not None:
        return begun
    made = database.write(begin)
    if made is None:
        return False
    known, key, head = made
    log.warning(
        "the vectors of agent %r are being indexed, which may take minutes; 'deltamem reindex' does that beforehand",
        agent,
    )
    last = min(head, database.read(lambda connection: connection.scalar(_LAST, {"agent": key})) or 0)
    for first in range(1, last + 1, FILLED):
        values = {"agent": key, "model": model, "first": first, "end": first + FILLED}

        def fill(connection: Connection, values: dict[str, Any] = values) -> None:
            # Locked until the transaction ends, so that no embedding is deleted before its vector refers to it.
            held = _BLOCK.with_for_update(read=True, key_share=True, of=EmbeddingRow)
            keys, matrix = _unpacked(plain_rows(connection.execute(held, values)))
            if keys:
                vectors.add(connection, known, model, keys, matrix)

        database.write(fill)
    database.write(lambda connection: vectors.index(connection, known))
    return True


def _indexed(connection: Connection, dialect: Dialect, agent: str, model: str) -> bool | None:
    """Whether there is an index: False if the agent is unknown or there can be none, None if it must be built."""
    found = journal.agent_row(connection, agent)
    if found is None or dialect.vectors is None:
        return False
    known = dialect.vectors.found(connection, found.key, model)
    return True if known is not None and known.indexed else None


def _blocks(connection: Connection, values: dict[str, Any], head: int, within: Within) -> Iterator[Found]:
    query = _narrowed(within) if within else _BLOCK
    first = connection.scalar(_NEXT, {**values, "first": 1})
    while first is not None and first <= head:  # each block begins at an existing record, so gaps cost nothing
        end = first + BLOCK
        keys, matrix = _unpacked(plain_rows(connection.execute(query, {**values, "first": first, "end": end})))
        if keys:
            yield keys, matrix
        first = connection.scalar(_NEXT, {**values, "first": end})


def _narrowed(within: Within) -> Select[int, bytes]:
    message = (MessageRow.agent_key == RecordRow.agent_key) & (MessageRow.position == RecordRow.position)
    return _BLOCK.join(MessageRow, message).where(*within.conditions())


def _unpacked(rows: Sequence[Any]) -> Found:
    import numpy as np

    if not rows:
        return [], np.zeros((0, 0), np.float32)
    flat = np.frombuffer(b"".join(row[1] for row in rows), "<f4").astype(np.float32, copy=False)
    return [row[0] for row in rows], flat.reshape(len(rows), -1)


def _best(blocks: Iterator[Found], vector: NDArray[np.float32], limit: int) -> Found:
    """The nearest vectors of all blocks; of equally near ones the later record first."""
    import numpy as np

    wanted = vector / np.linalg.norm(vector)
    keys, cosines = np.zeros(0, np.int64), np.zeros(0, np.float32)
    for more, matrix in blocks:
        lengths = np.linalg.norm(matrix, axis=1)
        lengths[lengths == 0] = 1
        keys = np.concatenate([keys, np.array(more, np.int64)])
        cosines = np.concatenate([cosines, matrix @ wanted / lengths])
        if not np.isfinite(cosines).all():
            raise DamagedValue("an embedding holds values that are not finite")
        if len(keys) > limit:
            kept = np.flatnonzero(cosines >= np.partition(cosines, -limit)[-limit])
            kept = kept[np.lexsort((-keys[kept], -cosines[kept]))[:limit]]
            keys, cosines = keys[kept], cosines[kept]
    order = np.lexsort((-keys, -cosines))
    return keys[order].tolist(), cosines[order].astype(np.float32)


def size(connection: Connection, agent: str, limit: int | None) -> int:
    """Number of an agent's records, counted up to ``limit``, since counting all of them takes longer."""
    found = journal.agent_row(connection, agent)
    if found is None:
        return 0
    of_agent: Select[Any] = select(RecordRow.position).where(RecordRow.agent_key == found.key)
    counted = (of_agent if limit is None else of_agent.limit(limit)).subquery()
    return connection.scalar(select(func.count()).select_from(counted)) or 0


def sample(connection: Connection, agent: str, count: int) -> list[int]:
    """Keys of the records at up to ``count`` random positions; the same until the journal grows."""
    found = journal.agent_row(connection, agent)
    if found is None:
        return []
    everything = range(1, found.head + 1)
    positions = random.Random(found.epoch).sample(everything, min(count, len(everything)))
    rows = rows_each(connection, _KEYS_AT, RecordRow.position, positions, {"agent": found.key}, plain=True)
    return sorted(row[0] for row in rows)


def around(connection: Connection, agent: str, keys: Sequence[int], reach: int) -> list[StoredRecord]:
    """Records with the given keys, and those of ``reach`` live messages before and after in their session, in order.

    Looks no further than `LOOKED_AT` positions to either side.
    """
    found = journal.agent_row(connection, agent)
    if found is None or not keys:
        return []
    parameters = {"agent": found.key}
    places = {row[0] for row in rows_each(connection, _PLACES, RecordRow.key, keys, parameters, plain=True)}
    looked_at = sorted({at + off for at in places for off in range(-LOOKED_AT, LOOKED_AT + 1)})
    seen = rows_each(connection, _SESSIONS, MessageRow.position, looked_at, parameters, plain=True)
    positions = _near(places, {row[0]: row[1] for row in seen if row[2] is None}, reach)
    near = rows_each(connection, _KEYS_AT, RecordRow.position, positions, parameters, plain=True)
    return records.read(connection, agent, [row[0] for row in near])


def _near(places: Collection[int], sessions: Mapping[int, str], reach: int) -> list[int]:
    """The given positions, and up to ``reach`` positions of the same session on either side of each.

    Args:
        sessions: Session of each live position.
    """
    kept: set[int] = set()
    for at in places:
        if at not in sessions:
            continue
        for step in (-1, 1):
            beside = range(at + step, at + step * (LOOKED_AT + 1), step)
            kept.update(islice((each for each in beside if sessions.get(each) == sessions[at]), reach))
        kept.add(at)
    return sorted(kept)
