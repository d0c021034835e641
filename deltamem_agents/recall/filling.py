"""Embed records that have no embedding: all of them or, before a search, the newest ones that time allows.

Work is done in pieces of a fraction of a second. The records of a piece are read again right before they are embedded,
so that erased text, and records that another process has embedded meanwhile, are skipped. A process that meets another
one at work continues at another place. Between two pieces, searches go first.
"""

from __future__ import annotations

import logging
import math
import random
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from deltamem_agents.errors import ClosedError, EmbedderError
from deltamem_agents.recall.embedding import BATCH, Embeddings, Pair
from deltamem_agents.recall.protocols import RecordIndex

if TYPE_CHECKING:
    from numpy.typing import NDArray

FIRST = 8  # records in a search's first piece, which is always embedded: more than an ordinary turn has
LISTED = 2_048  # records without an embedding that are listed at a time
PIECE = 0.1  # seconds that a piece should take
PATIENCE = 1.0  # seconds that a piece waits for searches
FRESH = 0.02  # seconds after which a list is read again before it is used
LOCKS = 64
REMEMBERED = 10_000  # agents for which it is remembered how far all records are embedded

log = logging.getLogger(__name__)


class Filling:
    """Embeds the records of an index. Safe to share among threads; one thread at a time embeds an agent's records.

    Args:
        stopping: Returns True when no further batch should begin.
    """

    def __init__(
        self, index: RecordIndex, embeddings: Embeddings, stopping: Callable[[], bool] = lambda: False
    ) -> None:
        self._index = index
        self._embeddings = embeddings
        self._stopping = stopping
        self._turns = [_Turn() for _ in range(LOCKS)]
        self._filled: OrderedDict[str, tuple[int, int]] = OrderedDict()  # epoch, and end of what is embedded
        self._busy: Counter[str] = Counter()
        self._searches = 0
        self._changed = threading.Condition()

    def busy(self, agent: str) -> bool:
        """Whether this process is embedding all of an agent's records right now."""
        return self._busy[agent] > 0

    def forget(self, agent: str | None = None) -> None:
        """Forget how far records of an agent, or of all agents, are embedded; the next fill looks at all of them."""
        with self._changed:
            if agent is None:
                self._filled.clear()
            else:
                self._filled.pop(agent, None)

    @contextmanager
    def first(self) -> Iterator[None]:
        """A context in which no piece begins, for up to `PATIENCE` seconds, because a search needs the embedder."""
        with self._changed:
            self._searches += 1
        try:
            yield
        finally:
            with self._changed:
                self._searches -= 1
                self._changed.notify_all()

    def fill(
        self,
        agent: str,
        progress: Callable[[int], None] | None = None,
        stopping: Callable[[], bool] | None = None,
        size: int = BATCH,
    ) -> int:
        """Embed all records that have no embedding yet, and return how many.

        Args:
            progress: Called with the number embedded so far, after each batch.
            stopping: Used instead of the filling's own.
            size: Records in the first piece; later pieces have as many as take `PIECE` seconds. If it is small, the
                fill begins at a random record, because other processes may be doing the same.

        Raises:
            EmbedderError: The embedder fails on every text; earlier batches are stored.
            ClosedError: The memory is being closed; what was embedded is stored.
            StoreError: The index cannot be read or written.
        """
        version = self._index.version(agent)
        if version is None:
            return 0
        with self._changed:
            self._busy[agent] += 1
        try:
            known = self._after(agent, version[0])
            done = 0 if known >= version[1] else self._fill(agent, known, progress, stopping or self._stopping, size)
        finally:
            with self._changed:
                self._busy[agent] -= 1
                self._busy += Counter()  # drops what is 0
        self._note_filled(agent, version)
        return done

    def begin(self, agent: str, version: tuple[int, int], seconds: float, *, after: int = 0) -> bool:
        """Embed records after a position that have no embedding yet, newest first, for about so many seconds.

        Args:
            version: The agent's version, read just now.

        Returns:
            Whether none is left.

        Raises:
            EmbedderError, ClosedError, StoreError: As for `fill`.
        """
        known = self._after(agent, version[0])
        if known >= version[1]:
            return True
        if seconds <= 0:
            return False
        until = time.monotonic() + seconds
        with self.first():
            if not self._turn(agent).begin(seconds):
                return False
            try:
                whole = self._newest(agent, max(known, after), until)
            finally:
                self._turn(agent).end()
        if whole and after <= known:
            self._note_filled(agent, version)
        return whole

    def _fill(
        self,
        agent: str,
        after: int,
        progress: Callable[[int], None] | None,
        stopping: Callable[[], bool],
        size: int,
    ) -> int:
        name, turn = self._embeddings.embedder.name, self._turn(agent)
        done, seen, met, left_out = 0, 0, False, 0
        while True:
            limit, began, before = LISTED + left_out, time.monotonic(), turn.changes
            listed = self._index.missing_embeddings(agent, name, limit, after=after)
            pairs = [pair for pair in listed if not self._embeddings.is_refused(pair[1])]
            keys, left_out = [key for key, _ in pairs], len(listed) - len(pairs)
            if not keys:
                return done
            if not seen and len(keys) >= BATCH:
                self._tell_of_change(agent, name)
            start, met = random.randrange(len(keys)) if met or size < BATCH < len(keys) else 0, False
            keys = keys[start:] + keys[:start]
            fresh = pairs if len(pairs) <= size and not before % 2 else None
            while keys and not met:
                piece, keys = keys[:size], keys[size:]
                tell = (lambda more, so_far=seen: progress(so_far + more)) if progress is not None else None
                self._let_searches_go_first()
                turn.begin()
                try:
                    if turn.changes != before + 1 or time.monotonic() - began > FRESH:
                        began, fresh = time.monotonic(), None
                    looked_at, stored, met = self._piece(agent, piece, fresh, tell, stopping)
                finally:
                    turn.end()
                seen, done = seen + looked_at, done + stored
                took = max(time.monotonic() - began, 1e-3)
                size = max(min(int(size * PIECE / took), 4 * size, LISTED), FIRST)
                began = -math.inf
            if len(listed) < limit and not met:
                return done

    def _piece(
        self,
        agent: str,
        keys: Sequence[int],
        fresh: Sequence[Pair] | None,
        tell: Callable[[int], None] | None,
        stopping: Callable[[], bool],
    ) -> tuple[int, int, bool]:
        """Embed the records with these keys.

        Args:
            fresh: Keys and texts of the records, if they were read just now.

        Returns:
            How many records were looked at, how many embeddings were stored, and whether another process is working on
            the same records.
        """
        name = self._embeddings.embedder.name
        pairs = fresh or self._index.missing_embeddings(agent, name, len(keys), keys=keys)
        taken, stored = 0, 0
        for found, vectors in self._in_batches(pairs, tell, stopping):
            taken += len(found)
            stored += self._index.put_embeddings(agent, name, found, vectors)
        return len(pairs), stored, len(pairs) < len(keys) or stored < taken

    def _newest(self, agent: str, after: int, until: float) -> bool:
        """Do the work of `begin`; the caller holds the agent's turn."""
        name, size, left_out = self._embeddings.embedder.name, FIRST, 0
        while True:
            listed = self._index.missing_embeddings(agent, name, size + left_out + 1, after=after, newest=True)
            pairs = [pair for pair in listed if not self._embeddings.is_refused(pair[1])]
            left_out = len(listed) - len(pairs)
            if not pairs:
                return True
            whole = len(pairs) <= size
            began = time.monotonic()
            for keys, vectors in self._in_batches(pairs[-size:], None, self._stopping):
                self._index.put_embeddings(agent, name, keys, vectors)
            now = time.monotonic()
            if whole:
                return True
            size = min(int((until - now) * size / max(now - began, 1e-6)), LISTED)
            if size < 1:
                return False

    def _in_batches(
        self, pairs: Sequence[Pair], tell: Callable[[int], None] | None, stopping: Callable[[], bool]
    ) -> Iterator[tuple[list[int], NDArray[np.float32]]]:
        """Keys and vectors to store, in one piece unless an error or the end comes first; then what there is so far."""
        keys: list[int] = []
        vectors: list[NDArray[np.float32]] = []
        try:
            for start in range(0, len(pairs), BATCH):
                if stopping():
                    raise ClosedError("this DeltaMem is being closed; open it again to embed the rest")
                batch = pairs[start : start + BATCH]
                embedded, of_batch = self._embeddings.embedded(batch)
                if embedded:
                    vectors.append(of_batch)
                    keys += embedded
                if tell is not None:
                    tell(start + len(batch))
        except (EmbedderError, ClosedError):
            if keys:
                yield keys, np.concatenate(vectors)
            raise
        if keys:
            yield keys, np.concatenate(vectors)

    def _turn(self, agent: str) -> _Turn:
        return self._turns[hash(agent) % LOCKS]

    def _let_searches_go_first(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: not self._searches, PATIENCE)

    def _after(self, agent: str, epoch: int) -> int:
        """Position up to which all of an agent's records are known to be embedded or refused."""
        with self._changed:
            known = self._filled.get(agent)
        return known[1] if known is not None and known[0] == epoch else 0

    def _note_filled(self, agent: str, version: tuple[int, int]) -> None:
        with self._changed:
            self._filled[agent] = version
            self._filled.move_to_end(agent)
            if len(self._filled) > REMEMBERED:
                self._filled.popitem(last=False)

    def _tell_of_change(self, agent: str, name: str) -> None:
        """Log a warning if an agent's records are embedded again because the embedder has changed."""
        models = self._index.embedding_models(agent)
        if models and name not in models:
            log.warning(
                "records of agent %r were embedded by %s and are now embedded again by %r; 'deltamem reindex' does "
                "that beforehand, for all agents",
                agent,
                " and ".join(map(repr, models)),
                name,
            )


class _Turn:
    """A lock that counts how often it was acquired and released; the count is even while the lock is free."""

    def __init__(self) -> None:
        self.changes = 0
        self._lock = threading.Lock()

    def begin(self, seconds: float = math.inf) -> bool:
        """Acquire the lock; returns whether that succeeded within so many seconds."""
        had = self._lock.acquire(timeout=min(seconds, threading.TIMEOUT_MAX))
        self.changes += had
        return had

    def end(self) -> None:
        """Release the lock."""
        self.changes += 1
        self._lock.release()
