"""Nearest vectors on PostgreSQL, by the extension pgvector: HNSW over cosines.

The vectors of agents that are searched this way are stored a second time, in half precision, which halves the size of
the index and changes no cosine by more than a thousandth. A *set* is an agent's vectors under one model. Each set has
its own partial index, so that agents' vectors do not slow down one another's search, and is indexed in one go once it
is filled.

Both tables are derived from `deltamem_embeddings` and created on first use if the extension is available. They are not
part of the versioned tables, and dropping them loses nothing. Deleting an embedding deletes its vector (foreign key).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import ARRAY, BigInteger, Connection, String, bindparam, text
from sqlalchemy.exc import DBAPIError

from deltamem_agents.messages import ID_LIMIT
from deltamem_agents.store.dialects.rows import Within, plain_rows
from deltamem_agents.store.dialects.tsvector import schema_prefix
from deltamem_agents.store.schema import UtcDateTime

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

DIMENSIONS = 4_000  # limit of an index over halfvec
OLDEST = (0, 7)  # first version with halfvec
ITERATIVE = (0, 8)  # first version that continues a scan when a filter leaves too few rows
LEAST_LOOKED_AT, MOST_LOOKED_AT = 200, 1_000  # range of hnsw.ef_search
LOCK = 0x64656C74  # advisory lock: shared by writers of embeddings, exclusive for beginning a set

TABLES = (
    """CREATE TABLE IF NOT EXISTS {prefix}deltamem_vector_sets (
           number BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
           agent_key BIGINT NOT NULL REFERENCES {prefix}deltamem_agents ON DELETE CASCADE,
           model VARCHAR({limit}) NOT NULL, dim INTEGER NOT NULL, indexed BOOLEAN NOT NULL DEFAULT false,
           UNIQUE (agent_key, model))""",
    """CREATE TABLE IF NOT EXISTS {prefix}deltamem_vectors (
           record_key BIGINT, model VARCHAR({limit}), set_number BIGINT NOT NULL, vector {types}.halfvec NOT NULL,
           PRIMARY KEY (record_key, model),
           FOREIGN KEY (record_key, model) REFERENCES {prefix}deltamem_embeddings ON DELETE CASCADE)""",
)
UNUSED = """SELECT c.relname FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
           WHERE i.indrelid = to_regclass(:vectors) AND c.relname ~ '^deltamem_vectors_[0-9]+$' AND NOT EXISTS (
               SELECT 1 FROM {prefix}deltamem_vector_sets s WHERE c.relname = 'deltamem_vectors_' || s.number)"""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class VectorSet:
    """An agent's vectors under one model; ``indexed`` once all existing vectors are in and the index is built."""

    number: int
    dim: int
    indexed: bool


class Pgvector:
    """Indexes the vectors of agents that are too large to be held in memory. Works on an open connection."""

    def __init__(self) -> None:
        self._told = False

    def found(self, connection: Connection, agent_key: int, model: str) -> VectorSet | None:
        """The agent's set under a model; None if there is none."""
        if not self._exists(connection):
            return None
        query = f"SELECT number, dim, indexed FROM {schema_prefix(connection)}deltamem_vector_sets"
        row = connection.execute(
            text(f"{query} WHERE agent_key = :agent_key AND model = :model"), {"agent_key": agent_key, "model": model}
        ).one_or_none()
        return None if row is None else VectorSet(*row)

    def begin(self, connection: Connection, agent_key: int, model: str, dim: int) -> VectorSet | None:
        """The agent's set under a model, created if missing; from now on `put` adds to it.

        Waits until transactions that write embeddings have ended. Logs a warning and returns None if pgvector is
        missing, too old or limited to fewer dimensions.
        """
        if dim > DIMENSIONS:
            self._tell(f"its index takes up to {DIMENSIONS} dimensions, model {model!r} has {dim}")
            return None
        prefix = schema_prefix(connection)
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({LOCK})")
        types = self._types(connection, create=True)
        if types is None:
            return None
        made = not self._exists(connection)
        for statement in TABLES:
            connection.exec_driver_sql(statement.format(prefix=prefix, types=types, limit=ID_LIMIT))
        if made:  # see `rewriting`
            connection.exec_driver_sql(f"ALTER TABLE {prefix}deltamem_vectors ALTER COLUMN vector SET STATISTICS 0")
        self.tidy(connection)
        connection.execute(
            text(
                f"INSERT INTO {prefix}deltamem_vector_sets (agent_key, model, dim) VALUES (:agent_key, :model, :dim)"
                " ON CONFLICT DO NOTHING"
            ),
            {"agent_key": agent_key, "model": model, "dim": dim},
        )
        return self.found(connection, agent_key, model)

    def hold(self, connection: Connection) -> None:
        """Prevent sets from being begun until this transaction, which writes embeddings, has ended."""
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock_shared({LOCK})")

    def put(
        self, connection: Connection, agent_key: int, model: str, keys: Sequence[int], vectors: NDArray[np.float32]
    ) -> None:
        """Add stored embeddings [len(keys), dim] to their set, if there is one; call `hold` first."""
        known = self.found(connection, agent_key, model) if len(keys) else None
        if known is None:
            return
        if known.dim != vectors.shape[1]:  # the old dimension's embeddings are gone, or these would have been refused
            self._drop(connection, "number = :number", number=known.number)
            return
        self.add(connection, known, model, keys, vectors)

    def add(
        self, connection: Connection, known: VectorSet, model: str, keys: Sequence[int], vectors: NDArray[np.float32]
    ) -> None:
        """Add embeddings to a set, skipping those that it has and those that are not finite."""
        written = {key: each for key, row in zip(keys, vectors, strict=True) if (each := _written(row)) is not None}
        add = text(
            f"INSERT INTO {schema_prefix(connection)}deltamem_vectors (record_key, model, set_number, vector)"
            f" SELECT key, :model, :number, CAST(vector AS {self._types(connection)}.halfvec)"
            " FROM unnest(CAST(:keys AS BIGINT[]), CAST(:vectors AS TEXT[])) AS given(key, vector)"
            " ON CONFLICT DO NOTHING"
        ).bindparams(bindparam("keys", type_=ARRAY(BigInteger)), bindparam("vectors", type_=ARRAY(String)))
        values = {"keys": list(written), "vectors": list(written.values())}
        connection.execute(add, {"model": model, "number": known.number, **values})

    def index(self, connection: Connection, known: VectorSet) -> None:
        """Build the index of a filled set. Writers to any set wait meanwhile; readers do not."""
        types, prefix = self._types(connection), schema_prefix(connection)
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({LOCK + 1})")  # one process at a time
        connection.exec_driver_sql(
            f"CREATE INDEX IF NOT EXISTS deltamem_vectors_{known.number} ON {prefix}deltamem_vectors"
            f" USING hnsw ((vector::{types}.halfvec({known.dim})) {types}.halfvec_cosine_ops)"
            f" WHERE set_number = {known.number}"
        )
        connection.exec_driver_sql(
            f"ALTER INDEX {prefix}deltamem_vectors_{known.number} ALTER COLUMN 1 SET STATISTICS 0"
        )
        connection.exec_driver_sql(
            f"UPDATE {prefix}deltamem_vector_sets SET indexed = true WHERE number = {known.number}"
        )

    def drop(self, connection: Connection, agent_key: int, keep: str) -> None:
        """Delete an agent's sets under all models but one."""
        if self._exists(connection):
            self._drop(connection, "agent_key = :agent_key AND model <> :keep", agent_key=agent_key, keep=keep)

    def tidy(self, connection: Connection) -> None:
        """Drop the indexes of deleted sets."""
        if not self._exists(connection):
            return
        prefix = schema_prefix(connection)
        unused = text(UNUSED.format(prefix=prefix))
        for name in connection.scalars(unused, {"vectors": f"{prefix}deltamem_vectors"}).all():
            connection.exec_driver_sql(f"DROP INDEX {prefix}{name}")

    def tables(self, connection: Connection) -> tuple[str, ...]:
        """Further tables to vacuum, without the prefix of their names."""
        return ("vectors", "vector_sets") if self._exists(connection) else ()

    def nearest(
        self, connection: Connection, known: VectorSet, vector: NDArray[np.float32], limit: int, within: Within
    ) -> list[tuple[int, float]]:
        """Keys and cosines of the records of an indexed set nearest to a vector; a filter may leave too few."""
        types, prefix = self._types(connection), schema_prefix(connection)
        looked_at = min(max(2 * limit, LEAST_LOOKED_AT), MOST_LOOKED_AT)
        settings = {"hnsw.ef_search": str(looked_at), "enable_seqscan": "off"}
        if self._version(connection) >= ITERATIVE:
            settings["hnsw.iterative_scan"] = "relaxed_order"
        set_each = ", ".join(f"set_config('{name}', '{value}', true)" for name, value in settings.items())
        connection.exec_driver_sql(f"SELECT {set_each}")
        kind = f"{types}.halfvec({known.dim})"
        distance = f"v.vector::{kind} OPERATOR({types}.<=>) CAST(:vector AS {kind})"
        query = f"SELECT v.record_key, 1 - ({distance}) FROM {prefix}deltamem_vectors v"
        conditions = f"v.set_number = {known.number}"  # a literal, so that the planner can use the partial index
        values: dict[str, Any] = {"vector": _written(vector), "limit": limit}
        typed = []
        if within:
            query += (
                f" JOIN {prefix}deltamem_records r ON r.key = v.record_key"
                f" JOIN {prefix}deltamem_messages m ON m.agent_key = r.agent_key AND m.position = r.position"
            )
            for name, condition in (
                ("session", "m.session = :session"),
                ("since", "m.created_at >= :since"),
                ("until", "m.created_at < :until"),
            ):
                if getattr(within, name) is not None:
                    conditions += f" AND {condition}"
                    values[name] = getattr(within, name)
                    typed.append(bindparam(name, type_=String if name == "session" else UtcDateTime))
        found = text(f"{query} WHERE {conditions} ORDER BY {distance} LIMIT :limit").bindparams(*typed)
        return [(row[0], float(row[1])) for row in plain_rows(connection.execute(found, values))]

    def _exists(self, connection: Connection) -> bool:
        name = f"{schema_prefix(connection)}deltamem_vectors"
        return connection.scalar(text("SELECT to_regclass(:name) IS NOT NULL"), {"name": name}) is True

    def _drop(self, connection: Connection, condition: str, **values: Any) -> None:
        prefix = schema_prefix(connection)
        connection.execute(text(f"DELETE FROM {prefix}deltamem_vector_sets WHERE {condition}"), values)
        self.tidy(connection)

    def _version(self, connection: Connection) -> tuple[int, ...]:
        told = connection.scalar(text("SELECT extversion FROM pg_extension WHERE extname = 'vector'"))
        return tuple(int(part) for part in str(told).split(".")[:2] if part.isdigit()) if told else ()

    def _types(self, connection: Connection, *, create: bool = False) -> str | None:
        """The quoted schema of the extension's types; None, with a warning logged, if it is missing or too old."""
        if create and not self._version(connection):
            try:
                with connection.begin_nested():
                    connection.exec_driver_sql("CREATE EXTENSION IF NOT EXISTS vector")
            except DBAPIError as error:
                if not self._version(connection):  # otherwise another process has created it meanwhile
                    self._tell(" ".join(str(error.orig).split("\n")[0].split()))
                    return None
        version = self._version(connection)
        if version < OLDEST:
            self._tell(f"this one is {'.'.join(map(str, version))}, 0.7 or a newer one is needed")
            return None
        query = (
            "SELECT quote_ident(nspname) FROM pg_extension JOIN pg_namespace n ON n.oid = extnamespace"
            " WHERE extname = 'vector'"
        )
        return str(connection.scalar(text(query)))

    def _tell(self, why: str) -> None:
        if not self._told:
            self._told = True
            log.warning("pgvector is not used (%s): large agents' vectors are all read at each search", why)


def _written(vector: NDArray[np.float32]) -> str | None:
    """The vector scaled to length 1, in pgvector's text form; None if it is not finite."""
    import numpy as np

    length = float(np.linalg.norm(vector.astype(np.float64)))
    if not np.isfinite(length):
        return None
    return f"[{','.join(map('{:.5g}'.format, (vector / (length or 1.0)).tolist()))}]"
