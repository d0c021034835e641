"""What recall needs of others, and what it gives: protocols and the `Record`. No code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A retrieved piece of a message.

    ``score`` is higher for better matches and comparable within one search only; ``position`` is the message's in its
    journal, ``chunk`` counts the pieces of a long message from 0, ``outdated`` says that a newer record of the same
    search contradicts it (of the best 300, which are compared), and ``until`` when that was said.
    """

    text: str
    score: float
    session: str
    message_id: str
    role: str
    position: int
    created_at: datetime
    chunk: int = 0
    outdated: bool = False
    until: datetime | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def ref(self) -> tuple[str, str]:
        """Session and id of its message: ids are unique within their session. `AgentMemory.erase` takes it."""
        return self.session, self.message_id


class IndexedRecord(Protocol):
    """A record as an index holds it; ``key`` is the index's own name for it."""

    @property
    def key(self) -> int:
        """The index's name for it."""

    @property
    def text(self) -> str:
        """The piece of text."""

    @property
    def session(self) -> str:
        """The message's session."""

    @property
    def message_id(self) -> str:
        """The message's id."""

    @property
    def role(self) -> str:
        """Who spoke."""

    @property
    def position(self) -> int:
        """The message's place in its journal."""

    @property
    def chunk(self) -> int:
        """Which piece of the message, from 0."""

    @property
    def created_at(self) -> datetime:
        """When the message was written, UTC."""

    @property
    def metadata(self) -> Mapping[str, Any]:
        """The message's metadata."""


def speaker(record: IndexedRecord) -> str:
    """The name a message was written under, in lower case; empty where it has none, or metadata that is no name."""
    name = record.metadata.get("name")
    return " ".join(name.casefold().split()) if isinstance(name, str) else ""


class Recut(Protocol):
    """Messages up to ``position`` are cut as they would be now."""

    @property
    def position(self) -> int:
        """Of the journal."""

    @property
    def changed(self) -> int:
        """How many came out otherwise."""


class RecordIndex(Protocol):
    """The records of many agents. Every call is about one; an unknown one has no records."""

    def version(self, agent: str) -> tuple[int, int] | None:
        """What changes when the agent's records do; None if it is unknown.

        While the first number stays, records are only added, beyond the second: the last position of the journal.
        """

    def size(self, agent: str, limit: int | None = None) -> int:
        """How many records there are, or ``limit`` where there are more; quick where that is small."""

    def sample(self, agent: str, count: int) -> Sequence[int]:
        """Keys of the records of ``count`` messages at random, or of all; the same until the journal grows."""

    def text_scores(
        self,
        agent: str,
        terms: Sequence[str],
        limit: int,
        session: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> Sequence[tuple[int, float]]:
        """Keys of up to ``limit`` records that hold any of the terms, the best, with scores, in no order.

        Args:
            session, since, until: Of these only: of the session, written at or after, and before.
        """

    def nearest(
        self,
        agent: str,
        model: str,
        vector: NDArray[np.float32],
        limit: int,
        session: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> tuple[Sequence[int], NDArray[np.float32]]:
        """Keys [n] and cosines [n] of up to ``limit`` records nearest to a vector [dim] under a model, nearest first.

        Some may be missing where they are indexed. ``session``, ``since``, ``until`` as `text_scores`.
        """

    def index_vectors(self, agent: str, model: str) -> bool:
        """Make `nearest` quick for an agent from now on, where that can be done; whether it is."""

    def around(self, agent: str, keys: Sequence[int], reach: int) -> Sequence[IndexedRecord]:
        """Records with these keys and those of ``reach`` messages of their session on either side, in order."""

    def records(self, agent: str, keys: Sequence[int] | None = None, *, after: int = 0) -> Sequence[IndexedRecord]:
        """Records beyond a position in the journal's order; only those with the given keys, where keys are given."""

    def missing_embeddings(
        self,
        agent: str,
        model: str,
        limit: int,
        *,
        after: int = 0,
        keys: Sequence[int] | None = None,
        newest: bool = False,
    ) -> Sequence[tuple[int, str]]:
        """Key and text of up to ``limit`` records beyond a position without an embedding under a model, in order.

        Args:
            keys: Only those with these keys.
            newest: Whether they are the newest such records rather than the oldest.
        """

    def cut_again(self, agent: str, *, after: int = 0) -> Recut | None:
        """Cut some messages beyond a position as one would be cut now; how far that is done, None where all are."""

    def put_embeddings(self, agent: str, model: str, keys: Sequence[int], vectors: NDArray[np.float32]) -> int:
        """Store embeddings [len(keys), dim]; how many were. Records that are gone or have one are passed over."""

    def embeddings(self, agent: str, model: str, *, after: int = 0) -> tuple[Sequence[int], NDArray[np.float32]]:
        """Keys [N] and embeddings [N, dim] under a model, of records beyond a position, in the journal's order."""

    def embeddings_of(self, agent: str, model: str, keys: Sequence[int]) -> tuple[Sequence[int], NDArray[np.float32]]:
        """Keys [n] and embeddings [n, dim] of those of the records that have one under a model, in no order."""

    def embedding_models(self, agent: str) -> Mapping[str, int]:
        """How many records have an embedding, by model."""

    def drop_embeddings(self, agent: str, *, keep: str) -> int:
        """Delete embeddings under all models but one; how many there were."""


@runtime_checkable
class Embedder(Protocol):
    """Turns texts into vectors. ``name`` is stored with them: a different model needs a different name.

    One that embeds queries in another way than what they look for has a method ``embed_query`` besides, from one text
    to one vector [dim] of length 1. One that reads so much of a text only says so in an attribute ``measure``: a
    `Measure`, by which records are cut.
    """

    @property
    def name(self) -> str:
        """What is stored with the vectors."""

    @property
    def dim(self) -> int:
        """Length of a vector."""

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors [len(texts), dim], each of length 1.

        Raises:
            EmbedderError: The model failed.
        """
