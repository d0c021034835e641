"""Records without an embedding get one, as far as the embedder works and takes their texts.

An embedder that is away fails on everything, and is asked again by the next search. One that works may refuse a text,
such as what a provider's filter holds back: that one is left out and remembered, and all others are embedded.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NoReturn

import numpy as np

from deltamem_agents.errors import ClosedError, EmbedderError
from deltamem_agents.recall.protocols import Embedder, RecordIndex

if TYPE_CHECKING:
    from numpy.typing import NDArray

BATCH = 64  # records embedded at a time
STORE_EVERY = 0.2  # seconds of embedding that are stored in one transaction, if it is more than one batch
LISTED = 2_048  # records without an embedding that are looked for at a time
REFUSALS = 100_000  # refused texts that are remembered, by a keyed hash
PROBE = "memory"  # what every embedder takes
QUICK, LONGEST_REST = 1.0, 60.0  # seconds; after a failure that took longer the embedder is left alone as long again

log = logging.getLogger(__name__)

Pair = tuple[int, str]


class Embeddings:
    """The embeddings of an index's records under one embedder. Safe to share among threads.

    Args:
        stopping: Whether no further batch is to be begun.
    """

    def __init__(self, index: RecordIndex, embedder: Embedder, stopping: Callable[[], bool] = lambda: False) -> None:
        self.embedder = embedder
        self.stopping = stopping
        self._index = index
        self._key = secrets.token_bytes(16)
        self._refused: OrderedDict[bytes, None] = OrderedDict()
        self._rest_until = 0.0
        self._failure: EmbedderError | None = None
        self._lock = threading.Lock()

    @property
    def refused(self) -> int:
        """How many texts the embedder has refused."""
        return len(self._refused)

    def forget_refusals(self) -> None:
        """Let refused texts be tried again."""
        with self._lock:
            self._refused.clear()
            self._rest_until = 0.0

    def given_up(self, pairs: Sequence[Pair]) -> frozenset[int]:
        """Keys of those of the records whose text was refused."""
        return frozenset(key for key, text in pairs if self._is_refused(text)) if self._refused else frozenset()

    def fill(self, agent: str, progress: Callable[[int], None] | None = None, *, after: int = 0) -> int:
        """Embed the records that have no embedding yet; how many were.

        Args:
            progress: Called with the number embedded so far, after each batch.
            after: Position up to which all have one.

        Raises:
            EmbedderError: The embedder failed on any text; the batches before are stored.
            ClosedError: The memory is being closed; what was embedded is stored.
            StoreError: The index cannot be read or written.
        """
        done, left_out, name = 0, 0, self.embedder.name
        while True:
            listed = self._index.missing_embeddings(agent, name, LISTED + left_out, after=after)
            found = [pair for pair in listed if not self._is_refused(pair[1])]
            left_out = len(listed) - len(found)
            if not found:
                return done
            if not done and len(found) >= BATCH:
                self._tell_of_change(agent, name)
            tell = (lambda more, before=done: progress(before + more)) if progress is not None else None
            for keys, vectors in self._in_batches(found, tell):
                self._index.put_embeddings(agent, name, keys, vectors)
                done += len(keys)

    def vectors(self, texts: Sequence[str]) -> list[NDArray[np.float32] | None]:
        """A vector [dim] of each text; None for one that the embedder refuses.

        Raises:
            EmbedderError: The embedder failed on any text.
        """
        found: dict[int, NDArray[np.float32]] = {}
        pairs = [pair for pair in enumerate(texts) if not self._is_refused(pair[1])]
        for start in range(0, len(pairs), BATCH):
            keys, vectors = self._embedded(pairs[start : start + BATCH])
            found.update(zip(keys, vectors, strict=True))
        return [found.get(place) for place in range(len(texts))]

    def of_query(self, query: str) -> NDArray[np.float32]:
        """Vector [dim] of a query.

        Raises:
            EmbedderError: The embedder failed.
        """
        embed_query = getattr(self.embedder, "embed_query", None)  # not every embedder tells queries from texts
        with self._noted():
            vector: NDArray[np.float32] = self.embedder.embed([query])[0] if embed_query is None else embed_query(query)
        return vector

    def _in_batches(
        self, missing: Sequence[Pair], tell: Callable[[int], None] | None
    ) -> Iterator[tuple[list[int], NDArray[np.float32]]]:
        """Keys and vectors to be stored: of one call of the embedder, or of as many as are quickly answered."""
        keys: list[int] = []
        vectors: list[NDArray[np.float32]] = []
        began = time.monotonic()
        try:
            for start in range(0, len(missing), BATCH):
                if self.stopping():
                    raise ClosedError("this DeltaMem is being closed; open it again to embed the rest")
                batch = missing[start : start + BATCH]
                embedded, of_batch = self._embedded(batch)
                if embedded:
                    vectors.append(of_batch)
                    keys += embedded
                if tell is not None:
                    tell(start + len(batch))
                if keys and time.monotonic() - began > STORE_EVERY:
                    ready, (keys, vectors) = (keys, np.concatenate(vectors)), ([], [])
                    yield ready
                    began = time.monotonic()
        except (EmbedderError, ClosedError):
            if keys:
                yield keys, np.concatenate(vectors)
            raise
        if keys:
            yield keys, np.concatenate(vectors)

    def _embedded(self, pairs: Sequence[Pair]) -> tuple[list[int], NDArray[np.float32]]:
        """Keys and vectors of those that the embedder takes."""
        try:
            with self._noted():
                return [key for key, _ in pairs], self.embedder.embed([text for _, text in pairs])
        except EmbedderError as error:
            self._check_up(error)
        if len(pairs) == 1:
            try:  # it may have failed for a moment only
                with self._noted():
                    return [pairs[0][0]], self.embedder.embed([pairs[0][1]])
            except EmbedderError as error:
                self._refuse(pairs[0][1], error)
                return [], np.zeros((0, 0), np.float32)
        half = len(pairs) // 2
        parts = [part for part in (self._embedded(pairs[:half]), self._embedded(pairs[half:])) if part[0]]
        if not parts:
            return [], np.zeros((0, 0), np.float32)
        return [key for keys, _ in parts for key in keys], np.concatenate([vectors for _, vectors in parts])

    def _check_up(self, error: EmbedderError) -> None:
        """Raise ``error`` where the embedder fails on whatever it is given."""
        try:
            with self._noted():
                self.embedder.embed([PROBE])
        except EmbedderError:
            raise error from error.__cause__

    def _refuse(self, text: str, error: EmbedderError) -> None:
        log.log(
            logging.DEBUG if self._refused else logging.WARNING,  # the first says that there are some
            "embedder %r works and refuses one text (%s); its record is found by words alone, 'deltamem reindex' tries "
            "it again",
            self.embedder.name,
            type(error.__cause__ or error).__name__,
        )
        with self._lock:
            self._refused[self._hash(text)] = None
            if len(self._refused) > REFUSALS:
                self._refused.popitem(last=False)

    def _is_refused(self, text: str) -> bool:
        return bool(self._refused) and self._hash(text) in self._refused

    def _hash(self, text: str) -> bytes:
        return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16, key=self._key).digest()

    def _noted(self) -> _Noted:
        return _Noted(self)

    def _tell_of_change(self, agent: str, name: str) -> None:
        """Where many records are to be embedded because the embedder is another, say so."""
        models = self._index.embedding_models(agent)
        if models and name not in models:
            log.warning(
                "records of agent %r were embedded by %s and are now embedded anew by %r; 'deltamem reindex' does that "
                "beforehand, for all agents",
                agent,
                " and ".join(map(repr, models)),
                name,
            )


class _Noted:
    """Around a call of the embedder: after one that failed slowly, the next ones fail at once for as long again."""

    def __init__(self, embeddings: Embeddings) -> None:
        self._embeddings = embeddings

    def __enter__(self) -> None:
        failure = self._embeddings._failure
        if failure is not None and time.monotonic() < self._embeddings._rest_until:
            self._rest(failure)
        self._began = time.monotonic()

    def __exit__(self, _kind: object, error: object, _trace: object) -> None:
        if isinstance(error, EmbedderError):
            took = time.monotonic() - self._began
            self._embeddings._failure = error
            self._embeddings._rest_until = self._began + took + (min(took, LONGEST_REST) if took > QUICK else 0.0)

    @staticmethod
    def _rest(failure: EmbedderError) -> NoReturn:
        raise EmbedderError(f"{failure}; it is asked again after a rest") from failure.__cause__
