"""Prepare an agent's records for a search: read them, and embed new ones as far as time allows."""

from __future__ import annotations

import math
import sys
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from deltamem_agents.errors import EmbedderError, StoreError
from deltamem_agents.failures import Failures
from deltamem_agents.recall.embedding import Embeddings
from deltamem_agents.recall.filling import Filling
from deltamem_agents.recall.protocols import RecordIndex
from deltamem_agents.recall.snapshot import Snapshot, Snapshots, joined, placed

if TYPE_CHECKING:
    from numpy.typing import NDArray

UNSTORED = 16  # agents whose vectors are kept in memory because a read-only index cannot store them


class Prepared:
    """Snapshots of agents that are small enough to hold in memory. Safe to share among threads.

    Args:
        seconds: How long records may be embedded before a search; if infinite, all are.
        later: Called with an agent that has records left to embed.
    """

    def __init__(
        self,
        index: RecordIndex,
        snapshots: Snapshots,
        embeddings: Embeddings | None,
        filling: Filling | None,
        failures: Failures,
        seconds: float,
        later: Callable[[str], None],
    ) -> None:
        self._index = index
        self._snapshots = snapshots
        self._embeddings = embeddings
        self._filling = filling
        self._failures = failures
        self._seconds = seconds
        self._later = later
        self._unstored: OrderedDict[str, tuple[int, dict[int, NDArray[np.float32]]]] = OrderedDict()

    def snapshot(
        self,
        agent: str,
        version: tuple[int, int],
        down: list[EmbedderError],
        unstored: list[StoreError],
        tell: Callable[[str], None],
    ) -> Snapshot | None:
        """The agent's records. A read-only index is searched too; its new embeddings stay in memory.

        Args:
            down: Receives the error of an embedder that failed.
            unstored: Receives the error of an index that could not store embeddings.
            tell: Called with a note on how many records have no embedding yet.
        """

        def prepare(agent: str, known: Snapshot | None) -> frozenset[int]:
            try:
                self._embed(agent, version, known)
            except EmbedderError as error:
                down.append(error)
            except StoreError as error:
                unstored.append(error)
            if self._embeddings is None or not self._embeddings.refused:
                return frozenset()
            name = self._embeddings.embedder.name
            return self._embeddings.given_up(self._index.missing_embeddings(agent, name, sys.maxsize))

        snapshot = self._snapshots.of(agent, prepare, version)
        if unstored and snapshot is not None and self._embeddings is not None and not down:
            self._failures.failed("embedding", agent, unstored[0])
            return self._unsaved(agent, version[0], self._embeddings, down, tell)
        if snapshot is not None and snapshot.pending and self._seconds < math.inf and not down:
            tell(f"by words: {left(len(snapshot.pending), len(snapshot))}; they are embedded in the background")
            self._later(agent)
        return snapshot

    def forget(self, agent: str) -> None:
        """Drop what is cached for an agent."""
        self._unstored.pop(agent, None)

    def clear(self) -> None:
        """Drop everything."""
        self._unstored.clear()

    def _embed(self, agent: str, version: tuple[int, int], known: Snapshot | None) -> None:
        computed_in, computed = self._unstored.get(agent, (0, {}))
        if computed and computed_in == version[0] and self._embeddings is not None:
            vectors = np.stack(list(computed.values()))
            self._index.put_embeddings(agent, self._embeddings.embedder.name, list(computed), vectors)
            self.forget(agent)
        if self._filling is None:
            return
        if self._seconds == math.inf:
            self._filling.fill(agent)
            return
        after = 0
        if known is not None and known.version[0] == version[0]:
            older = known.pending and not self._filling.busy(agent)  # if busy, older ones are being embedded
            after = known.first_pending - 1 if older else known.version[1]
        self._filling.begin(agent, version, self._seconds, after=after)

    def _unsaved(
        self, agent: str, epoch: int, embeddings: Embeddings, down: list[EmbedderError], tell: Callable[[str], None]
    ) -> Snapshot:
        """A snapshot with vectors that could not be stored."""
        name = embeddings.embedder.name
        missing = self._index.missing_embeddings(agent, name, sys.maxsize)
        keys, stored = self._index.embeddings(agent, name)
        vector_of: dict[int, NDArray[np.float32]] = dict(zip(keys, stored, strict=True))
        computed_in, computed = self._unstored.pop(agent, (epoch, {}))
        if computed_in != epoch:
            computed = {}
        wanted = [(key, text) for key, text in missing if key not in computed]
        try:
            fresh = embeddings.vectors([text for _, text in wanted], self._seconds)
            found = zip(wanted, fresh, strict=True)
            computed = computed | {key: vector for (key, _), vector in found if vector is not None}
        except EmbedderError as error:
            down.append(error)
        self._unstored[agent] = epoch, computed
        while len(self._unstored) > UNSTORED:
            self._unstored.popitem(last=False)
        records = self._index.read(agent)
        vector_of |= {key: computed[key] for key, _ in missing if key in computed}
        given_up = embeddings.given_up(wanted)
        if not down and (rest := sum(key not in computed and key not in given_up for key, _ in missing)):
            tell(
                f"by words: {left(rest, len(records))}, and the database cannot be written to; each search embeds some"
            )
        return joined(None, (0, 0), records, placed(records, list(vector_of), list(vector_of.values())))


def left(pending: int, count: int) -> str:
    """How many records have no embedding, for a note."""
    return f"{pending:,} of {count:,} records are not embedded yet"
