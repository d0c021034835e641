"""`Index`: the records of many agents, as `recall` asks for them. The half of `Store` that knows no journal."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from deltamem_agents import arguments
from deltamem_agents.errors import ConfigError, shown
from deltamem_agents.store import nearest, records, recutting
from deltamem_agents.store.database import Database
from deltamem_agents.store.dialects import Within
from deltamem_agents.store.messages import check_id
from deltamem_agents.store.records import StoredRecord, Words
from deltamem_agents.store.recutting import Recut
from deltamem_agents.store.schema import LOOKUP

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def check_scope(agent: str, session: str | None) -> None:
    """Raise InvalidAgentError unless these are ids; no session is all of them."""
    check_id(agent)
    if session is not None:
        check_id(session, "session")


def _check_vectors(given: object, axes: int) -> None:
    """Raise ConfigError unless this is an array of finite numbers; its lengths are compared elsewhere."""
    import numpy as np

    if not isinstance(given, np.ndarray) or given.dtype.kind not in "fiu" or not np.isfinite(given).all():
        raise ConfigError(f"the vectors are {shown(given)}; give a numpy array of finite numbers")
    if given.ndim != axes:
        raise ConfigError(f"the vectors have shape {given.shape}, of {given.ndim} axes; give {axes}")


def _check_limit(limit: object) -> None:
    arguments.whole(limit, "limit", -sys.maxsize, sys.maxsize)


class Index:
    """Records, their full text and their embeddings. Every call is about one agent; an unknown one has no records."""

    def __init__(self, database: Database, words: Words) -> None:
        self._database = database
        self._words = words

    def search_text(
        self, agent: str, terms: Sequence[str], limit: int, session: str | None = None
    ) -> list[tuple[StoredRecord, float]]:
        """Records that hold any of the terms, with scores (higher is better), best first, the newer of equals.

        The scores are BM25 on SQLite, ``ts_rank`` on PostgreSQL; they compare within one search. Terms are words or
        phrases; whatever they hold is text, never syntax.
        """
        check_scope(agent, session)
        arguments.terms(terms)
        _check_limit(limit)
        return self._database.read(
            lambda connection: records.found(connection, self._words.fulltext, agent, terms, limit, session)
        )

    def size(self, agent: str, limit: int | None = None) -> int:
        """How many records an agent has; ``limit`` where it has more, as counting all of them takes longer."""
        check_id(agent)
        arguments.whole(0 if limit is None else limit, "limit")
        return self._database.read(lambda connection: nearest.size(connection, agent, limit))

    def sample(self, agent: str, count: int) -> list[int]:
        """Keys of the records of ``count`` messages at random, or of all; the same until the journal grows."""
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
        """As `search_text`, the records' keys alone, and in no order.

        Args:
            since, until: Written at or after, and before; UTC where they name no zone.
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
        """Keys [n] and cosines [n] of up to ``limit`` records nearest to a vector [dim] under a model, nearest first.

        Exact, and as slow as reading all of the agent's vectors, unless `index_vectors` could index them.

        Args:
            since, until: As `text_scores`.

        Raises:
            ConfigError: The vector has another dimension than those that are stored.
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
        """Index an agent's vectors under a model, those to come as well; whether they are, which takes pgvector.

        Takes minutes for a hundred thousand; interrupted, it goes on where it was. Until then `nearest` is exact.

        Raises:
            StoreError: The database could not be written.
        """
        check_id(agent)
        arguments.text(model, "model")
        return nearest.index_vectors(self._database, agent, model)

    def around(self, agent: str, keys: Sequence[int], reach: int) -> list[StoredRecord]:
        """Records with the given keys and of ``reach`` messages of their session on either side, in order.

        Where sessions alternate, no further than the next 8 positions of the journal.
        """
        check_id(agent)
        arguments.wholes(keys, "keys")
        arguments.whole(reach, "reach")
        return self._database.read(lambda connection: nearest.around(connection, agent, keys, reach))

    def records(
        self, agent: str, keys: Sequence[int] | None = None, session: str | None = None, *, after: int = 0
    ) -> list[StoredRecord]:
        """An agent's records beyond a position in the journal's order; only those with the given keys, where given."""
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
        """Key and text of up to ``limit`` records beyond a position that have no embedding under a model, in order.

        Args:
            keys: Only those with these keys.
            newest: Whether they are the newest such records rather than the oldest.
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
        """Cut messages beyond a position by the present rule, some hundred of those that were cut by another.

        Records that come out the same keep their embeddings. Others may use the memory meanwhile.

        Returns:
            How far that is done, and how many records there were and are; None where nothing is left to do.

        Raises:
            StoreError: The database could not be written.
        """
        check_id(agent)
        arguments.whole(after, "after")
        return recutting.cut_again(self._database, self._words, agent, after)

    def put_embeddings(self, agent: str, model: str, keys: Sequence[int], vectors: NDArray[np.float32]) -> int:
        """Store embeddings [len(keys), dim]; records that have gone, or have one already, are passed over.

        Returns:
            How many were stored.

        Raises:
            ConfigError: The shape does not fit the keys or the dimension stored under this model's name, or the name is
                empty or too long.
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
        """Keys [N] and embeddings [N, dim] of records beyond a position, under a model, in the journal's order."""
        check_id(agent)
        arguments.text(model, "model")
        arguments.whole(after, "after")
        return self._database.read(lambda connection: records.embeddings(connection, agent, model, after))

    def embeddings_of(self, agent: str, model: str, keys: Sequence[int]) -> tuple[list[int], NDArray[np.float32]]:
        """Keys [n] and embeddings [n, dim] of those of the records that have one under a model, in no order."""
        check_id(agent)
        arguments.text(model, "model")
        arguments.wholes(keys, "keys")
        return self._database.read(lambda connection: nearest.by_key(connection, agent, model, keys))

    def embedding_models(self, agent: str) -> dict[str, int]:
        """How many of an agent's records have an embedding, by model."""
        check_id(agent)
        return self._database.read(lambda connection: records.embedding_models(connection, agent))

    def drop_embeddings(self, agent: str, *, keep: str) -> int:
        """Delete an agent's embeddings under all models but one; how many there were.

        Raises:
            StoreError: The database could not be written.
        """
        check_id(agent)
        arguments.text(keep, "keep")
        index = self._database.dialect.vectors
        return self._database.write(lambda connection: records.drop_embeddings(connection, index, agent, keep))
