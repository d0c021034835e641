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


# time to live


def test_what_has_expired_is_shown_nowhere(ours: DeltaMemStore) -> None:
    ours.put(NS, "short", {"text": "green tea"}, ttl=SHORT)
    ours.put(("other",), "short", {"text": "green tea"}, ttl=SHORT)
    ours.put(NS, "long", {"text": "black tea"}, ttl=10)
    ours.put(NS, "ever", {"text": "red tea"})
    assert ours.get(NS, "short", refresh_ttl=False) is not None
    time.sleep(EXPIRED)
    assert ours.get(NS, "short") is None
    assert keys(ours.search(NS)) == ["long", "ever"]
    assert "short" not in keys(ours.search(NS, query="green tea"))
    assert ours.list_namespaces() == [NS]
    assert ours.sweep_ttl() == 2
    assert ours.sweep_ttl() == 0


def test_reading_renews_unless_told_not_to(ours: DeltaMemStore) -> None:
    for key in ("got", "found", "left"):
        ours.put(NS, key, {"text": key}, ttl=2 / 60)
    for _ in range(4):
        time.sleep(0.7)
        assert ours.get(NS, "got") is not None
        assert keys(ours.search(NS, query="found", filter={"text": "found"})) == ["found"]
        ours.get(NS, "left", refresh_ttl=False)
        ours.search(NS, refresh_ttl=False)
    assert keys(ours.search(NS)) == ["got", "found"]


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


async def test_no_call_blocks_the_loop(ours: DeltaMemStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ours._mem.store, "find", lambda *_: time.sleep(0.3) or [])
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
    with pytest.raises(InvalidAgentError, match="is a int"):
        DeltaMemStore(semantic_mem, 7)  # type: ignore[arg-type]
    with pytest.raises(InvalidMessageError, match="JSON"):
        ours.put(NS, "k", {"when": object()})
    with pytest.raises(InvalidNamespaceError, match="300 characters"):
        ours.put(("n" * 300,), "k", {"a": 1})
    with pytest.raises(InvalidNamespaceError):
        ours.batch([PutOp(("a.b",), "k", {"a": 1})])
    with pytest.raises(ConfigError, match="negative"):
        ours.search(NS, limit=-1)
    with pytest.raises(ConfigError, match="str is no operation"):
        ours.batch(["get"])  # type: ignore[list-item]
    with pytest.raises(ConfigError, match="no number"):
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
