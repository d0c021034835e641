"""`Retriever`: full text and embeddings of one agent's records, fused. Knows protocols, no database and no model."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from deltamem_agents.errors import ConfigError, EmbedderError, StoreError
from deltamem_agents.recall.fusion import reciprocal_rank
from deltamem_agents.recall.lexical import query_terms
from deltamem_agents.recall.protocols import Embedder, IndexedRecord, Record, RecordIndex
from deltamem_agents.recall.selection import select

if TYPE_CHECKING:
    from numpy.typing import NDArray

POOL = 50  # candidates of each ranking, or more where k asks for more
EMBED_BATCH = 64  # records embedded and stored at a time, so that a failure loses no more


class Retriever:
    """Search over the records of any agent.

    Args:
        index: Where the records are.
        embedder: None searches by full text alone.
    """

    def __init__(self, index: RecordIndex, embedder: Embedder | None = None) -> None:
        self._index = index
        self._embedder = embedder

    def search(self, agent: str, query: str, k: int = 5, session: str | None = None) -> list[Record]:
        """The k records that a query is best answered from, best first; fewer where fewer are found.

        The same memory and query give the same records in the same order. Records without an embedding are embedded
        first.

        Args:
            session: Only records of this one.

        Raises:
            ConfigError: k is not a positive integer, or the query is not text.
            EmbedderError: The embedder failed, or its vectors do not fit the stored ones.
            StoreError: The index cannot be read or written.
        """
        if isinstance(k, bool) or not isinstance(k, int) or k <= 0:
            raise ConfigError(f"k is {k!r}; ask for 1 record or more")
        if not isinstance(query, str):
            raise ConfigError(f"the query is a {type(query).__name__}; give a string")
        if not query.strip():
            return []
        query = query.encode("utf-8", "replace").decode()  # lone surrogates are text to no tokenizer
        pool = max(POOL, 4 * k)
        terms = query_terms(query)
        by_words = [record for record, _ in self._index.search_text(agent, terms, pool, session)] if terms else []
        by_meaning = self._by_meaning(agent, query, pool, session)
        rankings = [[record.key for record in ranking] for ranking in (by_words, by_meaning)]
        scores = reciprocal_rank(rankings if self._embedder else rankings[:1])
        found = {record.key: record for record in (*by_words, *by_meaning)}
        ranked = sorted(found.values(), key=lambda record: (-scores[record.key], -record.position, record.chunk))
        chosen = select(query, ranked, [by_words, by_meaning], k)
        return [_record(record, scores[record.key]) for record in chosen]

    def embed_missing(self, agent: str, progress: Callable[[int], None] | None = None) -> int:
        """Embed the records that have no embedding yet; how many there were. Nothing without an embedder.

        Args:
            progress: Called with the number embedded so far, after each batch.

        Raises:
            EmbedderError: The embedder failed; the batches before are stored.
        """
        done = 0
        if self._embedder is None:
            return done
        while batch := self._index.missing_embeddings(agent, self._embedder.name, EMBED_BATCH):
            vectors = self._embedder.embed([text for _, text in batch])
            self._index.put_embeddings(agent, self._embedder.name, [key for key, _ in batch], vectors)
            done += len(batch)
            if progress is not None:
                progress(done)
        return done

    def _by_meaning(self, agent: str, query: str, limit: int, session: str | None) -> Sequence[IndexedRecord]:
        """Records by the cosine of their embedding with the query's, best first, the newer of equals."""
        if self._embedder is None:
            return []
        keys, matrix = self._vectors(agent, self._embedder, session)
        if not keys:
            return []
        vector = self._embedder.embed([query])[0]
        if matrix.shape[1] != len(vector):
            raise EmbedderError(
                f"embedder {self._embedder.name!r} has dimension {len(vector)}, vectors stored under its name have "
                f"{matrix.shape[1]}; give it another name"
            )
        # Rounded, so that equal texts tie whatever order a BLAS adds in.
        cosines = np.round(matrix @ vector, 6)
        best = [keys[i] for i in np.lexsort((-np.asarray(keys), -cosines))[:limit]]
        by_key = {record.key: record for record in self._index.records(agent, best)}
        return [by_key[key] for key in best if key in by_key]  # one may have been superseded between the two reads

    def _vectors(self, agent: str, embedder: Embedder, session: str | None) -> tuple[list[int], NDArray[np.float32]]:
        """Keys [N] and embeddings [N, dim] of all records; a read-only index gets nothing stored, and is searched."""
        unsaved: Sequence[tuple[int, str]] = ()
        try:
            self.embed_missing(agent)
        except StoreError:
            unsaved = self._index.missing_embeddings(agent, embedder.name, sys.maxsize)
        stored, matrix = self._index.embeddings(agent, embedder.name, session)
        keys = list(stored)
        if session is not None and unsaved:
            wanted = {record.key for record in self._index.records(agent, [key for key, _ in unsaved], session)}
            unsaved = [(key, text) for key, text in unsaved if key in wanted]
        if unsaved:
            vectors = embedder.embed([text for _, text in unsaved])
            keys += [key for key, _ in unsaved]
            matrix = np.concatenate([matrix, vectors]) if stored else vectors
        return keys, matrix


def _record(found: IndexedRecord, score: float) -> Record:
    return Record(
        text=found.text,
        score=score,
        session=found.session,
        message_id=found.message_id,
        role=found.role,
        position=found.position,
        created_at=found.created_at,
        chunk=found.chunk,
        metadata=found.metadata,
    )
