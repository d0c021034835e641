"""Conversations that number their messages alike: what is said in one is never lost to another, in any integration."""

from __future__ import annotations

import asyncio
import json
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.caches import InMemoryCache
from langchain_core.globals import set_llm_cache
from langchain_core.language_models import FakeListChatModel
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.runnables.history import RunnableWithMessageHistory
from langgraph.checkpoint.memory import InMemorySaver
from llama_index.core.llms import ChatMessage

from deltamem_agents import DeltaMem
from deltamem_agents.memory import RecallOptions
from langchain_deltamem import ChatDeltaMem, DeltaMemChatMessageHistory, DeltaMemMiddleware, DeltaMemStore
from langchain_deltamem import DeltaMemRetriever as ForLangChain
from langchain_deltamem.memory_tools import memory_tools
from llama_index_deltamem import DeltaMemory, DeltaMemoryBlock
from llama_index_deltamem import DeltaMemRetriever as ForLlamaIndex

LOCKER, TEA = "My locker is 4417.", "I like tea."


def said(mem: DeltaMem, agent: str = "alice") -> list[tuple[str, str]]:
    return [(entry.session, entry.text) for entry in mem.agent(agent).log()]


def thread(name: str, agent: str = "alice") -> Any:
    return {"configurable": {"thread_id": name, "agent_id": agent}}


def remembering(mem: DeltaMem, saver: Any = None, **options: Any) -> Any:
    model = Metered(responses=["Noted.", "Nice."])
    return create_agent(
        model, middleware=[DeltaMemMiddleware(mem, trust_configurable=True, **options)], checkpointer=saver
    )


def run(agent: Any, asynchronous: bool, *given: Any) -> Any:
    return asyncio.run(agent.ainvoke(*given)) if asynchronous else agent.invoke(*given)


# LangChain


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("saved", [False, True])
def test_threads_that_number_from_1(mem: DeltaMem, saved: bool, asynchronous: bool) -> None:
    agent = remembering(mem, InMemorySaver() if saved else None)
    for name, text in (("a", LOCKER), ("b", TEA), ("c", TEA)):
        run(agent, asynchronous, {"messages": [HumanMessage(text, id="1")]}, thread(name))
    assert [each for each in said(mem) if each[1] not in ("Noted.", "Nice.")] == [("a", LOCKER), ("b", TEA), ("c", TEA)]
    assert len(said(mem)) == 6
    edited = [HumanMessage("I like coffee.", id="1")]
    if saved:  # in its own thread, an edit replaces
        run(agent, asynchronous, {"messages": edited}, thread("b"))
        texts = [text for session, text in said(mem) if session == "b"]
        assert "I like coffee." in texts and TEA not in texts
        assert ("a", LOCKER) in said(mem) and ("c", TEA) in said(mem)


def test_a_history_copied_to_another_session(mem: DeltaMem) -> None:
    one, two, three = (DeltaMemChatMessageHistory(mem, "alice", session) for session in ("one", "two", "three"))
    one.add_messages([HumanMessage(LOCKER, id="1"), AIMessage("Noted.", id="2")])
    two.add_messages(one.messages)
    three.add_messages([HumanMessage(TEA, id="1")])
    assert two.messages == one.messages and [each.text for each in one.messages] == [LOCKER, "Noted."]
    assert [each.text for each in three.messages] == [TEA]
    two.add_messages(one.messages)  # again
    assert len(mem.agent("alice").log()) == 5
    two.clear()
    assert two.messages == [] and len(one.messages) == 2
    mem.agent("alice").erase(ids=["1"], session="one")
    assert [each.text for each in one.messages] == ["Noted."] and len(three.messages) == 1


class Metered(FakeListChatModel):
    """As providers' models are; of an answer without usage LangChain's cache makes one that it cannot read itself."""

    def _generate(self, *args: Any, **kwargs: Any) -> Any:
        result = super()._generate(*args, **kwargs)
        for each in result.generations:
            each.message.usage_metadata = {"input_tokens": 1, "output_tokens": 1, "total_tokens": 2}
        return result


def with_history(mem: DeltaMem) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return RunnableWithMessageHistory(
            Metered(responses=["Noted.", "Nice."]),  # type: ignore[arg-type]  # a model, as in its documentation
            lambda session: DeltaMemChatMessageHistory(mem, "alice", session),
        )


def test_a_runnable_with_history_over_two_sessions(mem: DeltaMem) -> None:
    chain = with_history(mem)
    for session, text in (("one", LOCKER), ("two", TEA)):
        chain.invoke([HumanMessage(text, id="1")], {"configurable": {"session_id": session}})
    assert said(mem) == [("one", LOCKER), ("one", "Noted."), ("two", TEA), ("two", "Nice.")]


@pytest.fixture
def cached() -> Iterator[None]:
    set_llm_cache(InMemoryCache())
    yield
    set_llm_cache(None)


@pytest.mark.usefixtures("cached")
def test_an_answer_from_the_cache_is_in_each_session(mem: DeltaMem) -> None:
    chain, agent = with_history(mem), remembering(mem)
    for session in ("one", "two"):
        chain.invoke([HumanMessage(LOCKER)], {"configurable": {"session_id": session}})
        assert [each.text for each in DeltaMemChatMessageHistory(mem, "alice", session).messages] == [LOCKER, "Noted."]
    for name in ("a", "b"):
        agent.invoke({"messages": [HumanMessage(TEA)]}, thread(name, "bob"))
    assert [session for session, text in said(mem, "bob") if text != TEA] == ["a", "b"]


def test_the_same_answer_of_one_id_in_two_sessions(mem: DeltaMem) -> None:
    answer = AIMessage("Noted.", id="lc_run--1")
    for session in ("one", "two"):
        DeltaMemChatMessageHistory(mem, "alice", session).add_messages([HumanMessage(TEA), answer])
    assert [session for session, text in said(mem) if text == "Noted."] == ["one", "two"]


def tool_call(tools: list[Any], name: str, arguments: dict[str, Any], asynchronous: bool) -> str:
    (tool,) = (each for each in tools if each.name == name)
    call = {"type": "tool_call", "id": "c1", "name": name, "args": arguments}
    call["args"] |= {"runtime": type("Runtime", (), {"tool_call_id": "c1", "state": {}, "config": {}})()}
    reply = asyncio.run(tool.coroutine(**call["args"])) if asynchronous else tool.func(**call["args"])
    return str(reply.content if isinstance(reply, ToolMessage) else reply)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_model_forgets_in_the_session_that_it_names(mem: DeltaMem, asynchronous: bool) -> None:
    alice = mem.agent("alice")
    for session, text in (("a", LOCKER), ("b", "My locker is blue.")):
        alice.write([{"role": "user", "content": text, "id": "1"}], session)
    tools = memory_tools(lambda runtime: (alice, "c"), RecallOptions())
    found = tool_call(tools, "recall", {"query": "locker"}, asynchronous)
    records = [json.loads(line) for line in found.splitlines() if line.startswith("{")]
    assert {(each["id"], each["session"]) for each in records} == {("1", "a"), ("1", "b")}
    told = tool_call(tools, "forget", {"id": "1"}, asynchronous)
    assert told.startswith("Nothing was forgotten") and "'a', 'b'" in told and len(alice.log()) == 2
    assert tool_call(tools, "forget", {"id": "1", "session": "c"}, asynchronous) == "Nothing has this id."
    assert tool_call(tools, "forget", {"id": "1", "session": "a"}, asynchronous) == "Forgotten."
    assert said(mem) == [("b", "My locker is blue.")]
    assert tool_call(tools, "forget", {"id": "1"}, asynchronous) == "Forgotten."


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_model_may_remember_any_text(mem: DeltaMem, asynchronous: bool) -> None:
    tools = memory_tools(lambda runtime: (mem.agent("alice"), "c"), RecallOptions())
    for text in ("", "  \n", "long " * 2_200_000):
        assert tool_call(tools, "remember", {"text": text}, asynchronous).startswith("Nothing was remembered")
    for text in ("a\0b", "\ud800", "Tea is at four."):
        assert tool_call(tools, "remember", {"text": text}, asynchronous) == "Remembered."
    assert [text for _, text in said(mem)] == ["a\ufffdb", "\ufffd", "Tea is at four."]


def test_what_a_reply_is_made_of_names_sessions(mem: DeltaMem) -> None:
    for session in ("a", "b"):
        mem.agent("alice").write([{"role": "user", "content": f"{LOCKER} {session}", "id": "1"}], session)
    reply = ChatDeltaMem(mem=mem, agent_id="alice", max_tokens=2).invoke("What is my locker?")
    records = reply.response_metadata["records"]
    assert sorted(records, key=lambda each: each["session"]) == [{"session": s, "id": "1"} for s in ("a", "b")]
    *_, last = ChatDeltaMem(mem=mem, agent_id="alice", max_tokens=2).stream("What is my locker?")
    assert last.response_metadata["records"] == records


def test_retrieved_documents_and_nodes_have_ids_of_their_own(mem: DeltaMem) -> None:
    names = [("alice", "a", "1"), ("alice", "b", "1"), ("alice", "a/b", "1"), ("alice", "a", "b/1"), ("bob", "a", "1")]
    names += [("alice", "a", "1#1"), ("alice", "a", "猫"), ("alice", "a%2Fb", "1")]
    for agent, session, name in names:
        mem.agent(agent).write([{"role": "user", "content": f"{LOCKER} {session} {name}", "id": name}], session)
    documents = [
        document
        for agent in ("alice", "bob")
        for document in ForLangChain(mem=mem, agent_id=agent, k=20).invoke("locker")
    ]
    assert len({document.id for document in documents}) == len(documents) == len(names)
    told = [(each.metadata["agent_id"], each.metadata["session"], each.metadata["message_id"]) for each in documents]
    assert sorted(told) == sorted(names)
    nodes = [node for agent in ("alice", "bob") for node in ForLlamaIndex(mem, agent, k=20).retrieve("locker")]
    assert {node.node.node_id for node in nodes} == {document.id for document in documents}


def test_a_store_keeps_keys_of_namespaces_apart(mem: DeltaMem) -> None:
    store, spaces = DeltaMemStore(mem, "alice"), [("users", "ann"), ("users", "bob"), ("users",)]
    for number, space in enumerate(spaces):
        store.put(space, "1", {"text": f"tea {number}"})
    ids = {entry.id for entry in mem.agent("alice").log()}
    for name in ids:  # what a conversation of the same agent says under the same ids is not the store's
        mem.agent("alice").write([{"role": "user", "content": "not an item", "id": name}], "chat")
    found = store.search(("users",), query="tea")
    assert [item.value["text"][-1] for item in sorted(found, key=lambda item: str(item.value))] == ["0", "1", "2"]
    store.put(spaces[0], "1", {"text": "coffee"})
    store.delete(spaces[1], "1")
    assert [(got := store.get(space, "1")) and got.value["text"] for space in spaces] == ["coffee", None, "tea 2"]
    assert [text for session, text in said(mem) if session == "chat"] == ["not an item"] * len(ids)


# What a checkpoint keeps


def kept(saver: Any, name: str = "a") -> dict[str, Any]:
    """What memory keeps in a thread's checkpoint."""
    values = saver.get_tuple(thread(name)).checkpoint["channel_values"]
    return {key: value for key, value in values.items() if key.startswith("delta_mem")}


def test_a_checkpoint_keeps_one_id_and_nothing_that_was_said(mem: DeltaMem) -> None:
    saver = InMemorySaver()
    agent = remembering(mem, saver)
    for number in range(3):
        result = agent.invoke({"messages": [HumanMessage(LOCKER, id=f"{number}")]}, thread("a"))
        assert list(kept(saver).values()) == [result["messages"][-1].id]
    secret = mem.store.secret("alice")
    assert secret is not None and secret.hex() not in repr(saver.storage) and repr(secret) not in repr(saver.storage)


def test_another_process_knows_what_is_journalled(open_mem: Callable[[], DeltaMem]) -> None:
    saver = InMemorySaver()
    first = open_mem()
    remembering(first, saver).invoke({"messages": [HumanMessage(LOCKER, id="1")]}, thread("a"))
    log = first.agent("alice").log()
    first.close()
    second = open_mem()
    agent = remembering(second, saver)
    agent.invoke({"messages": [HumanMessage(LOCKER, id="1")]}, thread("a"))
    assert second.agent("alice").log()[: len(log)] == log
    assert [text for _, text in said(second)].count(LOCKER) == 1
    agent.invoke({"messages": [HumanMessage("My locker is 9.", id="1")]}, thread("a"))
    assert [text for _, text in said(second) if "locker" in text] == ["My locker is 9."]


@pytest.mark.parametrize("asynchronous", [False, True])
def test_what_was_deleted_or_erased_is_not_told_again(mem: DeltaMem, asynchronous: bool) -> None:
    agent = remembering(mem, InMemorySaver())

    def told(text: str, name: str) -> list[str]:
        before = len(said(mem))
        run(agent, asynchronous, {"messages": [HumanMessage(text, id=name)]}, thread("a"))
        return [text for _, text in said(mem)][before:]

    assert told(LOCKER, "1")[0] == LOCKER
    mem.agent("alice").erase(ids=["1"])
    assert told("Go on.", "2")[0] == "Go on."
    assert LOCKER not in [text for _, text in said(mem)] and len(said(mem)) == 3
    mem.agent("alice").erase(ids=[mem.agent("alice").log()[-1].id, "2"])  # at the thread's end
    assert len(said(mem)) == 1 and told(TEA, "3")[0] == TEA and len(said(mem)) == 3
    mem.agent("alice").rollback(mem.agent("alice").log()[0].position)
    assert told("And on.", "4")[0] == "And on." and len(said(mem)) == 3
    mem.agent("alice").erase(session="a")
    assert told("Still here?", "5")[0] == "Still here?" and len(said(mem)) == 2
    mem.agent("alice").delete()
    assert told(TEA, "6")[0] == TEA and len(said(mem)) == 2


def test_what_one_agent_was_told_in_a_thread_no_other_is(mem: DeltaMem) -> None:
    agent = remembering(mem, InMemorySaver())
    for name, text in (("alice", LOCKER), ("bob", TEA), ("alice", "Go on.")):
        agent.invoke({"messages": [HumanMessage(text)]}, thread("a", name))
    assert [text for _, text in said(mem)] == [LOCKER, "Noted.", "Go on.", "Noted."]
    assert [text for _, text in said(mem, "bob")] == [TEA, "Nice."]


@pytest.mark.parametrize("change", ["imported", "older version"])
def test_where_a_checkpoint_tells_little_the_journal_tells(mem: DeltaMem, tmp_path: Any, change: str) -> None:
    saver = InMemorySaver()
    agent = remembering(mem, saver)
    agent.invoke({"messages": [HumanMessage(LOCKER, id="1"), HumanMessage(TEA, id="2")]}, thread("a"))
    log = mem.agent("alice").log()
    if change == "imported":
        mem.export("alice", tmp_path / "alice.zip")
        mem.agent("alice").delete()
        mem.import_(tmp_path / "alice.zip")
    else:
        (key,) = kept(saver)
        agent.update_state(thread("a"), {key: {entry.id: "0f" * 16 for entry in log}}, as_node="model")
    agent.invoke({"messages": [HumanMessage("My locker is 9.", id="1")]}, thread("a"))
    texts = [text for _, text in said(mem)]
    assert [entry for entry in mem.agent("alice").log() if entry in log] == log[1:]
    assert "My locker is 9." in texts and LOCKER not in texts and len(texts) == len(log) + 1
    assert list(kept(saver).values()) == [mem.agent("alice").log()[-1].id]


# LlamaIndex


def user(text: str) -> ChatMessage:
    return ChatMessage(role="user", content=text)


def test_memories_of_two_sessions(mem: DeltaMem) -> None:
    one, two = (DeltaMemory.from_defaults(mem, "alice", session) for session in ("one", "two"))
    for memory in (one, two):
        memory.put_messages([user(TEA), ChatMessage(role="assistant", content="Noted.")])
    assert said(mem) == [(session, text) for session in ("one", "two") for text in (TEA, "Noted.")]
    copied = DeltaMemory.from_defaults(mem, "alice", "three", chat_history=one.get_all())
    assert [each.content for each in copied.get_all()] == [TEA, "Noted."] and len(said(mem)) == 6


def test_an_open_turn_that_is_restored_in_two_sessions(mem: DeltaMem) -> None:
    memory = DeltaMemory.from_defaults(mem, "alice", "one")
    memory.put(user(TEA))
    saved = memory.to_dict()
    for session in ("one", "two", "one"):
        DeltaMemory.from_dict(saved | {"session_id": session}, mem).flush()
    assert said(mem) == [("one", TEA), ("two", TEA)]


def test_a_block_of_two_sessions(mem: DeltaMem) -> None:
    messages = [ChatMessage(role="user", content=TEA, additional_kwargs={"session_id": s}) for s in ("one", "two")]
    for _ in range(2):
        asyncio.run(DeltaMemoryBlock(mem, "alice").aput(messages))
    assert said(mem) == [("one", TEA), ("two", TEA)]
