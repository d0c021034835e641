"""Cut texts to what the embedder reads, so that no part of a text is silently ignored.

`Cutting` makes a message's records. A text that is embedded and still too long, such as a question, is embedded in
parts. A tokenizer is loaded only for a text that may be too long.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from deltamem_agents.errors import DeltaMemError
from deltamem_agents.recall.records import RECORD_LIMIT, Measure, split_text
from deltamem_agents.search_form import embedded_form

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from deltamem_agents.recall.protocols import Embedder

SPECIAL = 4  # the most tokens that a tokenizer adds to a text's own


class Cutting:
    """Cuts messages for an embedder. The store calls it, and stores ``rule`` with the records.

    Args:
        embedder: With None, or an embedder without a limit, only `RECORD_LIMIT` applies.
    """

    def __init__(self, embedder: Embedder | None = None) -> None:
        self._embedder = embedder
        self._found: tuple[Measure | None, int] | None = None

    @property
    def rule(self) -> int:
        """A number that identifies how messages are cut; it differs if they are cut differently."""
        return self._measured()[1]

    def __call__(self, text: str) -> list[str]:
        """The texts of a message's records."""
        measure = self._measured()[0]
        try:
            return split_text(text, measure=measure)
        except DeltaMemError:  # the tokenizer cannot be loaded; a write must not fail for that
            return split_text(text)

    def _measured(self) -> tuple[Measure | None, int]:
        if self._found is None:
            told = f"{RECORD_LIMIT} characters"
            measure: Measure | None = getattr(self._embedder, "measure", None)
            if measure is None or self._embedder is None:
                return None, _number(told)  # not cached: the embedder may know its limit later
            self._found = measure, _number(f"{told}, {measure.limit} of {self._embedder.name}")
        return self._found


def in_parts(
    texts: Sequence[str], measure: Measure | None, embed: Callable[[list[str]], NDArray[np.float32]]
) -> NDArray[np.float32]:
    """Vectors [len(texts), dim]. A text that exceeds the measure gets the mean of its parts, weighted by length."""
    parts = [_parts(text, measure) for text in texts]
    vectors = embed([part for each in parts for part in each])
    if len(vectors) == len(texts):
        return vectors
    result = np.zeros((len(texts), vectors.shape[1]), np.float32)
    start = 0
    for place, each in enumerate(parts):
        weights = np.array([len(part) for part in each], np.float32)
        mean = weights @ vectors[start : start + len(each)]
        result[place] = mean / max(float(np.linalg.norm(mean)), 1e-12)
        start += len(each)
    return result


def counted_by(load: Callable[[], Any], limit: int, prompt: str = "") -> Measure:
    """The `Measure` of a model by its tokenizer, from transformers or tokenizers.

    Args:
        load: Returns the tokenizer; called at each use.
        prompt: The text put before each text; it counts towards the limit.
    """

    def count(text: str) -> int:
        whole, tokenizer = prompt + embedded_form(text), load()
        if hasattr(tokenizer, "no_truncation"):
            return len(tokenizer.encode(whole).ids)
        return len(tokenizer(whole, truncation=False, verbose=False)["input_ids"])

    return Measure(limit, count, SPECIAL + len(prompt))


def _parts(text: str, measure: Measure | None) -> list[str]:
    if measure is None or measure.fits(text):
        return [text]
    return split_text(text, len(text), measure) or [text]


def _number(told: str) -> int:
    """A positive number of 48 bits."""
    return int.from_bytes(hashlib.blake2b(told.encode(), digest_size=6).digest(), "big") or 1
