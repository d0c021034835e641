"""The candidates of a search: all records of an agent or, for a large agent, those that the index finds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from deltamem_agents.errors import EmbedderError, StoreError
from deltamem_agents.failures import Failures
from deltamem_agents.recall.embedding import Embeddings
from deltamem_agents.recall.filling import Filling
from deltamem_agents.recall.prepared import Prepared
from deltamem_agents.recall.protocols import IndexedRecord, RecordIndex
from deltamem_agents.recall.sampled_search import LargeAgents
from deltamem_agents.recall.snapshot import Scope, Snapshot, Snapshots

if TYPE_CHECKING:
    from numpy.typing import NDArray

MOST_ASKED = 1 << 31  # candidates; no agent has that many


@dataclass(frozen=True, slots=True)
class Candidates:
    """N records to rank, the query's vector if there is one, and which records may be returned [N].

    ``records`` are by key; None if they are still to be read. At most ``count`` are returned.
    """

    snapshot: Snapshot
    vector: NDArray[np.float32] | None
    allowed: NDArray[np.bool_]
    records: Mapping[int, IndexedRecord] | None
    count: int


class CandidatePool:
    """Finds the records that a search ranks. Safe to share among threads.

    Args:
        embeddings, filling: None searches by full text alone.
        in_memory: Up to this many records of an agent are held in memory, and all of them are ranked.
        failures: Counts failures of the embedder.
        seconds: How long records may be embedded before a search.
        later: Called with an agent that has records left to embed.
    """

    def __init__(
        self,
        index: RecordIndex,
        embeddings: Embeddings | None,
        filling: Filling | None,
        *,
        in_memory: int,
        failures: Failures,
        seconds: float,
        later: Callable[[str], None],
    ) -> None:
        self._index = index
        self._embeddings = embeddings
        self._filling = filling
        self._in_memory = in_memory
        self._failures = failures
        self._later = later
        self._snapshots = Snapshots(index, embeddings.embedder.name if embeddings else None)
        self._held = Prepared(index, self._snapshots, embeddings, filling, failures, seconds, later)
        self._large = LargeAgents(index, embeddings, filling, seconds)

    def forget(self, agent: str) -> None:
        """Drop what is cached for an agent."""
        self._snapshots.forget(agent)
        self._held.forget(agent)
        self._large.forget(agent)

    def clear(self) -> None:
        """Drop everything."""
        self._snapshots.clear()
        self._held.clear()
        self._large.clear()

    def was_large(self, agent: str) -> bool:
        """Whether an agent was searched through the index the last time."""
        return self._large.is_one(agent)

    def find(self, agent: str, query: str, scope: Scope, count: int, tell: Callable[[str], None]) -> Candidates | None:
        """The records to rank for a query; None if there are none.

        Args:
            scope: Which records may be returned.
            count: Of a large agent, the least number of records in scope to find, if there are that many.
            tell: Called with what a user should know, such as that the embedder failed.

        Raises:
            EmbedderError: The embedder's vectors do not fit the stored ones.
            StoreError: The index cannot be read.
        """
        down: list[EmbedderError] = []
        unstored: list[StoreError] = []
        count = min(count, MOST_ASKED)
        version = self._index.version(agent) if query.strip() else None
        if version is None:
            return None
        if self._is_large(agent, version):
            if not self._large.prepare(agent, version, down):
                tell("by words: some records are not embedded yet; they are embedded in the background")
                self._later(agent)
            vector = self._of_query(agent, query, self._large.dimension(agent, version), down)
            large = self._large.search(agent, version, query, vector, scope, count)
            snapshot, records, allowed = large.snapshot, large.by_key, large.eligible
        else:
            held = self._held.snapshot(agent, version, down, unstored, tell)
            if held is None:
                return None
            dim = None if held.vectors is None else held.vectors.shape[1]
            vector = self._of_query(agent, query, dim, down)
            snapshot, records, allowed = held, None, np.ones(len(held), bool)
        if down:
            tell(f"by words: {self._failures.failed('embedding', agent, down[0])}")
        elif self._embeddings is not None and not unstored:
            self._failures.succeeded("embedding", agent)
        if not len(snapshot):
            return None
        return Candidates(snapshot, vector, allowed & snapshot.within(scope), records, count)

    def records(self, agent: str, candidates: Candidates, keys: Sequence[int]) -> list[IndexedRecord]:
        """The records with these keys, in their order, without those superseded in the meantime."""
        records = candidates.records
        if records is None:
            records = {each.key: each for each in self._index.read(agent, keys)}
        return [records[key] for key in keys if key in records]

    def _is_large(self, agent: str, version: tuple[int, int]) -> bool:
        """Whether an agent has too many records to hold in memory; counts them if the agent has changed."""
        if self._snapshots.current(agent, version):
            return False
        large = self._large.knows(agent, version[0]) or (self._index.size(agent, self._in_memory + 1) > self._in_memory)
        if large:
            self._snapshots.forget(agent)
        return large

    def _of_query(
        self, agent: str, query: str, dim: int | None, down: list[EmbedderError]
    ) -> NDArray[np.float32] | None:
        """The query's vector [dim]; None without a working embedder, or without vectors to compare it with.

        Args:
            down: Receives the embedder's error; if it holds one already, the embedder is not called again.
        """
        if self._embeddings is None or self._filling is None or dim is None or down:
            return None
        try:
            with self._filling.first():
                vector = self._embeddings.of_query(query)
        except EmbedderError as error:
            down.append(error)
            return None
        if dim != len(vector):
            raise EmbedderError(
                f"embedder {self._embeddings.embedder.name!r} has dimension {len(vector)}, vectors stored under its "
                f"name have {dim}; give it another name"
            )
        return vector
