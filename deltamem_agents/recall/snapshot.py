"""An agent's records as arrays in memory, cached for the next search. Uses the index's protocol, no database.

A snapshot belongs to one version of the agent. A new epoch starts a new snapshot; a longer journal extends the old one.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from deltamem_agents.recall.fusion import REACH, Messages, Sessions
from deltamem_agents.recall.protocols import IndexedRecord, RecordIndex, speaker
from deltamem_agents.recall.statements import standing
from deltamem_agents.recall.words import Postings, forget_words, speaks_of_self

if TYPE_CHECKING:
    from numpy.typing import NDArray

AT_ONCE = 10_000  # records whose vectors are summed at once; more would take too much memory
MODELS = ("assistant", "tool")  # roles of messages that no person wrote
ROOM = 1.25  # rows allocated per row used
KEPT_BYTES = 256 << 20  # size of all agents' snapshots; the least recently used are dropped first


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """Which records a search may return.

    Args:
        session: Only records of this session.
        since, until: Only records of messages written at or after ``since`` and before ``until``.
        metadata: Only records of messages whose metadata has these values.
        holds: Only records of messages for whose session and metadata it returns True.
    """

    session: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    metadata: Mapping[str, Any] | None = None
    holds: Callable[[str, Mapping[str, Any]], bool] | None = None

    def has(self, session: str, metadata: Mapping[str, Any]) -> bool:
        """Whether ``metadata`` and ``holds`` accept a message of this session with this metadata."""
        wanted = (self.metadata or {}).items()
        if not all(key in metadata and metadata[key] == value for key, value in wanted):
            return False
        return self.holds is None or self.holds(session, metadata)


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """N records in the journal's order; ``vectors`` is [N, dim], or None without an embedder."""

    version: tuple[int, int]
    keys: NDArray[np.int64]
    session: NDArray[np.int64]
    speaker: NDArray[np.int64]
    asks: NDArray[np.bool_]
    own: NDArray[np.bool_]  # whether a person speaks of themselves in it: "my dog"
    by_model: NDArray[np.bool_]  # whether a model or a tool wrote it
    by_tool: NDArray[np.bool_]
    standing: NDArray[np.int8]  # whether it is a rule or a preference
    position: NDArray[np.int64]
    written: NDArray[np.float64]
    metadata: Sequence[Mapping[str, Any]]
    session_names: Sequence[str]
    speaker_names: Sequence[str]
    words: Postings
    vectors: NDArray[np.float32] | None
    sessions: Sessions
    messages: Messages
    lengths: NDArray[np.float32]  # length of the sum of the vectors of a record and its neighbours
    blank: NDArray[np.bool_]  # whether it has no vector, or one of zeros
    pending: frozenset[int] = frozenset()  # keys of records that may get a vector later
    room: Room | None = None  # where ``vectors`` may grow
    weights: NDArray[np.float32] | None = None  # how many of the agent's records each stands for, if not all are held

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def bytes(self) -> int:
        """Its approximate size."""
        vectors = 0 if self.vectors is None else self.vectors.nbytes
        return 200 * len(self) + self.words.bytes + (vectors if self.room is None else self.room.bytes)

    def named(self, query: str) -> NDArray[np.bool_]:
        """Which records are by the one speaker that the query names; none if it names several."""
        words = f" {' '.join(''.join(c if c.isalnum() else ' ' for c in query.casefold()).split())} "
        found = [number for number, name in enumerate(self.speaker_names) if name and f" {name} " in words]
        return self.speaker == found[0] if len(found) == 1 else np.zeros(len(self), bool)

    @property
    def first_pending(self) -> int:
        """Position of the first record that may get a vector later; 0 if there is none."""
        found = self.position[np.isin(self.keys, np.fromiter(self.pending, np.int64, len(self.pending)))]
        return int(found.min()) if len(found) else 0

    def with_vectors(self, keys: Sequence[int], vectors: NDArray[np.float32]) -> Snapshot:
        """A copy with vectors [n, dim] for records that had none."""
        known = np.zeros((len(self), vectors.shape[1]), np.float32) if self.vectors is None else self.vectors.copy()
        order = np.argsort(self.keys)
        known[order[np.searchsorted(self.keys, keys, sorter=order)]] = vectors
        return replace(
            self,
            vectors=known,
            room=None,
            lengths=_lengths(np.zeros(0, np.float32), self.sessions, self.session, known),
            blank=np.logical_not(known.any(axis=1)),
            pending=self.pending.difference(keys),
        )

    def within(self, scope: Scope) -> NDArray[np.bool_]:
        """Which records are in a scope."""
        chosen = np.ones(len(self), bool)
        if scope.session is not None:
            known = scope.session in self.session_names
            chosen &= self.session == (self.session_names.index(scope.session) if known else -1)
        if scope.since is not None:
            chosen &= self.written >= _seconds(scope.since)
        if scope.until is not None:
            chosen &= self.written < _seconds(scope.until)
        if scope.metadata or scope.holds is not None:
            for place in np.flatnonzero(chosen).tolist():
                chosen[place] = scope.has(self.session_names[self.session[place]], self.metadata[place])
        return chosen


class Snapshots:
    """Snapshots of recently searched agents. Safe to share among threads."""

    def __init__(self, index: RecordIndex, model: str | None) -> None:
        self._index = index
        self._model = model
        self._kept: OrderedDict[str, Snapshot] = OrderedDict()
        self._lock = threading.Lock()

    def of(
        self,
        agent: str,
        prepare: Callable[[str, Snapshot | None], frozenset[int]],
        version: tuple[int, int] | None = None,
    ) -> Snapshot | None:
        """A snapshot of an agent's current records; None if the agent is unknown.

        Args:
            prepare: Called first if records are new or have no embedding, with the cached snapshot. It embeds what it
                can, and returns the keys of the records that will never have an embedding.
            version: The agent's version, if it was read just now.
        """
        version = version or self._index.version(agent)
        if version is None:
            return None
        with self._lock:
            known = self._kept.get(agent)
            if known is not None:
                self._kept.move_to_end(agent)
        if known is not None and known.version[0] != version[0]:
            forget_words()  # messages may have been erased
        if known is None or known.version != version or known.pending:
            given_up = prepare(agent, known)
            known = self._with_new_vectors(agent, self._still_good(known, version))
            if known is None or known.version != version:
                known = self._read(agent, version, known, given_up)
            elif known.pending & given_up:
                known = replace(known, pending=known.pending - given_up)
            self._keep(agent, known)
        return known

    @staticmethod
    def _still_good(known: Snapshot | None, version: tuple[int, int]) -> Snapshot | None:
        """The cached snapshot if it can be used or extended: it is of this epoch, and no newer than ``version``."""
        if known is None or known.version[0] != version[0] or known.version[1] > version[1]:
            return None
        return known

    def _with_new_vectors(self, agent: str, known: Snapshot | None) -> Snapshot | None:
        """The cached snapshot with the vectors that some of its records have received since."""
        if known is None or not known.pending or self._model is None:
            return known
        keys, vectors = self._index.embeddings_of(agent, self._model, sorted(known.pending))
        return known.with_vectors(keys, vectors) if keys else known

    def current(self, agent: str, version: tuple[int, int]) -> bool:
        """Whether the cached snapshot of an agent has this version."""
        with self._lock:
            known = self._kept.get(agent)
        return known is not None and known.version == version

    def forget(self, agent: str) -> None:
        """Drop what is cached for an agent."""
        with self._lock:
            self._kept.pop(agent, None)

    def clear(self) -> None:
        """Drop everything."""
        with self._lock:
            self._kept.clear()

    def _keep(self, agent: str, snapshot: Snapshot) -> None:
        with self._lock:
            self._kept[agent] = snapshot
            self._kept.move_to_end(agent)
            total = sum(each.bytes for each in self._kept.values())
            while total > KEPT_BYTES and len(self._kept) > 1:
                total -= self._kept.popitem(last=False)[1].bytes

    def _read(self, agent: str, version: tuple[int, int], known: Snapshot | None, given_up: frozenset[int]) -> Snapshot:
        after = known.version[1] if known else 0
        records = self._index.read(agent, after=after)
        vectors, pending = None, frozenset[int]()
        head = max(version[1], max((record.position for record in records), default=0))
        if self._model is not None:
            keys, stored = self._index.embeddings(agent, self._model, after=after)
            vectors = placed(records, keys, stored)
            pending = frozenset(record.key for record in records) - frozenset(keys) - given_up
            pending |= known.pending - given_up if known else frozenset()
        return replace(joined(known, (version[0], head), records, vectors), pending=pending)


def placed(
    records: Sequence[IndexedRecord], keys: Sequence[int], vectors: Sequence[NDArray[np.float32]] | NDArray[np.float32]
) -> NDArray[np.float32] | None:
    """Vectors [len(records), dim] in the records' order, zeros for a record without one; None if there are none."""
    dim = next((len(vector) for vector in vectors), 0)
    if not dim:
        return None
    place_of = {record.key: place for place, record in enumerate(records)}
    found = [(place_of[key], number) for number, key in enumerate(keys) if key in place_of]
    result = np.zeros((len(records), dim), np.float32)
    if found:
        places, numbers = np.array(found).T
        result[places] = np.asarray(vectors)[numbers]
    return result


def joined(
    known: Snapshot | None,
    version: tuple[int, int],
    records: Sequence[IndexedRecord],
    vectors: NDArray[np.float32] | None,
    words: Postings | None = None,
) -> Snapshot:
    """A snapshot extended by further records.

    Args:
        known: The snapshot to extend; None starts a new one.
        words: Postings of all records, if known.
    """
    sessions = {name: number for number, name in enumerate(known.session_names)} if known else {}
    speakers = {name: number for number, name in enumerate(known.speaker_names)} if known else {}
    session = np.array([sessions.setdefault(each.session, len(sessions)) for each in records], np.int64)
    speaks = np.array([speakers.setdefault(speaker(each), len(speakers)) for each in records], np.int64)
    columns: dict[str, Any] = {
        "keys": np.array([each.key for each in records], np.int64),
        "session": session,
        "speaker": speaks,
        "asks": np.array([each.text.rstrip().endswith(("?", "？", "؟")) for each in records], bool),
        "own": np.array([each.role not in MODELS and speaks_of_self(each.text) for each in records], bool),
        "by_model": np.array([each.role in MODELS for each in records], bool),
        "by_tool": np.array([each.role == "tool" for each in records], bool),
        "standing": np.array([standing(each.text, each.role) for each in records], np.int8),
        "position": np.array([each.position for each in records], np.int64),
        "written": np.array([each.created_at.timestamp() for each in records], np.float64),
    }
    metadata, room = [each.metadata for each in records], None
    if words is None:
        words = (known.words if known else Postings.empty()).grown([each.text for each in records])
    if known is not None and len(known):
        columns = {name: np.concatenate([getattr(known, name), values]) for name, values in columns.items()}
        metadata = [*known.metadata, *metadata]
        vectors, room = _grown(known.vectors, known.room, vectors, len(known), len(records))
    session = columns["session"]
    order = Sessions.from_numbers(session)
    return Snapshot(
        version=version,
        **columns,
        metadata=metadata,
        session_names=list(sessions),
        speaker_names=list(speakers),
        words=words,
        vectors=vectors,
        room=room,
        sessions=order,
        messages=Messages.from_positions(columns["position"], session, columns["by_model"]),
        lengths=_lengths(
            known.lengths if known and known.vectors is not None else np.zeros(0, np.float32), order, session, vectors
        ),
        blank=np.zeros(len(session), bool) if vectors is None else np.logical_not(vectors.any(axis=1)),
    )


def _grown(
    known: NDArray[np.float32] | None,
    room: Room | None,
    more: NDArray[np.float32] | None,
    before: int,
    added: int,
) -> tuple[NDArray[np.float32] | None, Room | None]:
    """Vectors of the ``before`` known and ``added`` new records, zeros for those without one; and their `Room`."""
    if known is None and more is None:
        return None, None
    dim = known.shape[1] if known is not None else more.shape[1] if more is not None else 0
    first = np.zeros((before, dim), np.float32) if known is None else known
    second = np.zeros((added, dim), np.float32) if more is None else more
    if not len(second):
        return first, room
    return (room or Room(first)).with_more(first, second)


class Room:
    """Rows [n, dim] that can be appended to without a copy each time. Safe to share among threads."""

    def __init__(self, rows: NDArray[np.float32]) -> None:
        self._all = np.empty((int(len(rows) * ROOM) + 16, rows.shape[1]), np.float32)
        self._all[: len(rows)] = rows
        self._used = len(rows)
        self._lock = threading.Lock()

    @property
    def bytes(self) -> int:
        """Its allocated size."""
        return self._all.nbytes

    def with_more(self, first: NDArray[np.float32], second: NDArray[np.float32]) -> tuple[NDArray[np.float32], Room]:
        """The rows ``first``, which do not change, followed by ``second``; and the `Room` of the result."""
        end = len(first) + len(second)
        with self._lock:
            if self._used == len(first) and end <= len(self._all):  # nobody else has appended to these
                self._all[len(first) : end] = second
                self._used = end
                return self._all[:end], self
        larger = Room(first)
        if end > len(larger._all):
            rows = np.concatenate([first, second])
            return rows, Room(rows)
        return larger.with_more(first, second)


def _lengths(
    known: NDArray[np.float32], order: Sessions, session: NDArray[np.int64], vectors: NDArray[np.float32] | None
) -> NDArray[np.float32]:
    """Length of the sum of each record's and its neighbours' vectors; ``known`` are those of the first records.

    A new record changes its own length and those of the `REACH` records before it in its session. Only these are
    computed again, because a memory grows by a few records at a time.
    """
    lengths = np.concatenate([known, np.ones(len(session) - len(known), np.float32)])
    if vectors is None:
        return lengths
    if len(session) <= AT_ONCE and not len(known):
        lengths[:] = np.maximum(np.linalg.norm(order.around(vectors), axis=1), 1e-6)
        return lengths
    numbers, added = np.unique(session[len(known) :], return_counts=True)
    ends = np.searchsorted(order.of, numbers, side="right")
    starts = np.searchsorted(order.of, numbers)
    for start, end, count in zip(starts, ends, added, strict=True):
        near = order.order[max(start, end - count - 2 * REACH) : end]
        sums = Sessions.from_numbers(session[near]).around(vectors[near])
        changed = min(len(near), count + REACH)
        lengths[near[-changed:]] = np.maximum(np.linalg.norm(sums[-changed:], axis=1), 1e-6)
    return lengths


def _seconds(time: datetime) -> float:
    return (time.replace(tzinfo=UTC) if time.tzinfo is None else time).timestamp()
