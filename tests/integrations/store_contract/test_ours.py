"""What only our store has to do: expiry, durability, erasure, one journal with the rest, langmem's tools, agents."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.tools import ToolRuntime
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.tools import tool
from langgraph.store.base import InvalidNamespaceError, PutOp, TTLConfig
from langmem import create_manage_memory_tool, create_search_memory_tool

from deltamem_agents import DeltaMem
from deltamem_agents.errors import ClosedError, ConfigError, InvalidAgentError, InvalidMessageError
from langchain_deltamem import DeltaMemStore

NS = ("users", "alice")
SHORT = 1.5 / 60  # minutes; a busy machine may take a while from put to get
EXPIRED = 1.6  # seconds


def keys(found: Any) -> list[str]:
    return [item.key for item in found]


# order and likeness


def test_the_item_that_changed_last_comes_first(ours: DeltaMemStore) -> None:
    for number in range(12):
        ours.put(("pages", str(number % 2)), f"k{number:02}", {"n": number})
    ours.put(("pages", "0"), "k00", {"n": "replaced"})
    everything = keys(ours.search(("pages",), limit=100))
    assert everything == ["k00", *(f"k{number:02}" for number in range(11, 0, -1))]
    assert keys(ours.search(("pages",))) == everything[:10]  # ten is what there is by default
    assert keys(ours.search(("pages",), limit=5, offset=3)) == everything[3:8]
    assert keys(ours.search(("pages",), limit=5, offset=10)) == everything[10:]
    assert keys(ours.search(("pages",), limit=5, offset=50)) == []
    assert keys(ours.search(("pages",), limit=0)) == []
    assert keys(ours.search(("pages", "1"), filter={"n": {"$lt": 6}})) == ["k05", "k03", "k01"]


def test_a_prefix_may_be_a_list(ours: DeltaMemStore) -> None:
    ours.put(NS, "k", {"text": "tea"})
    assert keys(ours.search(["users"])) == ["k"]  # type: ignore[arg-type]
    assert keys(ours.search(["users", "alice"], query="tea")) == ["k"]  # type: ignore[arg-type]


def test_a_prefix_is_whole_labels_and_no_pattern(ours: DeltaMemStore) -> None:
    for label in ("u", "u1", "u%", "u_", "U", "u-1", "u/1", "u\n", "ü", "*"):
        for namespace in ((label,), (label, "inner"), (label, "inner", "deep"), ("outer", label)):
            ours.put(namespace, "k", {"text": label})
    for label in ("u", "u1", "u%", "u_", "U", "u-1", "u/1", "u\n", "ü", "*"):
        below = {(label,), (label, "inner"), (label, "inner", "deep")}
        for query in (None, label):
            assert {item.namespace for item in ours.search((label,), query=query, limit=100)} == below, (label, query)
        if label != "*":
            assert set(ours.list_namespaces(prefix=(label,), limit=100)) == below
            assert set(ours.list_namespaces(prefix=("outer", label))) == {("outer", label)}


def test_the_score_is_the_cosine_of_the_best_of_the_texts(
    semantic_mem: DeltaMem, cosine: Callable[[str, str], float]
) -> None:
    store = DeltaMemStore(semantic_mem, fields=["title", "body"])
    store.put(NS, "both", {"title": "green tea", "body": "black coffee", "rest": "red wine"})
    store.put(NS, "body", {"body": "black coffee"})
    store.put(("other",), "far", {"body": "black coffee"})
    store.put(NS, "none", {"title": "black coffee"}, index=False)
    for query in ("black coffee", "green tea", "coffee", "red wine", "something else"):
        found = {item.key: item.score for item in store.search(NS, query=query)}
        for key, texts in (("both", ["green tea", "black coffee"]), ("body", ["black coffee"])):
            assert found[key] == pytest.approx(max(cosine(query, text) for text in texts), abs=1e-3), (query, key)
        assert found["none"] == 0.0
        assert list(found.values()) == sorted(found.values(), key=lambda score: -(score or 0))


def test_without_an_embedder_the_score_is_the_share_of_words(url: str) -> None:
    with DeltaMem.open("tiny", url=url, embedder=False) as mem:
        store = DeltaMemStore(mem)
        for key, text in (("both", "the cello teacher"), ("one", "a cello"), ("same", "a cello"), ("none", "a violin")):
            store.put(NS, key, {"text": text})
        found = {item.key: item.score for item in store.search(NS, query="Who is the cello teacher?")}
    assert list(found) == ["both", "same", "one", "none"]
    assert found["both"] == 1.0 and found["one"] == found["same"] and found["none"] == 0.0


@pytest.mark.parametrize("kept", [None, 7, [], {}, {"key": "k"}, {"key": 1, "value": {}}, {"key": "k", "value": "x"}])
def test_what_is_no_item_breaks_no_search(ours: DeltaMemStore, semantic_mem: DeltaMem, kept: Any) -> None:
    ours.put(NS, "k", {"text": "green tea"})
    odd = {"role": "user", "content": "green tea", "id": "item:odd", "metadata": {"langgraph_item": kept}}
    semantic_mem.agent("store").write([odd], "users.alice")
    assert keys(ours.search(NS, query="green tea")) == keys(ours.search(NS)) == ["k"]
    assert ours.get(NS, "odd") is None
    assert ours.sweep_ttl() == 0


def test_filters_name_fields_or_paths_to_them(ours: DeltaMemStore) -> None:
    ours.put(NS, "deep", {"user": {"access-level": "high", "1st": 1}})
    ours.put(NS, "flat", {"user.access-level": "high", "access level": "low"})
    assert sorted(keys(ours.search(NS, filter={"user.access-level": "high"}))) == ["deep", "flat"]
    assert keys(ours.search(NS, filter={"user.1st": {"$lt": 2}})) == ["deep"]
    assert keys(ours.search(NS, filter={"access level": "low"})) == ["flat"]
    for name in ("a') OR 1=1 --", "$.a", "a[0]", "", 7):
        with pytest.raises(ConfigError, match="Invalid filter key"):
            ours.search(NS, filter={name: 1})


# in an event loop


async def test_a_sync_call_in_a_running_loop_is_refused(ours: DeltaMemStore) -> None:
    for call in (
        lambda: ours.put(NS, "k", {"a": 1}),
        lambda: ours.get(NS, "k"),
        lambda: ours.delete(NS, "k"),
        lambda: ours.search(NS),
        lambda: ours.list_namespaces(),
        lambda: ours.batch([PutOp(NS, "k", {"a": 1})]),
    ):
        with pytest.raises(asyncio.InvalidStateError, match="await"):
            call()
    assert await ours.asearch(NS) == []
    await asyncio.to_thread(ours.put, NS, "k", {"a": 1})
    assert await ours.aget(NS, "k") is not None


async def test_a_database_in_memory_may_be_used_either_way() -> None:
    with DeltaMem.open("tiny", url="sqlite://", embedder=False) as mem:
        store = DeltaMemStore(mem)
        store.put(NS, "k", {"a": 1})
        assert await store.aget(NS, "k") == store.get(NS, "k")


# time to live


def test_what_has_expired_is_shown_nowhere(ours: DeltaMemStore) -> None:
    ours.put(NS, "short", {"text": "green tea"}, ttl=SHORT)
    ours.put(("other",), "short", {"text": "green tea"}, ttl=SHORT)
    ours.put(NS, "long", {"text": "black tea"}, ttl=10)
    ours.put(NS, "ever", {"text": "red tea"})
    assert ours.get(NS, "short", refresh_ttl=False) is not None
    time.sleep(EXPIRED)
    assert ours.get(NS, "short") is None
    assert keys(ours.search(NS)) == ["ever", "long"]
    assert "short" not in keys(ours.search(NS, query="green tea"))
    assert ours.list_namespaces() == [NS]
    assert ours.sweep_ttl() == 2
    assert ours.sweep_ttl() == 0


def test_what_has_expired_takes_no_place_on_a_page(ours: DeltaMemStore) -> None:
    for key in ("c", "b", "expired", "a"):
        ours.put(NS, key, {"n": 1}, ttl=1e-6 if key == "expired" else None)
    assert [keys(ours.search(NS, limit=2, offset=first)) for first in (0, 2)] == [["a", "b"], ["c"]]
    assert [keys(ours.search(NS, query="n", limit=2, offset=first)) for first in (0, 2)] == [["a", "b"], ["c"]]


def test_reading_renews_unless_told_not_to(ours: DeltaMemStore) -> None:
    for key in ("got", "found", "left"):
        ours.put(NS, key, {"text": key}, ttl=2 / 60)
    for _ in range(4):
        time.sleep(0.7)
        assert ours.get(NS, "got") is not None
        assert keys(ours.search(NS, query="found", filter={"text": "found"})) == ["found"]
        ours.get(NS, "left", refresh_ttl=False)
        ours.search(NS, refresh_ttl=False)
    assert keys(ours.search(NS)) == ["found", "got"]


def test_a_put_begins_the_time_anew(ours: DeltaMemStore) -> None:
    ours.put(NS, "k", {"text": "tea"}, ttl=SHORT)
    ours.put(NS, "k", {"text": "tea"})
    time.sleep(EXPIRED)
    assert ours.get(NS, "k") is not None


def test_the_defaults_of_a_store(semantic_mem: DeltaMem) -> None:
    store = DeltaMemStore(semantic_mem, ttl=TTLConfig(default_ttl=SHORT, refresh_on_read=False))
    store.put(NS, "default", {"text": "tea"})
    store.put(NS, "ever", {"text": "tea"}, ttl=None)
    store.get(NS, "default")
    time.sleep(EXPIRED)
    assert keys(store.search(NS)) == ["ever"]


def test_what_has_expired_is_shown_where_that_is_asked_for(semantic_mem: DeltaMem) -> None:
    store = DeltaMemStore(semantic_mem, ttl=TTLConfig(omit_expired=False))
    store.put(NS, "k", {"text": "tea"}, ttl=0)
    assert store.get(NS, "k", refresh_ttl=False) is not None
    assert keys(store.search(NS, query="tea", refresh_ttl=False)) == ["k"]
    assert store.list_namespaces() == [NS]
    assert store.sweep_ttl() == 1 and store.get(NS, "k") is None


def test_an_item_may_begin_and_cease_to_expire(ours: DeltaMemStore) -> None:
    for ttl in (None, 10, None, 10):
        ours.put(NS, "k", {"text": "tea"}, ttl=ttl)
        item = ours.get(NS, "k")
        assert item is not None and keys(ours.search(NS)) == keys(ours.search(NS, query="tea")) == ["k"]
        assert ours.list_namespaces() == [NS]
    ours.delete(NS, "k")
    assert ours.get(NS, "k") is None and ours.search(()) == [] and ours.list_namespaces() == []


def test_a_thread_sweeps(semantic_mem: DeltaMem) -> None:
    store = DeltaMemStore(semantic_mem, ttl=TTLConfig(omit_expired=False))
    store.put(NS, "short", {"text": "tea"}, ttl=0)
    store.put(NS, "ever", {"text": "tea"})
    ended = store.start_ttl_sweeper(0.05 / 60)
    assert store.start_ttl_sweeper() is ended  # one is enough
    deadline = time.monotonic() + 20
    while store.get(NS, "short", refresh_ttl=False) is not None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert keys(store.search(NS)) == ["ever"]
    assert store.stop_ttl_sweeper(20) and ended.done()
    again = store.start_ttl_sweeper(0.05 / 60)
    semantic_mem.close()
    again.result(20)  # ends with its memory


async def test_sweeping_async(ours: DeltaMemStore) -> None:
    await ours.aput(NS, "k", {"text": "tea"}, ttl=0)
    assert await ours.asweep_ttl() == 1


# a journal below it


def test_another_process_would_find_it(url: str) -> None:
    with DeltaMem.open("tiny", url=url, embedder=False) as mem:
        DeltaMemStore(mem).put(NS, "k", {"text": "The locker code is 4417."})
    with DeltaMem.open("tiny", url=url, embedder=False) as mem:
        found = DeltaMemStore(mem).search(("users",), query="locker code")
    assert [(item.namespace, item.key, item.value) for item in found] == [
        (NS, "k", {"text": "The locker code is 4417."})
    ]


def test_items_are_recalled_and_folded_as_any_message(ours: DeltaMemStore, semantic_mem: DeltaMem) -> None:
    ours.put(NS, "k", {"text": "The locker code is 4417.", "tags": ["gym", 3], "nothing": None})
    agent = semantic_mem.agent("store")
    assert [entry.text for entry in agent.log("users.alice")] == ["The locker code is 4417.\ntags: gym\ntags: 3"]
    assert "4417" in agent.recall("Which locker code?", generate=False).text
    assert any(float(tensor.norm()) > 0 for tensor in agent.state().values())


def test_deleting_erases_for_good(ours: DeltaMemStore, semantic_mem: DeltaMem) -> None:
    ours.put(NS, "k", {"text": "The locker code is 4417."})
    ours.put(NS, "k", {"text": "The locker code is 9023."})
    ours.delete(NS, "k")
    agent = semantic_mem.agent("store")
    assert agent.log() == []
    assert all(float(tensor.norm()) == 0 for tensor in agent.state().values())
    assert agent.recall("locker code", generate=False).records == []


def test_stores_and_messages_of_one_memory_stay_apart(semantic_mem: DeltaMem) -> None:
    one, two = DeltaMemStore(semantic_mem, "one"), DeltaMemStore(semantic_mem, "two")
    one.put(NS, "k", {"text": "tea"})
    semantic_mem.agent("one").write([{"role": "user", "content": "I drink tea."}], "users.alice")
    assert keys(one.search((), query="tea")) == ["k"]
    assert two.get(NS, "k") is None
    assert two.search((), query="tea") == []
    two.delete(NS, "k")
    assert one.get(NS, "k") is not None


def test_long_texts_are_found_once(ours: DeltaMemStore) -> None:
    long = "The cellar of the old house is full of wine. " * 200
    for number in range(3):
        ours.put(NS, f"long{number}", {"text": long + f"Number {number}."})
    ours.put(NS, "short", {"text": "A cellar."})
    found = keys(ours.search(NS, query="wine cellar", limit=4))
    assert sorted(found) == ["long0", "long1", "long2", "short"]


def test_fields_of_the_store(semantic_mem: DeltaMem) -> None:
    store = DeltaMemStore(semantic_mem, fields=["title"])
    store.put(NS, "k", {"title": "penguins", "body": "walruses"})
    store.put(NS, "own", {"title": "penguins", "body": "walruses"}, index=["body"])
    assert [entry.text for entry in semantic_mem.agent("store").log()] == ["penguins", "walruses"]


async def test_no_call_blocks_the_loop(
    semantic_mem: DeltaMem, ours: DeltaMemStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(semantic_mem.store.messages, "find", lambda *_: time.sleep(0.3) or [])
    late, done = [0.0], asyncio.Event()

    async def tick() -> None:
        last = time.perf_counter()
        while not done.is_set():
            await asyncio.sleep(0.005)
            late.append(time.perf_counter() - last - 0.005)
            last = time.perf_counter()

    ticking = asyncio.create_task(tick())
    await asyncio.gather(ours.aget(NS, "k"), ours.aget(NS, "k2"))
    done.set()
    await ticking
    assert max(late) < 0.05


def test_bad_input(ours: DeltaMemStore, semantic_mem: DeltaMem) -> None:
    with pytest.raises(InvalidAgentError, match="is an int"):
        DeltaMemStore(semantic_mem, 7)  # type: ignore[arg-type]
    with pytest.raises(InvalidMessageError, match="JSON"):
        ours.put(NS, "k", {"when": object()})
    with pytest.raises(InvalidNamespaceError, match="300 characters"):
        ours.put(("n" * 300,), "k", {"a": 1})
    with pytest.raises(InvalidNamespaceError):
        ours.batch([PutOp(("a.b",), "k", {"a": 1})])
    with pytest.raises(ConfigError, match="negative"):
        ours.search(NS, limit=-1)
    with pytest.raises(ConfigError, match="str is not an operation"):
        ours.batch(["get"])  # type: ignore[list-item]
    with pytest.raises(ConfigError, match="not a number"):
        ours.put(NS, "k", {"a": 1})
        ours.search(NS, filter={"a": {"$gt": "many"}})
    with pytest.raises(InvalidMessageError, match=r"surrogate|JSON"):
        ours.put(NS, "odd", {"text": "\ud800"})
    ours.put(NS, "odd", {"text": "a\0b"})
    semantic_mem.close()
    with pytest.raises(ClosedError):
        ours.get(NS, "k")


# who uses stores


@pytest.fixture(params=[False, True], ids=["sync", "async"])
def call(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Runs a tool either way."""

    def run(used: Any, given: dict[str, Any], config: Any = None) -> Any:
        return asyncio.run(used.ainvoke(given, config)) if request.param else used.invoke(given, config)

    return run


def test_langmems_tools_unmodified(ours: DeltaMemStore, call: Callable[..., Any]) -> None:
    namespace = ("memories", "{user}")
    manage = create_manage_memory_tool(namespace, store=ours)
    search = create_search_memory_tool(namespace, store=ours)
    alice, bob = ({"configurable": {"user": name}} for name in ("alice", "bob"))
    said = str(call(manage, {"content": "Alice drinks green tea.", "action": "create"}, alice))
    memory = said.rpartition(" ")[2]
    call(manage, {"content": "Alice has a dog called Rex.", "action": "create"}, alice)
    call(manage, {"content": "Bob has a cat.", "action": "create"}, bob)
    found = str(call(search, {"query": "What does Alice drink?", "limit": 1}, alice))
    assert "green tea" in found and "Rex" not in found
    assert "cat" not in str(call(search, {"query": "cat"}, alice))
    call(manage, {"content": "Alice drinks coffee.", "action": "update", "id": memory}, alice)
    found = str(call(search, {"query": "What does Alice drink?"}, alice))
    assert "coffee" in found and "green tea" not in found
    call(manage, {"action": "delete", "id": memory}, alice)
    assert "coffee" not in str(call(search, {"query": "What does Alice drink?"}, alice))
    assert ours.list_namespaces() == [("memories", "alice"), ("memories", "bob")]


@pytest.mark.parametrize("asynchronous", [False, True])
def test_as_the_store_of_an_agent(ours: DeltaMemStore, asynchronous: bool) -> None:
    @tool
    def save(text: str, runtime: ToolRuntime) -> str:
        """Save a text."""
        assert runtime.store is not None
        runtime.store.put(("notes",), text, {"text": text})
        return "saved"

    class Calling(GenericFakeChatModel):
        def bind_tools(self, *args: Any, **kwargs: Any) -> Any:
            return self

    calls = [{"name": "save", "args": {"text": f"note {n}"}, "id": f"c{n}"} for n in range(4)]  # at once, in threads
    model = Calling(messages=iter([AIMessage("", tool_calls=calls), AIMessage("Done.")]))
    agent = create_agent(model, [save], store=ours)
    given: Any = {"messages": [HumanMessage("Save four notes.")]}
    asyncio.run(agent.ainvoke(given)) if asynchronous else agent.invoke(given)
    assert sorted(keys(ours.search(("notes",)))) == [f"note {n}" for n in range(4)]
