"""What any store of LangGraph has to do, held against LangGraph's own and against ours."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from langgraph.store.base import (
    BaseStore,
    GetOp,
    InvalidNamespaceError,
    ListNamespacesOp,
    MatchCondition,
    PutOp,
    SearchOp,
)

NS = ("users", "alice")


def keys(found: Any) -> list[str]:
    return [item.key for item in found]


# get, put, delete


def test_what_was_put_is_got(store: BaseStore) -> None:
    value = {"text": "I like tea.", "n": 1, "deep": {"list": [1, 2.5, None, True], "ünï": "✓"}, "empty": {}}
    before = datetime.now(UTC) - timedelta(seconds=1)
    store.put(NS, "k", value)
    item = store.get(NS, "k")
    assert item is not None
    assert (item.namespace, item.key, item.value) == (NS, "k", value)
    assert before < item.created_at <= item.updated_at < datetime.now(UTC) + timedelta(seconds=1)


def test_what_was_never_put_is_none(store: BaseStore) -> None:
    assert store.get(NS, "k") is None
    store.put(NS, "k", {"a": 1})
    assert store.get(NS, "other") is None
    assert store.get(("users",), "k") is None
    assert store.get((*NS, "deeper"), "k") is None


def test_putting_replaces(store: BaseStore) -> None:
    for value in ({"text": "tea", "n": 1}, {"text": "tea", "n": 2}, {"text": "coffee"}, {"text": "tea", "n": 1}):
        store.put(NS, "k", value)
        item = store.get(NS, "k")
        assert item is not None and item.value == value
        assert keys(store.search(NS)) == ["k"]


def test_putting_again_is_seen_in_the_time(store: BaseStore) -> None:
    times = []
    for text in ("tea", "tea", "coffee"):
        store.put(NS, "k", {"text": text})
        item = store.get(NS, "k")
        assert item is not None
        times.append(item.updated_at)
    assert times[0] < times[1] < times[2]


def test_values_that_only_a_type_tells_apart(store: BaseStore) -> None:
    for value in ({"a": 1}, {"a": "1"}, {"a": True}, {"a": None}, {}):
        store.put(NS, "k", value)
        item = store.get(NS, "k")
        assert item is not None and item.value == value
        assert [type(each) for each in item.value.values()] == [type(each) for each in value.values()]


def test_deleting(store: BaseStore) -> None:
    store.put(NS, "k", {"text": "tea"})
    store.put(NS, "other", {"text": "tea"})
    store.delete(NS, "k")
    store.delete(NS, "never there")
    assert store.get(NS, "k") is None
    assert keys(store.search(NS, query="tea")) == ["other"]
    store.put(NS, "k", {"text": "new"})
    item = store.get(NS, "k")
    assert item is not None and item.value == {"text": "new"}


def test_deleting_what_was_replaced_leaves_nothing(store: BaseStore) -> None:
    for text in ("one", "two", "three"):
        store.put(NS, "k", {"text": text})
    store.delete(NS, "k")
    assert store.get(NS, "k") is None
    assert store.search(()) == []


def test_keys_are_any_text(store: BaseStore) -> None:
    names = ["a.b", "a/b", " ", "ünï", "x" * 1000, "a\nb"]
    for name in names:
        store.put(NS, name, {"name": name})
    for name in names:
        item = store.get(NS, name)
        assert item is not None and (item.key, item.value) == (name, {"name": name})


@pytest.mark.parametrize("namespace", [(), ("",), ("a.b",), ("a", ""), ("langgraph", "x"), ("a", 1), ("a\0b",)])
def test_namespaces_that_are_none(store: BaseStore, namespace: Any) -> None:
    with pytest.raises(InvalidNamespaceError):
        store.put(namespace, "k", {"a": 1})


# search


@pytest.fixture
def filled(store: BaseStore) -> BaseStore:
    store.put(("users", "alice"), "tea", {"text": "Alice drinks green tea.", "n": 1, "kind": "drink"})
    store.put(("users", "alice"), "dog", {"text": "The dog of Alice is called Rex.", "n": 2, "kind": "pet"})
    store.put(("users", "bob"), "tea", {"text": "Bob drinks black tea.", "n": 3, "kind": "drink"})
    store.put(("users2",), "far", {"text": "Nobody drinks tea.", "n": 4, "kind": "drink"})
    return store


def test_search_stays_below_its_prefix(filled: BaseStore) -> None:
    assert sorted(keys(filled.search(("users",)))) == ["dog", "tea", "tea"]
    assert sorted(keys(filled.search(("users", "alice")))) == ["dog", "tea"]
    assert keys(filled.search(("user",))) == []
    assert sorted(keys(filled.search(()))) == ["dog", "far", "tea", "tea"]
    found = filled.search(("users",), query="who drinks tea", limit=10)
    assert {item.namespace for item in found} == {("users", "alice"), ("users", "bob")}


def test_the_best_comes_first(filled: BaseStore) -> None:
    found = filled.search(("users", "alice"), query="What is the name of the dog?")
    assert found[0].key == "dog"
    assert found[0].score is not None
    assert keys(found) == ["dog", "tea"]
    scores = [item.score for item in found if item.score is not None]
    assert scores == sorted(scores, reverse=True)
    assert filled.search(("users",))[0].score is None


def test_a_replaced_text_is_found_no_more(filled: BaseStore) -> None:
    filled.put(("users", "alice"), "dog", {"text": "A cat sits on the mat."})
    found = filled.search(("users",), query="green tea black tea dog called Rex", limit=2)
    assert "dog" not in keys(found)
    assert filled.search(("users",), query="cat mat")[0].key == "dog"


@pytest.mark.parametrize(
    ("wanted", "numbers"),
    [
        ({"kind": "drink"}, [1, 3]),
        ({"kind": "drink", "n": 3}, [3]),
        ({"kind": {"$eq": "pet"}}, [2]),
        ({"kind": {"$ne": "pet"}}, [1, 3]),
        ({"n": {"$gt": 1}}, [2, 3]),
        ({"n": {"$gte": 2}}, [2, 3]),
        ({"n": {"$lt": 3}}, [1, 2]),
        ({"n": {"$lte": 1}}, [1]),
        ({"n": {"$gt": 1, "$lt": 3}}, [2]),
        ({"kind": "nothing"}, []),
        ({"missing": None}, [1, 2, 3]),
    ],
)
def test_filters(filled: BaseStore, wanted: dict[str, Any], numbers: list[int]) -> None:
    assert sorted(item.value["n"] for item in filled.search(("users",), filter=wanted)) == numbers
    found = filled.search(("users",), query="Who drinks tea?", filter=wanted)
    assert sorted(item.value["n"] for item in found) == numbers


def test_filters_on_what_is_within(store: BaseStore) -> None:
    store.put(NS, "a", {"meta": {"tags": ["x", "y"], "n": 1}})
    store.put(NS, "b", {"meta": {"tags": ["x"], "n": 2}})
    assert keys(store.search(NS, filter={"meta": {"n": 2}})) == ["b"]
    assert keys(store.search(NS, filter={"meta": {"n": {"$lt": 2}}})) == ["a"]
    assert keys(store.search(NS, filter={"meta": {"tags": ["x", "y"]}})) == ["a"]
    with pytest.raises(ValueError, match="operator"):
        store.search(NS, filter={"meta": {"$like": 1}})


def test_what_is_indexed(store: BaseStore) -> None:
    store.put(NS, "title", {"title": "penguins", "body": "walruses"}, index=["title"])
    store.put(NS, "list", {"parts": [{"text": "seals"}, {"text": "otters"}], "body": "x"}, index=["parts[*].text"])
    store.put(NS, "none", {"title": "hidden penguins"}, index=False)
    assert store.search(NS, query="penguins")[0].key == "title"
    assert store.search(NS, query="otters")[0].key == "list"
    by_key = {item.key: item for item in store.search(NS, query="penguins")}
    assert not by_key["none"].score
    item = store.get(NS, "none")
    assert item is not None and item.value == {"title": "hidden penguins"}


# order and paging


def test_pages_of_a_query_are_its_order_in_pieces(store: BaseStore) -> None:
    for number in range(9):
        store.put(NS, f"k{number}", {"text": "tea " * (number + 1) + f"x{number} " * 5})
    whole = keys(store.search(NS, query="tea", limit=9))
    pieces = [key for start in (0, 4, 8) for key in keys(store.search(NS, query="tea", limit=4, offset=start))]
    assert sorted(whole) == [f"k{number}" for number in range(9)]
    assert pieces == whole


# namespaces


def test_namespaces_are_listed(store: BaseStore) -> None:
    for namespace in [("a", "b", "c"), ("a", "b", "d"), ("a", "x"), ("z",), ("y", "b", "c")]:
        store.put(namespace, "k", {"n": 1})
        store.put(namespace, "k2", {"n": 1})
    everything = [("a", "b", "c"), ("a", "b", "d"), ("a", "x"), ("y", "b", "c"), ("z",)]
    assert store.list_namespaces() == everything
    assert store.list_namespaces(prefix=("a",)) == everything[:3]
    assert store.list_namespaces(prefix=("a", "*", "c")) == [("a", "b", "c")]
    assert store.list_namespaces(suffix=("c",)) == [("a", "b", "c"), ("y", "b", "c")]
    assert store.list_namespaces(suffix=("b", "*")) == [everything[0], everything[1], everything[3]]
    assert store.list_namespaces(prefix=("a",), suffix=("d",)) == [("a", "b", "d")]
    assert store.list_namespaces(max_depth=2) == [("a", "b"), ("a", "x"), ("y", "b"), ("z",)]
    assert store.list_namespaces(max_depth=1) == [("a",), ("y",), ("z",)]
    assert store.list_namespaces(limit=2, offset=1) == everything[1:3]
    assert store.list_namespaces(prefix=("nobody",)) == []


# batches


def test_a_batch_answers_in_its_order(store: BaseStore) -> None:
    store.put(NS, "old", {"text": "tea"})
    results = store.batch(
        [
            PutOp(NS, "new", {"text": "coffee"}),
            GetOp(NS, "new"),
            GetOp(NS, "old"),
            SearchOp(NS),
            PutOp(NS, "old", None),
            ListNamespacesOp((MatchCondition("prefix", ("users",)),)),
        ]
    )
    assert results[0] is results[4] is None
    assert results[1] is None  # reads see what was there before
    assert results[2].key == "old"  # type: ignore[union-attr]
    assert keys(results[3]) == ["old"]
    assert results[5] == [NS]
    assert keys(store.search(NS)) == ["new"]


def test_the_last_put_of_a_batch_counts(store: BaseStore) -> None:
    store.batch([PutOp(NS, "a", {"n": 1}), PutOp(NS, "b", {"n": 1}), PutOp(NS, "a", {"n": 2}), PutOp(NS, "b", None)])
    assert [(item.key, item.value) for item in store.search(NS)] == [("a", {"n": 2})]
    store.batch([PutOp(NS, "a", None), PutOp(NS, "a", {"n": 3})])
    assert [(item.key, item.value) for item in store.search(NS)] == [("a", {"n": 3})]
    assert store.batch([]) == []


def test_from_several_threads_at_once(store: BaseStore) -> None:
    def work(number: int) -> list[str]:
        namespace = ("threads", str(number % 4))
        store.put(namespace, f"k{number}", {"text": f"thread {number}"})
        item = store.get(namespace, f"k{number}")
        assert item is not None and item.value == {"text": f"thread {number}"}
        return keys(store.search(namespace, query=f"thread {number}", limit=50))

    with ThreadPoolExecutor(8) as pool:
        for number, found in enumerate(pool.map(work, range(24))):
            assert f"k{number}" in found
    assert len(store.search(("threads",), limit=100)) == 24


async def test_async_is_the_same(store: BaseStore) -> None:
    await asyncio.gather(*(store.aput(NS, f"k{number}", {"text": f"tea {number}", "n": number}) for number in range(6)))
    item = await store.aget(NS, "k3")
    assert item is not None and item.value["n"] == 3
    assert sorted(keys(await store.asearch(NS))) == [f"k{number}" for number in range(6)]
    assert keys(await store.asearch(NS, query="tea 5", limit=1)) == ["k5"]
    assert keys(await store.asearch(NS, filter={"n": {"$gt": 4}})) == ["k5"]
    await store.adelete(NS, "k3")
    assert await store.aget(NS, "k3") is None
    assert await store.alist_namespaces(prefix=("users",)) == [NS]
    assert (await store.abatch([GetOp(NS, "k3"), GetOp(NS, "k4")]))[0] is None
    with pytest.raises(InvalidNamespaceError):
        await store.aput((), "k", {"a": 1})
