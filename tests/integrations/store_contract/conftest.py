"""The stores that the contract is held against: LangGraph's own, and ours on the bundled model."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from langgraph.store.base import BaseStore
from langgraph.store.memory import InMemoryStore

from deltamem_agents import DeltaMem
from langchain_deltamem import DeltaMemStore

DIM = 512


def bags_of_words(texts: list[str]) -> list[list[float]]:
    """Texts that share words are near one another: enough of an embedder to tell apart what the tests tell."""
    vectors = np.zeros((len(texts), DIM), np.float32)
    for row, text in enumerate(texts):
        for word in "".join(c if c.isalnum() else " " for c in text.casefold()).split():
            vectors[row, zlib.crc32(word.encode()) % DIM] += 1
    return [[float(number) for number in row] for row in vectors]


@pytest.fixture
def cosine() -> Callable[[str, str], float]:
    """How like two texts are to that embedder."""

    def of(one: str, other: str) -> float:
        a, b = np.array(bags_of_words([one, other]))
        return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))

    return of


@pytest.fixture
def semantic_mem(tmp_path: Path) -> Iterator[DeltaMem]:
    with DeltaMem.open("tiny", url=f"sqlite:///{tmp_path / 'store.db'}", embedder=bags_of_words) as mem:
        yield mem


@pytest.fixture
def ours(semantic_mem: DeltaMem) -> DeltaMemStore:
    return DeltaMemStore(semantic_mem)


@pytest.fixture(params=["langgraph", "ours"])
def store(request: pytest.FixtureRequest) -> BaseStore:
    if request.param == "ours":
        made: BaseStore = request.getfixturevalue("ours")
        return made
    return InMemoryStore(index={"dims": DIM, "embed": bags_of_words})
