"""Agents that are searched through the index: as those that are held in memory, whatever the database."""

from __future__ import annotations

import gc
import logging
import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deltamem_agents.errors import EmbedderError
from deltamem_agents.recall import CallableEmbedder, Retriever, sampled_search, split_text
from deltamem_agents.recall.sampled_search import LargeAgents
from deltamem_agents.recall.snapshot import Snapshot
from deltamem_agents.store import Selection, Store

DAY = datetime(2026, 3, 1, tzinfo=UTC)
SUBJECTS = "apple boat cello desk engine forest garden harbour island jacket kettle lantern".split()
VERBS = "is was seems looks stays became".split()
KINDS = "old new red green quiet broken painted heavy light lost".split()


def letters(texts: list[str]) -> list[list[float]]:
    return [[text.lower().count(letter) + 0.01 for letter in "abcdefghijklmnopqrstuvwxyz"] for text in texts]


EMBEDDERS = [None, CallableEmbedder(letters, name="letters")]
embedders = pytest.mark.parametrize("embedder", EMBEDDERS, ids=["words", "words and meaning"])


def fill(store: Store, count: int, agent: str = "alice", seed: int = 7) -> None:
    """Sessions of 20 messages, one after another."""
    chosen = random.Random(seed)
    for start in range(0, count, 20):
        said = [
            {
                "role": "user" if number % 2 else "assistant",
                "content": f"The {chosen.choice(KINDS)} {chosen.choice(SUBJECTS)} {chosen.choice(VERBS)} "
                f"{chosen.choice(KINDS)}, says note {number} on {chosen.choice(SUBJECTS)}",
                "created_at": DAY + timedelta(hours=number),
                "metadata": {"year": number % 5, "name": "Mara" if number % 7 == 0 else "Tom"},
            }
            for number in range(start, min(start + 20, count))
        ]
        store.append(agent, said, f"s{start // 20}")


QUERIES = [
    "Where is the painted boat?",
    "the quiet forest",
    "my lantern",
    "What did Mara say of the kettle?",
    "note 77",
    "broken cello island",
    "zzz",
]


def ids(found: list[Any]) -> list[str]:
    return [record.message_id for record in found]


@embedders
def test_where_all_records_are_candidates_the_ranking_is_that_in_memory(
    store: Store, embedder: CallableEmbedder | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampled_search, "SAMPLE", 300)
    monkeypatch.setattr(sampled_search, "CANDIDATES", 300)
    fill(store, 300)
    held, asked = Retriever(store.records, embedder), Retriever(store.records, embedder, in_memory=0)
    for query in QUERIES:
        expected = held.search("alice", query, 10)
        found = asked.search("alice", query, 10)
        assert ids(found) == ids(expected), query
        assert np.allclose([each.score for each in found], [each.score for each in expected], atol=1e-4)
    assert ids(asked.search("alice", "lantern", 3)) == ids(held.search("alice", "lantern", 3))


@embedders
def test_where_some_are_sampled_what_is_clearly_best_in_memory_is_found(
    store: Store, embedder: CallableEmbedder | None
) -> None:
    """Clearly best: well above the eleventh. Among records that are as good as each other, any may come first."""
    fill(store, 3000)
    held, asked = Retriever(store.records, embedder), Retriever(store.records, embedder, in_memory=2_999)
    clear = 0
    for query in [*QUERIES[:-1], "note 1500", "What did note 2222 say?"]:
        *best, eleventh = held.search("alice", query, 11)
        found = ids(asked.search("alice", query, 10))
        expected = {record.message_id for record in best if record.score > eleventh.score + 0.1}
        assert expected <= set(found), query
        assert found == ids(asked.search("alice", query, 10))  # the same each time
        clear += len(expected)
    assert clear >= 12


def test_among_equal_records_beyond_the_limit_the_newest_are_found(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampled_search, "CANDIDATES", 10)
    for number in range(30):
        store.append("alice", [{"role": "user", "content": f"apple x{number}", "id": f"{number}"}], f"s{number}")
    newest = [f"{number}" for number in range(29, 24, -1)]
    assert ids(Retriever(store.records, None).search("alice", "apple", 5)) == newest
    assert ids(Retriever(store.records, None, in_memory=0).search("alice", "apple", 5)) == newest
    assert ids([record for record, _ in store.records.search_text("alice", ["apple"], 5)]) == newest


@embedders
def test_scopes(store: Store, embedder: CallableEmbedder | None) -> None:
    fill(store, 600)
    store.append("bob", [{"role": "user", "content": "the painted boat of bob"}], "s1")
    held, asked = Retriever(store.records, embedder), Retriever(store.records, embedder, in_memory=0)
    scopes: list[dict[str, Any]] = [
        {"session": "s3"},
        {"session": "nowhere"},
        {"since": DAY + timedelta(hours=580)},
        {"until": DAY + timedelta(hours=20)},
        {"since": DAY + timedelta(hours=100), "until": DAY + timedelta(hours=120), "session": "s5"},
        {"metadata": {"year": 3}},
    ]
    for scope in scopes:
        for query in QUERIES[:2]:
            expected = held.search("alice", query, 5, **scope)
            found = asked.search("alice", query, 5, **scope)
            assert len(found) == len(expected), (scope, query)
            for record in found:
                assert "bob" not in record.text
                assert scope.get("session", record.session) == record.session
                assert scope.get("since", DAY) <= record.created_at < scope.get("until", DAY + timedelta(days=99))
                assert all(record.metadata[key] == value for key, value in scope.get("metadata", {}).items())
    assert asked.search("nobody", "boat") == []


@embedders
def test_more_candidates_are_asked_for_where_a_filter_leaves_few(
    store: Store, embedder: CallableEmbedder | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampled_search, "CANDIDATES", 10)
    for number in range(400):
        said = {"role": "user", "content": f"apple number {number}", "metadata": {"last": number > 396}}
        store.append("alice", [said], "s")
    found = Retriever(store.records, embedder, in_memory=0).search("alice", "apple", 5, metadata={"last": True})
    assert {record.text for record in found} == {f"apple number {number}" for number in (397, 398, 399)}


@embedders
def test_what_was_written_superseded_rolled_back_or_erased_is_seen(
    store: Store, embedder: CallableEmbedder | None
) -> None:
    retriever = Retriever(store.records, embedder, in_memory=0)

    def found() -> set[str]:
        return {record.text for record in retriever.search("alice", "apple", 9)}

    assert found() == set()
    store.append("alice", [{"role": "user", "content": "apple one", "id": "a"}], "s")
    assert found() == {"apple one"}
    with_two = store.append("alice", [{"role": "user", "content": "apple two"}], "t")
    assert found() == {"apple one", "apple two"}
    store.append("alice", [{"role": "user", "content": "apple three", "id": "a"}], "s")
    assert found() == {"apple two", "apple three"}
    store.rollback("alice", 2)
    assert found() == {"apple one", "apple two"}
    store.erase("alice", Selection(ids=with_two))
    assert found() == {"apple one"}
    store.fork("alice", "twin")
    assert [record.text for record in retriever.search("twin", "apple")] == ["apple one"]
    retriever.forget("alice")
    assert found() == {"apple one"}


def snapshots_held() -> int:
    """How many agents' records are held in memory, by anybody in this process."""
    gc.collect()
    return sum(isinstance(each, Snapshot) for each in gc.get_objects())


def test_an_agent_that_grows_is_no_longer_held(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    retriever = Retriever(store.records, EMBEDDERS[1], in_memory=30)
    sampled, search, before = [], LargeAgents.search, snapshots_held()
    monkeypatch.setattr(LargeAgents, "search", lambda *given: sampled.append(given[1]) or search(*given))
    fill(store, 30)
    retriever.search("alice", "boat")
    assert snapshots_held() == before + 1 and not sampled
    fill(store, 10, seed=8)
    assert len(retriever.search("alice", "note", 40)) == 40
    assert snapshots_held() == before and sampled == ["alice"]
    messages = [entry.id for entry in store.live("alice")]
    store.erase("alice", Selection(ids=messages[:20]))
    assert len(retriever.search("alice", "note", 40)) == 20
    assert snapshots_held() == before + 1 and sampled == ["alice"]


def test_what_is_new_is_embedded_once(store: Store) -> None:
    seen: list[int] = []

    def embed(texts: list[str]) -> list[list[float]]:
        seen.append(len(texts))
        return letters(texts)

    retriever = Retriever(store.records, CallableEmbedder(embed, name="counting"), in_memory=0, embed_seconds=inf)
    fill(store, 100)
    retriever.search("alice", "boat")
    fill(store, 3, seed=8)
    retriever.search("alice", "boat")
    retriever.search("alice", "boat")
    assert seen == [64, 36, 1, 3, 1, 1]


def test_another_dimension_under_the_same_name(store: Store) -> None:
    fill(store, 20)
    Retriever(store.records, EMBEDDERS[1]).embed_missing("alice")
    shorter = CallableEmbedder(lambda texts: np.ones((len(texts), 3)), name="letters")
    with pytest.raises(EmbedderError, match="dimension 3"):
        Retriever(store.records, shorter, in_memory=0).search("alice", "boat")


def test_a_read_only_store(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with Store.open(f"sqlite:///{tmp_path}/m.db", split=split_text) as store:
        fill(store, 60)
        Retriever(store.records, EMBEDDERS[1]).embed_missing("alice")
        store.append("alice", [{"role": "user", "content": "zzzz sleeping"}], "t")
    with Store.open(f"sqlite:///file:{tmp_path}/m.db?mode=ro&uri=true", split=split_text) as store:
        retriever = Retriever(store.records, EMBEDDERS[1], in_memory=0)
        with caplog.at_level(logging.WARNING):
            found = retriever.search("alice", "sleeping zzz", 2)
            retriever.search("alice", "boat")
        assert found[0].text == "zzzz sleeping" and caplog.text.count("not embedded") == 1
        assert len(retriever.search("alice", "boat", 5)) == 5


def test_reindex_indexes(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    indexed: list[tuple[str, str]] = []
    index: Callable[[str, str], bool] = store.records.index_vectors
    monkeypatch.setattr(store.records, "index_vectors", lambda *each: indexed.append(each) or index(*each))
    fill(store, 20)
    Retriever(store.records, EMBEDDERS[1]).reindex("alice")
    assert indexed == []
    Retriever(store.records, EMBEDDERS[1], in_memory=19).reindex("alice")
    assert indexed == [("alice", "letters")]
