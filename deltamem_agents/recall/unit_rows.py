"""Check the vectors that embedders return, and scale them to length 1."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from deltamem_agents.errors import EmbedderError

if TYPE_CHECKING:
    from numpy.typing import NDArray


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
