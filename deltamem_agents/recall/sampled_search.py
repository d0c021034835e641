"""Search agents with too many records for memory: rank a few hundred candidates from the index.

Full text and vectors find the candidates. Their neighbours are read too, because scores depend on them, and so are the
records of some hundred random messages. By this sample, scores are standardised and the rarity of words is counted:
each sampled record stands for a number of the records that are not candidates. If candidates and sample are all
records, the ranking equals the one in memory.
"""

from __future__ import annotations

import logging
import math
import threading
from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from deltamem_agents.errors import EmbedderError, StoreError
from deltamem_agents.recall.embedding import FEW, Embeddings
from deltamem_agents.recall.filling import Filling
from deltamem_agents.recall.fusion import REACH
from deltamem_agents.recall.protocols import IndexedRecord, RecordIndex
from deltamem_agents.recall.snapshot import Scope, Snapshot, joined, placed
from deltamem_agents.recall.words import Postings, looked_for, query_terms, text_terms

if TYPE_CHECKING:
    from numpy.typing import NDArray

CANDIDATES = 200  # records found by words, and as many by vectors
MOST = 12_800  # the most of either, if a filter leaves few
SAMPLE = 200  # random messages that stand for all others
GROWTH = 1.1  # growth of the journal after which a new sample is drawn
KEPT = 16  # agents whose sample is kept in memory

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Prepared:
    """How far an agent is prepared for searches.

    Args:
        version: The version that it was last prepared for; that of an empty journal if something was left to do.
        embedded: The position up to which all records are embedded and indexed.
        head: The end of the journal at that time.
    """

    version: tuple[int, int]
    embedded: int
    head: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A sample of an agent's ``size`` records, with their neighbours, as of ``version``."""

    version: tuple[int, int]
    size: int
    drawn: frozenset[int]
    records: Sequence[IndexedRecord]
    counts: dict[int, Counter[str]]
    vectors: dict[int, NDArray[np.float32]]

    def still_good(self, version: tuple[int, int]) -> bool:
        """Whether the sample may be used for this version of the agent."""
        return self.version[0] == version[0] and version[1] <= GROWTH * self.version[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The N records to rank, which of them may be returned [N], and the records by key."""

    snapshot: Snapshot
    eligible: NDArray[np.bool_]
    by_key: dict[int, IndexedRecord]


class LargeAgents:
    """Searches through the index. Safe to share among threads.

    Args:
        embeddings, filling: None searches by full text alone.
        seconds: How long records may be embedded before a search.
    """

    def __init__(
        self, index: RecordIndex, embeddings: Embeddings | None, filling: Filling | None, seconds: float = math.inf
    ) -> None:
        self._index = index
        self._filling = filling
        self._seconds = seconds
        self._embeddings = embeddings
        self._embedder = embeddings.embedder if embeddings else None
        self._samples: OrderedDict[str, Sample] = OrderedDict()
        self._prepared: dict[str, Prepared] = {}
        self._lock = threading.Lock()

    def forget(self, agent: str) -> None:
        """Drop what is cached for an agent."""
        with self._lock:
            self._samples.pop(agent, None)
            self._prepared.pop(agent, None)

    def clear(self) -> None:
        """Drop everything."""
        with self._lock:
            self._samples.clear()
            self._prepared.clear()

    def knows(self, agent: str, epoch: int) -> bool:
        """Whether an agent was large in this epoch; it then still is."""
        with self._lock:
            done = self._prepared.get(agent)
        return done is not None and done.version[0] == epoch

    def is_one(self, agent: str) -> bool:
        """Whether an agent was large when it was last searched."""
        with self._lock:
            return agent in self._prepared

    def prepare(self, agent: str, version: tuple[int, int], down: list[EmbedderError]) -> bool:
        """Embed records that have no embedding, and index vectors. A read-only index is searched as it is.

        Args:
            down: Receives the error of an embedder that failed; the next search tries again.

        Returns:
            False if something is left to do in the background.
        """
        with self._lock:
            done = self._prepared.get(agent)
        if done is not None and done.version == version:
            return True
        failed, whole = False, True
        embedded = done.embedded if done is not None and done.version[0] == version[0] else 0
        if self._embedder is not None and self._filling is not None:
            try:
                seen = done.head if done is not None and done.version[0] == version[0] else 0
                whole = self._embed(self._filling, agent, version, embedded, seen)
                embedded = version[1] if whole else embedded
            except StoreError as error:
                log.warning("agent %r is searched without what is not embedded or not indexed: %s", agent, error)
            except EmbedderError as error:
                down.append(error)
                failed = True
        with self._lock:
            good = whole and not failed
            self._prepared[agent] = Prepared(version if good else (version[0], 0), embedded, version[1])
        return whole

    def _embed(self, filling: Filling, agent: str, version: tuple[int, int], embedded: int, seen: int) -> bool:
        """Embed records after position ``embedded``, as far as time allows; returns whether none is left.

        Args:
            seen: Position up to which a background fill, if one is running, embeds them already.
        """
        assert self._embedder is not None
        if self._seconds < math.inf:
            busy = filling.busy(agent)
            return filling.begin(agent, version, self._seconds, after=seen if busy else embedded) and not busy
        filling.fill(agent)
        if not embedded:
            self._index.index_vectors(agent, self._embedder.name)
        return True

    def dimension(self, agent: str, version: tuple[int, int]) -> int | None:
        """Dimension of the stored vectors; None if there are none."""
        return next((len(vector) for vector in self._sample(agent, version).vectors.values()), None)

    def search(
        self,
        agent: str,
        version: tuple[int, int],
        query: str,
        vector: NDArray[np.float32] | None,
        scope: Scope,
        count: int,
    ) -> Found:
        """Find the records worth ranking for a query.

        Args:
            vector: The query's vector [dim]; None searches by full text alone.
            count: The least number of records in scope to find, if there are that many.
        """
        sample = self._sample(agent, version)
        keys = self._candidates(agent, query, vector, scope, count)
        near = {record.key: record for record in self._index.around(agent, keys, REACH)}
        by_key = {record.key: record for record in sample.records} | near
        records = sorted(by_key.values(), key=lambda record: (record.position, record.chunk))
        vectors = None
        if vector is not None:
            stored = self._vectors(agent, sample, [record for record in records if record.key not in sample.vectors])
            vectors = placed(records, list(stored), list(stored.values()))
        counts = [sample.counts.get(record.key) or Counter(text_terms(record.text)) for record in records]
        words = Postings.counted(counts, looked_for(query))
        snapshot = joined(None, version, records, vectors, words)
        chosen = np.isin(snapshot.keys, np.array(sorted(keys), np.int64))
        drawn = np.isin(snapshot.keys, np.array(sorted(sample.drawn), np.int64)) & ~chosen
        others = max(sample.size - int(chosen.sum()), 0)
        weights = chosen + drawn * (others / max(int(drawn.sum()), 1))
        whole = snapshot.sessions.around(chosen.astype(np.float32)) > 0
        whole &= np.isin(snapshot.keys, np.array(sorted(near), np.int64))  # the sample may hold records that are gone
        return Found(
            snapshot=replace(snapshot, weights=weights.astype(np.float32) if weights.any() else None),
            eligible=whole,
            by_key=near,
        )

    def _candidates(
        self, agent: str, query: str, vector: NDArray[np.float32] | None, scope: Scope, count: int
    ) -> list[int]:
        """Keys of records that words or vectors find: those in scope, and some others that may be their neighbours."""
        within: dict[str, Any] = {"session": scope.session, "since": scope.since, "until": scope.until}
        limit = max(CANDIDATES, count)
        terms = query_terms(query)
        while True:
            found = [key for key, _ in self._index.text_scores(agent, terms, limit, **within)]
            full = len(found) >= limit
            if vector is not None and self._embedder is not None:
                nearest, _ = self._index.nearest(agent, self._embedder.name, vector, limit, **within)
                full |= len(nearest) >= limit
                found += nearest
            keys = dict.fromkeys(found)
            held = keys
            if scope.metadata or scope.holds:
                records = self._index.read(agent, list(keys))
                held = dict.fromkeys(each.key for each in records if scope.has(each.session, each.metadata))
            if len(held) >= count or not full or limit >= MOST:
                return [*held, *[key for key in keys if key not in held][: 2 * CANDIDATES]]
            limit *= 4

    def _sample(self, agent: str, version: tuple[int, int]) -> Sample:
        with self._lock:
            known = self._samples.get(agent)
            if known is not None:
                self._samples.move_to_end(agent)
        if known is not None and known.still_good(version):
            return known
        drawn = self._index.sample(agent, SAMPLE)
        records = self._index.around(agent, drawn, REACH)
        sample = Sample(
            version=version,
            size=self._index.size(agent),
            drawn=frozenset(drawn),
            records=records,
            counts={record.key: Counter(text_terms(record.text)) for record in records},
            vectors={},
        )
        if self._embedder is not None:
            sample = replace(sample, vectors=self._vectors(agent, sample, records))
        with self._lock:
            self._samples[agent] = sample
            self._samples.move_to_end(agent)
            if len(self._samples) > KEPT:
                self._samples.popitem(last=False)
        return sample

    def _vectors(self, agent: str, sample: Sample, records: Sequence[IndexedRecord]) -> dict[int, NDArray[np.float32]]:
        """Vectors of these records and of the sample's, by key; a vector that is not stored is computed."""
        assert self._embedder is not None and self._embeddings is not None
        keys, stored = self._index.embeddings_of(agent, self._embedder.name, [record.key for record in records])
        vectors = dict(zip(keys, stored, strict=True))
        missing = [record for record in records if record.key not in vectors]
        if missing and (len(missing) <= FEW or self._seconds == math.inf):
            # The index is read-only, the records are new, or the embedder refuses them.
            try:
                fresh = self._embeddings.vectors([record.text for record in missing])
            except EmbedderError:
                fresh = []  # `prepare` has reported it
            found = zip(missing, fresh, strict=False)
            vectors |= {record.key: vector for record, vector in found if vector is not None}
        return sample.vectors | vectors
