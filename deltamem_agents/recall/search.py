"""`Retriever`: search one agent's records by full text and embeddings. Uses protocols only, no database or model."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from deltamem_agents import arguments
from deltamem_agents.errors import ClosedError, ConfigError, kind_of, shown
from deltamem_agents.failures import Failures
from deltamem_agents.recall.candidates import CandidatePool
from deltamem_agents.recall.contradiction import newer_first, outdated
from deltamem_agents.recall.embedding import Embeddings
from deltamem_agents.recall.filling import FIRST, Filling
from deltamem_agents.recall.fusion import fuse
from deltamem_agents.recall.protocols import Embedder, IndexedRecord, Record, RecordIndex
from deltamem_agents.recall.questions import Question
from deltamem_agents.recall.ranking import best, ranked, relevance, signals_of, spoken_for
from deltamem_agents.recall.reasons import Reason, reasons
from deltamem_agents.recall.selection import select
from deltamem_agents.recall.snapshot import Scope, Snapshot
from deltamem_agents.recall.words import forget_words
from deltamem_agents.search_form import embedded_form

if TYPE_CHECKING:
    pass

IN_MEMORY = 50_000  # records of an agent; a larger agent is searched through the index
POOL = 20  # candidates whose text is examined; more if k is larger


@dataclass(frozen=True, slots=True, kw_only=True)
class Reindexed:
    """What a reindexing did.

    Args:
        embedded: Records that were embedded.
        dropped: Embeddings of other models that were deleted.
        refused: Texts that the embedder refused.
        recut: Messages that are now cut into other records than before.
    """

    embedded: int
    dropped: int
    refused: int = 0
    recut: int = 0


class Retriever:
    """Search over the records of any agent.

    Args:
        index: Holds the records.
        embedder: None searches by full text alone.
        in_memory: Up to this many records of an agent are held in memory, and a search is exact.
        failures: Counts failures of the embedder.
        stopping: Returns True when embedding should stop.
        embed_seconds: How long a search may spend embedding records that have no embedding yet, newest first; the rest
            is searched by words. By default all are embedded first.
        later: Called with an agent that has such records left; it should call `catch_up` in the background.

    Attributes:
        candidates: Finds the records that a search ranks.
    """

    def __init__(
        self,
        index: RecordIndex,
        embedder: Embedder | None = None,
        *,
        in_memory: int = IN_MEMORY,
        failures: Failures | None = None,
        stopping: Callable[[], bool] = lambda: False,
        embed_seconds: float = math.inf,
        later: Callable[[str], None] = lambda agent: None,
    ) -> None:
        self._index = index
        self._embedder = embedder
        self._in_memory = in_memory
        self._failures = failures or Failures()
        self._embeddings = Embeddings(embedder) if embedder else None
        self._filling = Filling(index, self._embeddings, stopping) if self._embeddings else None
        self.candidates = CandidatePool(
            index,
            self._embeddings,
            self._filling,
            in_memory=in_memory,
            failures=self._failures,
            seconds=embed_seconds,
            later=later,
        )

    def search(
        self,
        agent: str,
        query: str,
        k: int = 5,
        session: str | None = None,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        metadata: Mapping[str, Any] | None = None,
        tell: Callable[[str], None] = lambda note: None,
        context: Sequence[str] = (),
    ) -> list[Record]:
        """The k records that best answer a query, best first; fewer if fewer are found.

        Records that repeat another, only ask, or know nothing are left out, and a record that a newer one contradicts
        ranks below it; see `selection` and `contradiction`.

        Records without an embedding are embedded first, for up to ``embed_seconds``; the rest is found by its words.
        Once all records are embedded, the same memory and query give the same records in the same order.

        Args:
            session: Only records of this session.
            since, until: Only records of messages written at or after ``since`` and before ``until``; UTC if without a
                zone.
            metadata: Only records of messages whose metadata has these values.
            tell: Called with what a user should know of this search, such as that the embedder failed. Records or a
                query without an embedding are then matched by words.
            context: The turns before the query, oldest first. They are used if the query depends on them ("And
                Germany?"); see `questions`.

        Raises:
            ConfigError: k is not a positive integer, the query is not text, or another argument is not valid.
            InvalidAgentError: An id is not valid.
            EmbedderError: The embedder's vectors do not fit the stored ones.
            StoreError: The index cannot be read or written.
        """
        query = _checked(query, k)
        if session is not None:
            arguments.identifier(session, "session")
        arguments.moments(since, until)
        if metadata is not None:
            arguments.mapping(metadata, "metadata")
        scope = Scope(session=session, since=since, until=until, metadata=metadata)
        several = isinstance(context, Sequence) and not isinstance(context, str | bytes)
        if not several or not all(isinstance(each, str) for each in context):
            raise ConfigError(f"context is {shown(context)}; give a list of strings")
        question = Question.read(query, [each.encode("utf-8", "replace").decode() for each in context])
        candidates = self.candidates.find(agent, question.whole, scope, max(POOL, 3 * k), tell)
        if candidates is None:
            return []
        snapshot = candidates.snapshot
        signals = signals_of(query, snapshot, candidates.vector, question)
        fused = fuse(signals, snapshot.sessions, snapshot.messages, snapshot.weights, question)
        allowed = candidates.allowed & spoken_for(signals, snapshot, question, fused)
        scores = ranked(fused, allowed, candidates.count, snapshot, question)
        found = self.candidates.records(agent, candidates, list(scores))
        stale, by_key = outdated(found), {record.key: record for record in found}
        chosen = select(query, newer_first(found, stale), k, _cosines(snapshot, scores))
        falling = [*accumulate((scores[record.key] for record in reversed(chosen)), max)][::-1]  # scores never rise
        held_until = {old: by_key[new].created_at for old, new in stale.items()}
        return [
            _record(record, relevance(score), until=held_until.get(record.key))
            for record, score in zip(chosen, falling, strict=True)
        ]

    def similar(
        self,
        agent: str,
        query: str,
        k: int,
        *,
        holds: Callable[[str, Mapping[str, Any]], bool] | None = None,
        embedded: bool = False,
    ) -> list[Record]:
        """The k records whose text is most similar to a query, most similar first; of equals, the newer first.

        The score is the cosine of the embeddings of query and text. Without an embedder, or for a text that is not
        embedded, it is the share of the query's words that the text contains, each weighted by its rarity. Equal texts
        have equal scores, whatever surrounds them. No record is left out, however dissimilar.

        Args:
            holds: Only records of messages for whose session and metadata it returns True.
            embedded: Only records with a cosine; none without an embedder, or if it fails.

        Raises:
            ConfigError: k is not a positive integer, or the query is not text.
            EmbedderError: The embedder's vectors do not fit the stored ones. If the embedder fails, words are used.
            StoreError: The index cannot be read or written.
        """
        query = _checked(query, k)
        arguments.function(holds, "holds")
        candidates = self.candidates.find(agent, query, Scope(holds=holds), k, lambda note: None)
        if candidates is None:
            return []
        snapshot = candidates.snapshot
        alike, allowed = signals_of(query, snapshot, candidates.vector, Question(query)).meaning, candidates.allowed
        if embedded:
            if alike is None:
                return []
            allowed = allowed & ~snapshot.blank
        elif alike is None:
            alike = snapshot.words.coverage(query, snapshot.weights)
        elif snapshot.blank.any():
            alike = np.where(snapshot.blank, snapshot.words.coverage(query, snapshot.weights), alike)
        scores = {int(snapshot.keys[i]): float(alike[i]) for i in best(alike, allowed, k)}
        found = self.candidates.records(agent, candidates, list(scores))
        return [_record(record, scores[record.key]) for record in found]

    def reasons(self, agent: str, query: str, records: Sequence[Record]) -> list[Reason]:
        """Why `search` found each of these records for this query.

        Args:
            records: What it returned; other records get the reasons that hold for them.

        Raises:
            EmbedderError: The embedder's vectors do not fit the stored ones. If the embedder fails, words are used.
            StoreError: The index cannot be read.
        """
        query = _checked(query, 1)
        candidates = self.candidates.find(agent, query, Scope(), POOL, lambda note: None) if records else None
        return reasons(query, records, candidates)

    def embed_missing(self, agent: str, progress: Callable[[int], None] | None = None) -> int:
        """Embed the records that have no embedding yet, and return how many; 0 without an embedder.

        Args:
            progress: Called with the number embedded so far, after each batch.

        Raises:
            EmbedderError: The embedder failed; earlier batches are stored.
            ClosedError: The memory is being closed; what was embedded is stored.
            StoreError: The index cannot be read or written.
        """
        return 0 if self._filling is None else self._filling.fill(agent, progress)

    def catch_up(self, agent: str, stopping: Callable[[], bool] | None = None) -> None:
        """Embed missing records, and index a large agent's vectors. A failure is counted; the next search tries again.

        Args:
            stopping: Used instead of the retriever's own.

        Raises:
            ClosedError: The memory is being closed.
        """
        try:
            if self._filling is not None:
                self._filling.fill(agent, stopping=stopping, size=FIRST)
            if self._embedder is not None and self.candidates.was_large(agent):
                self._index.index_vectors(agent, self._embedder.name)
        except ClosedError:
            raise
        except Exception as error:  # an embedder or a database of the user's choosing
            self._failures.failed("embedding", agent, error)
        else:
            self._failures.succeeded("embedding", agent)

    @property
    def refused(self) -> int:
        """How many texts the embedder has refused; searches do not try these again."""
        return 0 if self._embeddings is None else self._embeddings.refused

    @property
    def model(self) -> str | None:
        """The name that embeddings are stored under; None without an embedder."""
        return None if self._embedder is None else self._embedder.name

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors [n, dim] of texts, by the embedder that searches use; nothing is stored.

        Raises:
            ConfigError: There is no embedder.
            EmbedderError: The embedder failed.
        """
        if self._embedder is None:
            raise ConfigError("there is no embedder; open the memory with one")
        return self._embedder.embed([embedded_form(text) for text in texts])

    def close(self) -> None:
        """Drop everything cached, including words."""
        self.candidates.clear()
        forget_words()

    def reindex(
        self, agent: str, *, prune: bool = False, progress: Callable[[int, int], None] | None = None
    ) -> Reindexed:
        """Embed all records of an agent that the current embedder has not embedded yet, and index a large agent's.

        Messages that were cut for another embedder are cut again first. A search embeds records by itself; after a
        change of the embedder, this spares the first search the wait. If interrupted, it continues from there when
        called again. The memory can be used meanwhile. Texts that the embedder refused are tried once more.

        Args:
            prune: Whether to delete embeddings of other models afterwards.
            progress: Called with how many records are embedded, and how many there are.

        Raises:
            ConfigError: There is no embedder.
            EmbedderError: The embedder failed; earlier batches are stored, and nothing was deleted.
            ClosedError: The memory is being closed; what was embedded is stored.
            StoreError: The index cannot be read or written.
        """
        if self._embedder is None or self._embeddings is None or self._filling is None:
            raise ConfigError("there is no embedder to index with; install deltamem-agents[retrieval], or name one")
        self._embeddings.forget_refusals()
        self._filling.forget()
        recut, at = 0, 0
        while (done := self._index.cut_again(agent, after=at)) is not None:
            recut, at = recut + done.changed, done.position
        missing = len(self._index.missing_embeddings(agent, self._embedder.name, sys.maxsize)) if progress else 0
        embedded = self.embed_missing(agent, (lambda done: progress(done, missing)) if progress else None)
        if self._index.size(agent, self._in_memory + 1) > self._in_memory:
            self._index.index_vectors(agent, self._embedder.name)
        dropped = self._index.drop_embeddings(agent, keep=self._embedder.name) if prune else 0
        self.forget(agent)
        return Reindexed(embedded=embedded, dropped=dropped, refused=self._embeddings.refused, recut=recut)

    def forget(self, agent: str) -> None:
        """Drop what is cached for an agent; the next search reads it again."""
        self.candidates.forget(agent)
        forget_words()


def _checked(query: object, k: object) -> str:
    """The query as text that any tokenizer accepts.

    Raises:
        ConfigError: k is not a positive integer, or the query is not a string.
    """
    if isinstance(k, bool) or not isinstance(k, int) or not 0 < k <= arguments.LARGEST:
        raise ConfigError(f"k is {shown(k)}; give 1 or more")
    if not isinstance(query, str):
        raise ConfigError(f"the query is {kind_of(query)}; give a string")
    return query.encode("utf-8", "replace").decode()  # no tokenizer accepts lone surrogates


def _cosines(snapshot: Snapshot, keys: Iterable[int]) -> Callable[[int, int], float | None]:
    """A function that gives the cosine of two of these records; it gives None without an embedder."""
    vectors = snapshot.vectors
    if vectors is None:
        return lambda one, other: None
    places = np.flatnonzero(np.isin(snapshot.keys, np.fromiter(keys, np.int64)))
    place_of = {int(snapshot.keys[place]): place for place in places}
    return lambda one, other: float(vectors[place_of[one]] @ vectors[place_of[other]])


def _record(found: IndexedRecord, score: float, *, until: datetime | None = None) -> Record:
    return Record(
        text=found.text,
        score=score,
        session=found.session,
        message_id=found.message_id,
        role=found.role,
        position=found.position,
        created_at=found.created_at,
        chunk=found.chunk,
        outdated=until is not None,
        until=until,
        metadata=found.metadata,
    )
