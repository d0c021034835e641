"""Records by their embeddings and by where they stand; and the vector index that PostgreSQL may have."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from deltamem_agents.errors import ConfigError
from deltamem_agents.store import Selection, Store, nearest
from deltamem_agents.store.dialects import pgvector
from tests import databases
from tests.databases import engine_of, problems, statements

FreshUrl = Callable[[], str]
Say = Callable[..., dict[str, Any]]
Floats = NDArray[np.float32]

DAY = datetime(2026, 3, 1, tzinfo=UTC)


def said(count: int, word: str = "note") -> list[dict[str, Any]]:
    return [
        {"role": "user", "content": f"{word} {number}", "created_at": DAY + timedelta(hours=number)}
        for number in range(count)
    ]


def embed(store: Store, agent: str = "alice", dim: int = 16, model: str = "m", seed: int = 3) -> dict[int, Floats]:
    """Random vectors for what has none; those of all records by key."""
    keys = [key for key, _ in store.records.missing_embeddings(agent, model, 1 << 30)]
    vectors = np.random.default_rng(seed).standard_normal((len(keys), dim), np.float32)
    for start in range(0, len(keys), 1000):
        store.records.put_embeddings(agent, model, keys[start : start + 1000], vectors[start : start + 1000])
    return dict(zip(*store.records.embeddings(agent, model), strict=True))


def exact(vectors: dict[int, Floats], query: Floats, limit: int) -> list[int]:
    def cosine(key: int) -> float:
        return float(vectors[key] @ query / np.linalg.norm(vectors[key]))

    return sorted(vectors, key=cosine, reverse=True)[:limit]


@pytest.fixture
def query() -> Floats:
    return np.random.default_rng(1).standard_normal(16, np.float32)


def test_the_nearest_are_found_with_their_cosines(store: Store, query: Floats, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nearest, "BLOCK", 7)
    store.append("alice", said(60), "s")
    store.append("bob", said(5), "s")
    vectors, bobs = embed(store), embed(store, "bob")
    for limit in (1, 10, 100):
        keys, cosines = store.records.nearest("alice", "m", query, limit)
        assert keys == exact(vectors, query, limit)
        expected = [vectors[key] @ query / np.linalg.norm(vectors[key]) / np.linalg.norm(query) for key in keys]
        assert np.allclose(cosines, expected, atol=1e-5)
    assert store.records.nearest("bob", "m", query, 9)[0] == exact(bobs, query, 9)
    for nothing in (("nobody", "m", 5), ("alice", "other", 5), ("alice", "m", 0)):
        assert store.records.nearest(nothing[0], nothing[1], query, nothing[2])[0] == []
    assert store.records.nearest("alice", "m", np.zeros(16, np.float32), 5)[0] == []
    with pytest.raises(ConfigError, match="dimension 16, the query's has 3"):
        store.records.nearest("alice", "m", np.ones(3, np.float32), 5)


def test_the_nearest_and_the_words_of_a_session_and_a_time(store: Store, query: Floats) -> None:
    store.append("alice", said(20), "one")
    store.append("alice", said(20), "two")
    vectors = embed(store)
    keys = list(vectors)
    scopes: list[tuple[dict[str, Any], list[int]]] = [
        ({"session": "two"}, keys[20:]),
        ({"since": DAY + timedelta(hours=15)}, keys[15:20] + keys[35:]),
        ({"until": datetime(2026, 3, 1, 2)}, keys[:2] + keys[20:22]),
        ({"session": "one", "since": DAY + timedelta(hours=3), "until": DAY + timedelta(hours=5)}, keys[3:5]),
        ({"session": "three"}, []),
    ]
    for scope, expected in scopes:
        assert store.records.nearest("alice", "m", query, 50, **scope)[0] == exact(
            {key: vectors[key] for key in expected}, query, 50
        )
        assert sorted(key for key, _ in store.records.text_scores("alice", ["note"], 50, **scope)) == expected
        assert len(store.records.text_scores("alice", ["note"], 3, **scope)) == min(3, len(expected))


def test_sizes_and_samples(store: Store) -> None:
    store.append("alice", said(30), "s")
    store.append("bob", said(3), "s")
    assert (
        store.records.size("alice"),
        store.records.size("alice", 10),
        store.records.size("bob", 10),
        store.records.size("nobody"),
    ) == (30, 10, 3, 0)
    keys = [record.key for record in store.records.read("alice")]
    assert store.records.sample("alice", 99) == keys and store.records.sample("nobody", 9) == []
    few = store.records.sample("alice", 9)
    assert len(few) == 9 and set(few) < set(keys) and store.records.sample("alice", 9) == few


def test_neighbours_are_of_the_session_and_live(store: Store, say: Say) -> None:
    for number in range(8):
        store.append("alice", [say(f"odd {number}\nmore" if number == 3 else f"odd {number}")], "odd")
        store.append("alice", [say(f"even {number}", id=f"e{number}")], "even")
    store.append("alice", [say("even again", id="e2")], "even")
    by_text = {record.text: record.key for record in store.records.read("alice")}

    def texts(*found: str, reach: int) -> list[str]:
        return [record.text for record in store.records.around("alice", [by_text[each] for each in found], reach)]

    assert texts("odd 4", reach=1) == ["odd 3", "more", "odd 4", "odd 5"]
    assert texts("more", reach=1) == ["odd 2", "odd 3", "more", "odd 4"]
    # What has left the live journal is nobody's neighbour: even 2 stands at its end now.
    assert texts("even 3", reach=1) == ["even 1", "even 3", "even 4"]
    assert texts("odd 0", "even again", reach=2) == ["odd 0", "odd 1", "odd 2", "even 6", "even 7", "even again"]
    assert texts("odd 5", reach=0) == ["odd 5"]
    assert store.records.around("alice", [], 2) == store.records.around("bob", list(by_text.values()), 2) == []


def test_embeddings_by_key(store: Store) -> None:
    store.append("alice", said(5), "s")
    vectors = embed(store)
    keys = list(vectors)
    found, matrix = store.records.embeddings_of("alice", "m", [*keys[1:3], 999_999])
    assert sorted(found) == keys[1:3]
    assert all(np.array_equal(vectors[key], row) for key, row in zip(found, matrix, strict=True))
    assert (
        store.records.embeddings_of("bob", "m", keys)[0] == store.records.embeddings_of("alice", "other", keys)[0] == []
    )
    assert [key for key, _ in store.records.missing_embeddings("alice", "n", 9, after=3)] == keys[3:]


def test_where_there_is_no_index_that_is_said(store: Store) -> None:
    store.append("alice", said(3), "s")
    embed(store)
    assert store.records.index_vectors("alice", "m") is (engine_of(store).dialect.name == "postgresql")
    assert (
        store.records.index_vectors("alice", "other") is False and store.records.index_vectors("nobody", "m") is False
    )


# PostgreSQL with pgvector


@pytest.fixture
def indexed(postgresql_url: FreshUrl) -> Iterator[Store]:
    """A store in a schema of its own, with 300 records of alice, indexed."""
    with Store.open(postgresql_url(), schema="Memory") as store:
        for session in ("one", "two", "three"):
            store.append("alice", said(100), session)
        embed(store)
        assert store.records.index_vectors("alice", "m")
        yield store


def in_index(store: Store) -> int:
    return int(databases.query(store, 'SELECT count(*) FROM "Memory".deltamem_vectors')[0])


def indexes(store: Store) -> list[str]:
    return databases.query(store, "SELECT indexname FROM pg_indexes WHERE indexdef LIKE '%hnsw%'")


def test_the_index_finds_what_is_nearest(postgresql_url: FreshUrl) -> None:
    """Clustered, as texts are: around each of some hundred subjects."""
    source, dim, count = np.random.default_rng(5), 64, 3000
    subjects = source.standard_normal((200, dim), np.float32)
    with Store.open(postgresql_url()) as store:
        for agent in ("alice", "bob"):
            store.append(agent, said(count), "s")
            keys = [key for key, _ in store.records.missing_embeddings(agent, "m", count)]
            noise = source.standard_normal((count, dim), np.float32)
            store.records.put_embeddings(agent, "m", keys, subjects[source.integers(0, 200, count)] + 0.7 * noise)
            assert store.records.index_vectors(agent, "m")
        vectors = dict(zip(*store.records.embeddings("alice", "m"), strict=True))
        shared = []
        for subject in subjects[:20]:
            wanted = (subject + 0.5 * source.standard_normal(dim)).astype(np.float32)
            keys, cosines = store.records.nearest("alice", "m", wanted, 100)
            assert len(keys) == 100 and set(keys) <= set(vectors)
            shared.append(len(set(keys) & set(exact(vectors, wanted, 100))) / 100)
            best = vectors[keys[0]] @ wanted / np.linalg.norm(vectors[keys[0]]) / np.linalg.norm(wanted)
            assert abs(cosines[0] - best) < 2e-3
        assert np.mean(shared) >= 0.95


def test_the_index_is_used(indexed: Store, query: Floats) -> None:
    with statements(indexed) as sent:
        indexed.records.nearest("alice", "m", query, 5)
    (statement,) = [each for each, _ in sent if "<=>" in each]
    vector = f"[{','.join(map(str, query.tolist()))}]"
    with engine_of(indexed).connect() as connection:
        connection.exec_driver_sql("BEGIN")
        connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
        rows = connection.exec_driver_sql(f"EXPLAIN {statement}", {"vector": vector, "limit": 5})
        assert "Index Scan using deltamem_vectors_1" in "\n".join(row[0] for row in rows)


def test_a_filter_that_leaves_few_gets_all_there_are(indexed: Store, query: Floats) -> None:
    vectors = dict(zip(*indexed.records.embeddings("alice", "m"), strict=True))
    keys = list(vectors)
    found, _ = indexed.records.nearest("alice", "m", query, 50, session="two", since=DAY + timedelta(hours=90))
    assert found == exact({key: vectors[key] for key in keys[190:200]}, query, 50)
    found, _ = indexed.records.nearest("alice", "m", query, 20, session="two")
    assert set(found) <= set(keys[100:200]) and len(found) == 20


def test_the_index_follows_every_change(indexed: Store, query: Floats) -> None:
    assert in_index(indexed) == 300
    indexed.append("alice", [*said(5, "more"), {"role": "user", "content": "old", "id": "x"}], "four")
    embed(indexed, seed=4)
    assert in_index(indexed) == 306
    newest = indexed.records.embeddings("alice", "m")
    assert indexed.records.nearest("alice", "m", newest[1][-1], 1)[0] == [newest[0][-1]]

    indexed.append("alice", [{"role": "user", "content": "new", "id": "x"}], "four")  # supersedes
    assert (
        in_index(indexed) == 305 and newest[0][-1] not in indexed.records.nearest("alice", "m", newest[1][-1], 400)[0]
    )
    indexed.rollback("alice", 100)
    assert in_index(indexed) == 100
    embed(indexed)
    indexed.erase("alice", Selection(ids=[entry.id for entry in indexed.live("alice")[:10]]))
    assert in_index(indexed) == 90 and len(indexed.records.nearest("alice", "m", query, 400)[0]) == 90
    assert indexed.purge() is None

    indexed.fork("alice", "twin")
    assert in_index(indexed) == 90 and len(indexed.records.nearest("twin", "m", query, 400)[0]) == 90
    assert indexed.records.index_vectors("twin", "m") and in_index(indexed) == 180 and len(indexes(indexed)) == 2
    assert set(indexed.records.nearest("twin", "m", query, 400)[0]) == {
        record.key for record in indexed.records.read("twin")
    }
    indexed.erase("alice", Selection(whole=True))
    assert in_index(indexed) == 90
    assert problems(indexed, "Memory") == []


def test_dropped_embeddings_leave_no_index(indexed: Store, query: Floats) -> None:
    embed(indexed, model="n", dim=4)
    assert indexed.records.index_vectors("alice", "n") and in_index(indexed) == 600 and len(indexes(indexed)) == 2
    assert indexed.records.drop_embeddings("alice", keep="n") == 300
    assert in_index(indexed) == 300 and len(indexes(indexed)) == 1
    embed(indexed, dim=8)  # the same name again, of another dimension
    assert indexed.records.index_vectors("alice", "m") and in_index(indexed) == 600
    assert len(indexed.records.nearest("alice", "m", query[:8], 400)[0]) == 300


def test_what_is_embedded_while_the_index_is_made_is_in_it(
    indexed: Store, query: Floats, monkeypatch: pytest.MonkeyPatch
) -> None:
    indexed.append("bob", said(30), "s")
    embed(indexed, "bob")
    add = pgvector.Pgvector.add
    once: list[int] = []

    def late(*given: Any) -> None:
        add(*given)
        if not once:
            once.append(1)
            indexed.append("bob", said(3), "t")
            embed(indexed, "bob", seed=9)
            raise KeyboardInterrupt

    monkeypatch.setattr(pgvector.Pgvector, "add", late)
    with pytest.raises(KeyboardInterrupt):
        indexed.records.index_vectors("bob", "m")
    assert (
        in_index(indexed) == 303 and len(indexed.records.nearest("bob", "m", query, 99)[0]) == 33
    )  # not yet by the index
    assert indexed.records.index_vectors("bob", "m") and in_index(indexed) == 333
    assert len(indexed.records.nearest("bob", "m", query, 99)[0]) == 33


def test_odd_vectors(indexed: Store, query: Floats) -> None:
    indexed.append("alice", said(3), "odd")
    keys = [key for key, _ in indexed.records.missing_embeddings("alice", "m", 9)]
    odd = np.stack([np.zeros(16), np.full(16, 1e30), np.full(16, 1e-30)]).astype(np.float32)
    assert indexed.records.put_embeddings("alice", "m", keys, odd) == 3
    assert set(indexed.records.nearest("alice", "m", np.ones(16, np.float32), 2)[0]) == set(keys[1:])


def test_without_pgvector_the_search_is_exact_and_says_so_once(
    postgresql_url: FreshUrl, query: Floats, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pgvector, "OLDEST", (99, 0))
    with Store.open(postgresql_url()) as store, caplog.at_level(logging.WARNING):
        store.append("alice", said(20), "s")
        vectors = embed(store)
        assert not store.records.index_vectors("alice", "m") and not store.records.index_vectors("alice", "m")
        assert store.records.nearest("alice", "m", query, 5)[0] == exact(vectors, query, 5)
    assert caplog.text.count("pgvector is not used") == 1


def test_more_dimensions_than_an_index_takes(
    postgresql_url: FreshUrl, query: Floats, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Store.open(postgresql_url()) as store, caplog.at_level(logging.WARNING):
        store.append("alice", said(3), "s")
        vectors = embed(store, dim=4_001)
        assert not store.records.index_vectors("alice", "m")
        wanted = np.ones(4_001, np.float32)
        assert store.records.nearest("alice", "m", wanted, 5)[0] == exact(vectors, wanted, 5)
    assert "4000 dimensions" in caplog.text
