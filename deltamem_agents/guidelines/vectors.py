"""Vectors of single words, for matching words of similar meaning without an embedder and without torch."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

FILE = Path(__file__).with_name("word_vectors.npz")


@dataclass(frozen=True, slots=True, eq=False)
class WordVectors:
    """Unit vectors of words.

    Args:
        places: Word to row.
        rows: [N, D] int8, scaled so that the cosine of two rows is that of the words.
    """

    places: dict[str, int]
    rows: NDArray[np.float32]

    @classmethod
    def bundled(cls) -> WordVectors | None:
        """Those that come with the package; None if they are not installed."""
        return _bundled()

    def nearest(self, word: str, words: Collection[str]) -> float:
        """The highest cosine of a word with one of several; 0 if it or all of them are unknown."""
        place = self.places.get(word)
        others = [self.places[each] for each in words if each in self.places]
        if place is None or not others:
            return 0.0
        return float((self.rows[others] @ self.rows[place]).max())


@lru_cache(1)
def _bundled() -> WordVectors | None:
    if not FILE.exists():
        return None
    with np.load(FILE, allow_pickle=False) as stored:
        rows = stored["rows"].astype(np.float32)
        words = stored["words"].tobytes().decode().split("\n")
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)
    return WordVectors({word: i for i, word in enumerate(words)}, rows)
