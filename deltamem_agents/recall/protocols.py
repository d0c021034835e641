"""`Record`, which recall returns, and the protocols of what it needs: an index of records and an embedder."""

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

    Args:
        text: The piece of text.
        score: Higher for better matches; comparable within one search only.
        session: The message's session.
        message_id: The message's id, unique within its session.
        role: Who wrote it: "system", "user", "assistant" or "tool".
        position: The message's position in its journal.
        created_at: When the message was written, UTC.
        chunk: Which piece of a long message, from 0.
        outdated: Whether a newer record of the same search contradicts it; the best 300 are compared.
        until: When that newer record was written.
        metadata: The message's metadata.
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
        """Session and id of its message, as `AgentMemory.erase` takes them."""
        return self.session, self.message_id


class IndexedRecord(Protocol):
    """A record as an index holds it."""

    @property
    def key(self) -> int:
        """The index's own key of the record."""

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
        """The message's role."""

    @property
    def position(self) -> int:
        """The message's position in its journal."""

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
    """The ``name`` in the message's metadata, in lower case; empty if there is none or it is not a string."""
    name = record.metadata.get("name")
    return " ".join(name.casefold().split()) if isinstance(name, str) else ""


class Recut(Protocol):
    """Progress of cutting messages again: those up to ``position`` are cut by the current rule."""

    @property
    def position(self) -> int:
        """Position in the journal."""

    @property
    def changed(self) -> int:
        """How many messages are now cut differently."""


class RecordIndex(Protocol):
    """The records of many agents. Every call is about one agent; an unknown agent has no records."""

    def version(self, agent: str) -> tuple[int, int] | None:
        """A version that changes whenever the agent's records do; None if the agent is unknown.

        The second number is the last position of the journal. While the first number stays the same, records are only
        added, at later positions.
        """

    def size(self, agent: str, limit: int | None = None) -> int:
        """How many records there are, but at most ``limit``; fast if the limit is small."""

    def sample(self, agent: str, count: int) -> Sequence[int]:
        """Keys of the records of ``count`` random messages, or of all; the same ones until the journal grows."""

    def text_scores(
        self,
        agent: str,
        terms: Sequence[str],
        limit: int,
        session: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> Sequence[tuple[int, float]]:
        """Keys and scores of the best records that contain any of the terms, at most ``limit``, in no order.

        Args:
            session: Only records of this session.
            since, until: Only records written at or after ``since`` and before ``until``.
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
        """Keys [n] and cosines [n] of up to ``limit`` records nearest to a vector [dim] of a model, nearest first.

        With a vector index, the result may miss some. ``session``, ``since`` and ``until`` are as for `text_scores`.
        """

    def index_vectors(self, agent: str, model: str) -> bool:
        """Make `nearest` fast for an agent from now on, if possible; returns whether it is."""

    def around(self, agent: str, keys: Sequence[int], reach: int) -> Sequence[IndexedRecord]:
        """Records with these keys, and those of ``reach`` messages on each side in their session, in order."""

    def read(self, agent: str, keys: Sequence[int] | None = None, *, after: int = 0) -> Sequence[IndexedRecord]:
        """Records after a position, in the journal's order; only those with the given keys, if any are given."""

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
        """Key and text of up to ``limit`` records after a position that a model has not embedded, in order.

        Args:
            keys: Only records with these keys.
            newest: Whether to take the newest such records rather than the oldest.
        """

    def cut_again(self, agent: str, *, after: int = 0) -> Recut | None:
        """Cut some messages after a position by the current rule; returns the progress, None if all are done."""

    def put_embeddings(self, agent: str, model: str, keys: Sequence[int], vectors: NDArray[np.float32]) -> int:
        """Store embeddings [len(keys), dim], and return how many; skips records that are gone or have one already."""

    def embeddings(self, agent: str, model: str, *, after: int = 0) -> tuple[Sequence[int], NDArray[np.float32]]:
        """Keys [N] and embeddings [N, dim] by a model, of records after a position, in the journal's order."""

    def embeddings_of(self, agent: str, model: str, keys: Sequence[int]) -> tuple[Sequence[int], NDArray[np.float32]]:
        """Keys [n] and embeddings [n, dim] of the given records that a model has embedded, in no order."""

    def embedding_models(self, agent: str) -> Mapping[str, int]:
        """For each model, how many records it has embedded."""

    def drop_embeddings(self, agent: str, *, keep: str) -> int:
        """Delete the embeddings of all models but one, and return how many there were."""


@runtime_checkable
class Embedder(Protocol):
    """Turns texts into vectors.

    An embedder that embeds queries differently from other texts also has a method ``embed_query``, which turns one text
    into one vector [dim] of length 1. An embedder that reads only part of a long text states its limit in an attribute
    ``measure``, a `Measure` by which records are cut.
    """

    @property
    def name(self) -> str:
        """The model's name, stored with the vectors; a different model needs a different name."""

    @property
    def dim(self) -> int:
        """Length of a vector."""

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors [len(texts), dim], each of length 1.

        Raises:
            EmbedderError: The model failed.
        """
