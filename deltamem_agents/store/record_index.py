"""`RecordIndex`: the part of `Store` that searches records and stores their embeddings, for `recall`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from deltamem_agents import arguments
from deltamem_agents.errors import ConfigError, shown
from deltamem_agents.messages import check_id
from deltamem_agents.store import nearest, records, recutting
from deltamem_agents.store.database import Database
from deltamem_agents.store.dialects import Within
from deltamem_agents.store.records import StoredRecord, Words
from deltamem_agents.store.recutting import Recut
from deltamem_agents.store.schema import LOOKUP

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def check_scope(agent: str, session: str | None) -> None:
    """Check ids of an agent and, unless None, of a session.

    Raises:
        InvalidAgentError: One is not a valid id.
    """
    check_id(agent)
    if session is not None:
        check_id(session, "session")


def _check_vectors(given: object, axes: int) -> None:
    """Raise ConfigError unless this is an array of finite numbers with so many axes; sizes are checked elsewhere."""
    import numpy as np

    if not isinstance(given, np.ndarray) or given.dtype.kind not in "fiu" or not np.isfinite(given).all():
        raise ConfigError(f"the vectors are {shown(given)}; give a numpy array of finite numbers")
    if given.ndim != axes:
        raise ConfigError(f"the vectors have shape {given.shape}, of {given.ndim} axes; give {axes}")


def _check_limit(limit: object) -> None:
    arguments.whole(limit, "limit", -sys.maxsize, sys.maxsize)


class RecordIndex:
    """Records, their full text and their embeddings. Every call is about one agent; an unknown one has no records.

    Every method raises InvalidAgentError for an agent or session id that is not valid, ConfigError for an argument of
    the wrong type or out of range, and ClosedError, ForkedError and StoreError as `Database.read` and `write` do.
    """

    def __init__(self, database: Database, words: Words) -> None:
        self._database = database
        self._words = words

    def search_text(
        self, agent: str, terms: Sequence[str], limit: int, session: str | None = None
    ) -> list[tuple[StoredRecord, float]]:
        """Records that contain any of the terms, with scores, best first; of equal scores the newer record first.

        A score is BM25 on SQLite and ``ts_rank`` on PostgreSQL, higher is better; compare scores within one search
        only. Terms are words or phrases and are matched as text, never as query syntax.
        """
        check_scope(agent, session)
        arguments.terms(terms)
        _check_limit(limit)
        return self._database.read(
            lambda connection: records.found(connection, self._words.fulltext, agent, terms, limit, session)
        )

    def version(self, agent: str) -> tuple[int, int] | None:
        """See `MessageLookup.version`."""
        check_id(agent)
        return self._database.read(lambda connection: records.version(connection, agent), alone=True)

    def size(self, agent: str, limit: int | None = None) -> int:
        """Number of an agent's records, counted up to ``limit``, since counting all of them takes longer."""
        check_id(agent)
        arguments.whole(0 if limit is None else limit, "limit")
        return self._database.read(lambda connection: nearest.size(connection, agent, limit))

    def sample(self, agent: str, count: int) -> list[int]:
        """Keys of the records at up to ``count`` random positions of the journal; the same until the journal grows."""
        check_id(agent)
        arguments.whole(count, "count")
        return self._database.read(lambda connection: nearest.sample(connection, agent, count))

    def text_scores(
        self,
        agent: str,
        terms: Sequence[str],
        limit: int,
        session: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> Sequence[tuple[int, float]]:
        """Like `search_text`, but returns records' keys with scores, in no order.

        Args:
            since: Only messages written at or after this time; UTC if it has no zone.
            until: Only messages written before this time; UTC if it has no zone.
        """
        check_scope(agent, session)
        arguments.terms(terms)
        _check_limit(limit)
        arguments.moments(since, until)
        within = Within(session, since, until)
        return self._database.read(
            lambda connection: records.scores(connection, self._words.fulltext, agent, terms, limit, within)
        )

    def nearest(
        self,
        agent: str,
        model: str,
        vector: NDArray[np.float32],
        limit: int,
        session: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> tuple[list[int], NDArray[np.float32]]:
        """Keys [n] and cosines [n] of the up to ``limit`` records nearest to a vector [dim], nearest first.

        Exact, and as slow as reading all of the agent's vectors, unless `index_vectors` has indexed them.

        Args:
            model: Name of the embedder.
            since, until: As for `text_scores`.

        Raises:
            ConfigError: The vector's dimension differs from that of the stored ones.
        """
        check_scope(agent, session)
        arguments.text(model, "model")
        _check_vectors(vector, 1)
        _check_limit(limit)
        arguments.moments(since, until)
        dialect, within = self._database.dialect, Within(session, since, until)
        return self._database.read(
            lambda connection: nearest.nearest(connection, dialect, agent, model, vector, limit, within)
        )

    def index_vectors(self, agent: str, model: str) -> bool:
        """Index an agent's present and future vectors under a model; False without pgvector or without vectors.

        Takes minutes for a hundred thousand vectors; a call after an interruption continues. Until it is done,
        `nearest` is exact.

        Raises:
            StoreError: The database could not be written.
        """
        check_id(agent)
        arguments.text(model, "model")
        return nearest.index_vectors(self._database, agent, model)

    def around(self, agent: str, keys: Sequence[int], reach: int) -> list[StoredRecord]:
        """Records with the given keys, and those of the ``reach`` messages before and after in their session, in order.

        Looks no further than 8 journal positions to either side, which matters where sessions alternate.
        """
        check_id(agent)
        arguments.wholes(keys, "keys")
        arguments.whole(reach, "reach")
        return self._database.read(lambda connection: nearest.around(connection, agent, keys, reach))

    def read(
        self, agent: str, keys: Sequence[int] | None = None, session: str | None = None, *, after: int = 0
    ) -> list[StoredRecord]:
        """An agent's records after a position, in journal order; only those with ``keys``, if given."""
        check_scope(agent, session)
        arguments.wholes(() if keys is None else keys, "keys")
        arguments.whole(after, "after")
        alone = keys is None or len(keys) <= LOOKUP
        return self._database.read(
            lambda connection: records.read(connection, agent, keys, session, after), alone=alone
        )

    def missing_embeddings(
        self,
        agent: str,
        model: str,
        limit: int,
        *,
        after: int = 0,
        keys: Sequence[int] | None = None,
        newest: bool = False,
    ) -> list[tuple[int, str]]:
        """Key and text of up to ``limit`` records without an embedding under a model, in journal order.

        Args:
            after: Only records after this position.
            keys: Only records with these keys.
            newest: Whether to take the newest such records rather than the oldest.
        """
        check_id(agent)
        arguments.text(model, "model")
        _check_limit(limit)
        arguments.whole(after, "after")
        arguments.wholes(() if keys is None else keys, "keys")
        newest = arguments.flag(newest, "newest")
        return self._database.read(
            lambda connection: records.without_embedding(connection, agent, model, limit, after, keys, newest)
        )

    def cut_again(self, agent: str, *, after: int = 0) -> Recut | None:
        """Cut the next few hundred messages after a position that another rule cut, by the present rule.

        Messages whose records come out the same keep their embeddings. Others may use the memory meanwhile.

        Returns:
            How far this is done, and how many messages changed or stayed the same; None if nothing is left to do.

        Raises:
            StoreError: The database could not be written.
        """
        check_id(agent)
        arguments.whole(after, "after")
        return recutting.cut_again(self._database, self._words, agent, after)

    def put_embeddings(self, agent: str, model: str, keys: Sequence[int], vectors: NDArray[np.float32]) -> int:
        """Store embeddings [len(keys), dim], skipping records that are gone or already have one.

        Returns:
            The number stored.

        Raises:
            ConfigError: The shape does not match the keys or the dimension stored under this model's name, or the name
                is empty or too long.
            StoreError: The database could not be written.
        """
        check_id(agent)
        arguments.text(model, "model")
        arguments.wholes(keys, "keys")
        _check_vectors(vectors, 2)
        index = self._database.dialect.vectors
        return self._database.write(
            lambda connection: records.put_embeddings(connection, agent, model, keys, vectors, index)
        )

    def embeddings(self, agent: str, model: str, *, after: int = 0) -> tuple[list[int], NDArray[np.float32]]:
        """Keys [N] and embeddings [N, dim] under a model of the records after a position, in journal order."""
        check_id(agent)
        arguments.text(model, "model")
        arguments.whole(after, "after")
        return self._database.read(lambda connection: records.embeddings(connection, agent, model, after))

    def embeddings_of(self, agent: str, model: str, keys: Sequence[int]) -> tuple[list[int], NDArray[np.float32]]:
        """Keys [n] and embeddings [n, dim] of the given records that have one under a model, in no order."""
        check_id(agent)
        arguments.text(model, "model")
        arguments.wholes(keys, "keys")
        return self._database.read(lambda connection: nearest.by_key(connection, agent, model, keys))

    def embedding_models(self, agent: str) -> dict[str, int]:
        """Number of an agent's embeddings by model."""
        check_id(agent)
        return self._database.read(lambda connection: records.embedding_models(connection, agent))

    def drop_embeddings(self, agent: str, *, keep: str) -> int:
        """Delete an agent's embeddings under all models but one; returns the number deleted.

        Raises:
            StoreError: The database could not be written.
        """
        check_id(agent)
        arguments.text(keep, "keep")
        index = self._database.dialect.vectors
        return self._database.write(lambda connection: records.drop_embeddings(connection, index, agent, keep))
