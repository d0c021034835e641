"""The stores that the contract is held against: LangGraph's own, and ours in a file and on PostgreSQL."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager

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


@pytest.fixture(scope="session")
def postgresql_once(postgresql_url: Callable[[], str]) -> str:
    """URL of one database for all tests, as making one takes longer than most of them."""
    return postgresql_url()


# The contract and what is ours beyond it hold on either database; PostgreSQL in 'make test' only.
KINDS = ["file", pytest.param("postgresql", marks=pytest.mark.slow)]


@contextmanager
def opened(kind: str, request: pytest.FixtureRequest) -> Iterator[DeltaMem]:
    """A memory without agents."""
    if kind == "file":
        url = f"sqlite:///{request.getfixturevalue('tmp_path') / 'store.db'}"
    else:
        url = request.getfixturevalue("postgresql_once")
    with DeltaMem.open("tiny", url=url, embedder=bags_of_words) as mem:
        for left in mem.agents():  # by the test before
            mem.agent(left.id).delete()
        yield mem


@pytest.fixture(params=KINDS)
def semantic_mem(request: pytest.FixtureRequest) -> Iterator[DeltaMem]:
    with opened(request.param, request) as mem:
        yield mem


@pytest.fixture
def ours(semantic_mem: DeltaMem) -> DeltaMemStore:
    return DeltaMemStore(semantic_mem)


@pytest.fixture(params=["langgraph", *KINDS])
def store(request: pytest.FixtureRequest) -> Iterator[BaseStore]:
    if request.param == "langgraph":
        yield InMemoryStore(index={"dims": DIM, "embed": bags_of_words})
        return
    with opened(request.param, request) as mem:
        yield DeltaMemStore(mem)
