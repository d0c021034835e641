"""After a change of embedder: records are embedded anew, once, whatever happens in between."""

from __future__ import annotations

import logging

import pytest

from deltamem_agents.errors import ConfigError, EmbedderError
from deltamem_agents.recall import CallableEmbedder, Reindexed, Retriever
from deltamem_agents.store import Store


@pytest.fixture(autouse=True)
def _said(store: Store) -> None:
    for agent in ("alice", "bob"):
        store.append(agent, [{"role": "user", "content": f"{agent} says number {i}"} for i in range(150)], "s")


def embedder(name: str, dim: int, calls: list[int] | None = None, fails_at: int = 0) -> CallableEmbedder:
    def embed(texts: list[str]) -> list[list[float]]:
        if calls is not None:
            calls.append(len(texts))
            if fails_at and len(calls) in (fails_at, fails_at + 1):  # and on whatever it is tried with
                raise OSError("gone")
        return [[len(text) % (each + 2) + 1.0 for each in range(dim)] for text in texts]

    return CallableEmbedder(embed, name=name)


def test_only_what_is_missing_is_embedded_and_others_are_kept_or_deleted(store: Store) -> None:
    Retriever(store.records, embedder("old", 3)).reindex("alice")
    assert store.records.embedding_models("alice") == {"old": 150} and store.records.embedding_models("bob") == {}
    calls: list[int] = []
    seen: list[tuple[int, int]] = []
    fresh = Retriever(store.records, embedder("new", 5, calls))
    assert fresh.reindex("alice", progress=lambda *each: seen.append(each)) == Reindexed(embedded=150, dropped=0)
    assert seen == [(64, 150), (128, 150), (150, 150)] and calls == [64, 64, 22]
    assert store.records.embedding_models("alice") == {"new": 150, "old": 150}
    assert fresh.reindex("alice") == Reindexed(embedded=0, dropped=0)
    Retriever(store.records, embedder("old", 3)).reindex("bob")
    assert fresh.reindex("alice", prune=True) == Reindexed(embedded=0, dropped=150)
    assert store.records.embedding_models("alice") == {"new": 150} and store.records.embedding_models("bob") == {
        "old": 150
    }
    assert store.records.embeddings("alice", "new")[1].shape == (150, 5)


def test_one_that_fails_deletes_nothing_and_goes_on_where_it_was(store: Store) -> None:
    Retriever(store.records, embedder("old", 3)).reindex("alice")
    calls: list[int] = []
    fresh = Retriever(store.records, embedder("new", 5, calls, fails_at=2))
    with pytest.raises(EmbedderError, match="gone"):
        fresh.reindex("alice", prune=True)
    assert store.records.embedding_models("alice") == {"new": 64, "old": 150}
    assert fresh.reindex("alice", prune=True) == Reindexed(embedded=86, dropped=150)


def test_a_search_after_a_change_says_why_it_takes_longer(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        Retriever(store.records, embedder("old", 3)).search("alice", "number")
        assert caplog.text == ""  # the first embedder is no change
        Retriever(store.records, embedder("new", 5)).search("alice", "number")
    assert "'old'" in caplog.text and "'new'" in caplog.text and "deltamem reindex" in caplog.text


def test_without_an_embedder(store: Store) -> None:
    with pytest.raises(ConfigError, match="no embedder"):
        Retriever(store.records).reindex("alice")
    assert Retriever(store.records, embedder("new", 5)).reindex("nobody", prune=True) == Reindexed(
        embedded=0, dropped=0
    )
