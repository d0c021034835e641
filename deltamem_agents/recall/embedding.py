"""Embed texts with an embedder that may fail or refuse some of them.

An embedder that cannot be reached fails on every text; the next search tries it again. An embedder that works may
refuse single texts, as a provider's filter does: such a text is skipped and remembered, and all others are embedded.
"""

from __future__ import annotations

import hashlib
import logging
import math
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from deltamem_agents.errors import EmbedderError
from deltamem_agents.recall.protocols import Embedder
from deltamem_agents.search_form import embedded_form

if TYPE_CHECKING:
    from numpy.typing import NDArray


BATCH = 64  # records embedded at a time
FEW = 8  # records embedded at a time when there is a time limit
REFUSALS = 100_000  # refused texts that are remembered, as keyed hashes
PROBE = "memory"  # a text that every embedder accepts
QUICK, LONGEST_REST = 1.0, 60.0  # seconds; after a failure slower than QUICK the embedder rests as long as that took

log = logging.getLogger(__name__)

Pair = tuple[int, str]


class Embeddings:
    """Embeds texts with one embedder. Safe to share among threads."""

    def __init__(self, embedder: Embedder) -> None:
        self.embedder = embedder
        self._key = secrets.token_bytes(16)
        self._refused: OrderedDict[bytes, None] = OrderedDict()
        self._rest_until = 0.0
        self._failure: EmbedderError | None = None
        self._lock = threading.Lock()

    @property
    def refused(self) -> int:
        """How many refused texts are remembered."""
        return len(self._refused)

    def forget_refusals(self) -> None:
        """Forget refused texts, so that they are tried again."""
        with self._lock:
            self._refused.clear()
            self._rest_until = 0.0

    def given_up(self, pairs: Sequence[Pair]) -> frozenset[int]:
        """Keys of the records whose text was refused."""
        return frozenset(key for key, text in pairs if self.is_refused(text)) if self._refused else frozenset()

    def vectors(self, texts: Sequence[str], seconds: float = math.inf) -> list[NDArray[np.float32] | None]:
        """A vector [dim] for each text; None for a text that the embedder refuses, or that time does not allow.

        Args:
            seconds: No further batch begins after this time; the last texts are embedded first.

        Raises:
            EmbedderError: The embedder fails on every text.
        """
        found: dict[int, NDArray[np.float32]] = {}
        pairs = [pair for pair in enumerate(texts) if not self.is_refused(pair[1])]
        size = BATCH if seconds == math.inf else FEW
        until = time.monotonic() + seconds
        for start in reversed(range(0, len(pairs), size)):
            keys, vectors = self.embedded(pairs[start : start + size])
            found.update(zip(keys, vectors, strict=True))
            if time.monotonic() > until:
                break
        return [found.get(place) for place in range(len(texts))]

    def of_query(self, query: str) -> NDArray[np.float32]:
        """Vector [dim] of a query.

        Raises:
            EmbedderError: The embedder failed.
        """
        embed_query = getattr(self.embedder, "embed_query", None)  # not every embedder has one
        with self._noted():
            given = embedded_form(query)
            vector: NDArray[np.float32] = self.embedder.embed([given])[0] if embed_query is None else embed_query(given)
        return vector

    def embedded(self, pairs: Sequence[Pair]) -> tuple[list[int], NDArray[np.float32]]:
        """Keys and vectors of the texts that the embedder accepts.

        Raises:
            EmbedderError: The embedder fails on every text.
        """
        try:
            with self._noted():
                return [key for key, _ in pairs], self.embedder.embed([embedded_form(text) for _, text in pairs])
        except EmbedderError as error:
            self._check_up(error)
        if len(pairs) == 1:
            try:  # the failure may have been momentary
                with self._noted():
                    return [pairs[0][0]], self.embedder.embed([embedded_form(pairs[0][1])])
            except EmbedderError as error:
                self._refuse(pairs[0][1], error)
                return [], np.zeros((0, 0), np.float32)
        half = len(pairs) // 2
        parts = [part for part in (self.embedded(pairs[:half]), self.embedded(pairs[half:])) if part[0]]
        if not parts:
            return [], np.zeros((0, 0), np.float32)
        return [key for keys, _ in parts for key in keys], np.concatenate([vectors for _, vectors in parts])

    def _check_up(self, error: EmbedderError) -> None:
        """Raise ``error`` if the embedder fails on `PROBE` too, and so on every text."""
        try:
            with self._noted():
                self.embedder.embed([PROBE])
        except EmbedderError:
            raise error from error.__cause__

    def _refuse(self, text: str, error: EmbedderError) -> None:
        log.log(
            logging.DEBUG if self._refused else logging.WARNING,  # only the first one is a warning
            "embedder %r works but refuses one text (%s); its record is found by words only, and 'deltamem reindex' "
            "tries it again",
            self.embedder.name,
            type(error.__cause__ or error).__name__,
        )
        with self._lock:
            self._refused[self._hash(text)] = None
            if len(self._refused) > REFUSALS:
                self._refused.popitem(last=False)

    def is_refused(self, text: str) -> bool:
        """Whether the embedder has refused this text."""
        return bool(self._refused) and self._hash(text) in self._refused

    def _hash(self, text: str) -> bytes:
        return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16, key=self._key).digest()

    def _noted(self) -> _Noted:
        return _Noted(self)


class _Noted:
    """A context for a call of the embedder: after a slow failure, calls fail at once for as long as that one took."""

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
        raise EmbedderError(f"{failure}; it is tried again after a pause") from failure.__cause__


def unit_rows(name: str, raw: Any, count: int, dim: int) -> NDArray[np.float32]:
    """``raw`` as float32 [count, dim] with rows of length 1 (zero rows stay zero); ``dim`` 0 accepts any dimension.

    Raises:
        EmbedderError: It has another shape, or holds values that are not finite.
    """
    try:
        vectors: NDArray[np.float32] = np.asarray(raw, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise EmbedderError(f"embedder {name!r} returned no rows of numbers ({error})") from error
    if count == 0:
        return np.zeros((0, dim), np.float32)
    if vectors.ndim != 2 or vectors.shape[0] != count or not vectors.shape[1] or dim not in (0, vectors.shape[1]):
        raise EmbedderError(
            f"embedder {name!r} returned shape {vectors.shape} for {count} texts, expected ({count}, {dim or 'any'}); "
            "give an embedder of another dimension another name"
        )
    if not np.isfinite(vectors).all():
        raise EmbedderError(f"embedder {name!r} returned values that are not finite")
    lengths: NDArray[np.float32] = np.linalg.norm(vectors, axis=1, keepdims=True)
    lengths[lengths == 0] = 1
    vectors = vectors / lengths
    return vectors


def failed(name: str, count: int, error: Exception) -> str:
    """The error message for a failed call of an embedder."""
    return f"embedder {name!r} failed on {count} texts ({type(error).__name__}: {error}); earlier batches are stored"
