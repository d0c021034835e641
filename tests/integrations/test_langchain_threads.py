"""What memory adds to a thread: to its checkpoints and its streams; and what it knows of a thread that changes."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware, SummarizationMiddleware, before_model, wrap_model_call
from langchain_core.language_models import FakeListChatModel, GenericFakeChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, RemoveMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph.message import REMOVE_ALL_MESSAGES

from deltamem_agents import DeltaMem
from deltamem_agents.errors import StoreError
from langchain_deltamem import DeltaMemMiddleware

THREAD: Any = {"configurable": {"thread_id": "t"}}


def texts(mem: DeltaMem, agent: str = "alice") -> list[str]:
    return [entry.text for entry in mem.agent(agent).log()]


class Scripted(GenericFakeChatModel):
    def bind_tools(self, *args: Any, **kwargs: Any) -> Any:
        return self


@tool
def look_up(word: str) -> str:
    """Look a word up."""
    return f"{word}: a word"


def numbered() -> Iterator[AIMessage]:
    number = 0
    while number := number + 1:
        yield AIMessage(f"Answer {number}: yes.")


def calling() -> Iterator[AIMessage]:
    while True:
        yield AIMessage("", tool_calls=[{"name": "look_up", "args": {"word": "teal"}, "id": "c1"}])
        yield AIMessage("A word.")


def agent_of(replies: Iterator[AIMessage], *middleware: AgentMiddleware[Any, Any], saver: Any = None) -> Any:
    return create_agent(Scripted(messages=replies), [look_up], middleware=middleware, checkpointer=saver)


# Checkpoints


def bytes_of(saver: Any) -> int:
    if isinstance(saver, InMemorySaver):
        checkpoints = [
            each for spaces in saver.storage.values() for space in spaces.values() for each in space.values()
        ]
        kept = sum(len(part[1]) for each in checkpoints for part in each[:2])
        writes = sum(len(write[2][1]) for task in saver.writes.values() for write in task.values())
        return kept + writes + sum(len(value[1]) for value in saver.blobs.values())
    sums = "SELECT sum(length(checkpoint) + length(metadata)) FROM checkpoints", "SELECT sum(length(value)) FROM writes"
    return sum(saver.conn.execute(each).fetchone()[0] for each in sums)


@pytest.mark.parametrize("kind", ["in memory", "SQLite"])
@pytest.mark.parametrize("turns", [12, pytest.param(50, marks=pytest.mark.slow)])
def test_checkpoints_grow_by_a_tenth_at_most(mem: DeltaMem, kind: str, turns: int) -> None:
    sizes = {}
    for name, middleware in (
        ("without", []),
        ("with", [DeltaMemMiddleware(mem, "bob", write="human"), DeltaMemMiddleware(mem, "team")]),
    ):
        connection = sqlite3.connect(":memory:", check_same_thread=False)
        saver = InMemorySaver() if kind == "in memory" else SqliteSaver(connection)
        agent = agent_of(numbered(), *middleware, saver=saver)
        for number in range(turns):
            agent.invoke({"messages": [("user", f"Question {number}?")]}, THREAD)
        sizes[name] = bytes_of(saver)
    assert len(texts(mem, "team")) == 2 * turns and len(texts(mem, "bob")) == turns
    assert sizes["with"] <= 1.1 * sizes["without"]  # and that with two memories


# Streams


def shape(chunk: Any) -> Any:
    """A chunk with the types of its messages in place of what they say."""
    if isinstance(chunk, BaseMessage):
        return chunk.type
    if isinstance(chunk, dict):
        return {key: shape(value) for key, value in chunk.items()}
    return [shape(each) for each in chunk] if isinstance(chunk, list | tuple) else chunk


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("saved", [False, True])
def test_updates_are_those_of_an_agent_without_memory(mem: DeltaMem, asynchronous: bool, saved: bool) -> None:
    def chunks(*middleware: AgentMiddleware[Any, Any]) -> list[Any]:
        agent = agent_of(calling(), *middleware, saver=InMemorySaver() if saved else None)
        found = []
        for text in ("What is teal?", "And now?"):
            given = {"messages": [HumanMessage(text)]}, THREAD
            if asynchronous:

                async def collected(given: Any = given) -> list[Any]:
                    return [chunk async for chunk in agent.astream(*given, stream_mode="updates")]

                found += asyncio.run(collected())
            else:
                found += list(agent.stream(*given, stream_mode="updates"))
        return shape(found)

    memories = DeltaMemMiddleware(mem, "alice", tools=True), DeltaMemMiddleware(mem, "team", write="human")
    assert (
        chunks(*memories)
        == chunks()
        == 2
        * [
            {"model": {"messages": ["ai"]}},
            {"tools": {"messages": ["tool"]}},
            {"model": {"messages": ["ai"]}},
        ]
    )
    assert texts(mem, "team") == ["What is teal?", "And now?"]


# What memory knows of a thread


@before_model
def only_the_newest(state: Any, runtime: Any) -> Any:
    """Drop all but the newest message."""
    return {"messages": [RemoveMessage(REMOVE_ALL_MESSAGES), *state["messages"][-1:]]}


@before_model
def by_other_names(state: Any, runtime: Any) -> Any:
    """Give all messages but the newest new ids, as if others had said them."""
    old = [each.model_copy(update={"id": None}) for each in state["messages"][:-1]]
    return {"messages": [RemoveMessage(REMOVE_ALL_MESSAGES), *old, state["messages"][-1]]}


def summarising() -> Any:
    model = FakeListChatModel(responses=["They talked."])
    return SummarizationMiddleware(model, trigger=("messages", 3), keep=("messages", 1))


@pytest.mark.parametrize("change", [lambda: only_the_newest, lambda: by_other_names, summarising])
@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("saved", [False, True])
def test_a_thread_that_others_change_is_told_once(
    mem: DeltaMem, change: Callable[[], Any], first: bool, saved: bool
) -> None:
    memory = DeltaMemMiddleware(mem, "alice")
    order = (memory, change()) if first else (change(), memory)
    agent = agent_of(calling(), *order, saver=InMemorySaver() if saved else None)
    for number in range(3):
        agent.invoke({"messages": [HumanMessage(f"Question {number}?")]}, THREAD)
    said = [entry.text for entry in mem.agent("alice").log() if entry.role == "user"]
    assert said == [f"Question {number}?" for number in range(3)]
    assert texts(mem).count("A word.") == texts(mem).count("teal: a word") == 3 and len(texts(mem)) == 12


def test_what_could_not_be_journalled_is_with_the_next_turn_of_any_process(
    open_mem: Callable[[], DeltaMem], monkeypatch: pytest.MonkeyPatch
) -> None:
    saver, first, second = InMemorySaver(), open_mem(), open_mem()

    def turn(mem: DeltaMem, text: str) -> None:
        agent_of(numbered(), DeltaMemMiddleware(mem, "alice"), saver=saver).invoke(
            {"messages": [HumanMessage(text)]}, THREAD
        )

    def away(*_: Any, **__: Any) -> Any:
        raise StoreError("the database is away")

    turn(first, "One.")
    with monkeypatch.context() as patch:
        patch.setattr(first.store, "append", away)
        turn(first, "Two.")
    assert texts(first) == ["One.", "Answer 1: yes."]
    turn(second, "Three.")
    assert texts(first) == ["One.", "Answer 1: yes.", "Two.", "Answer 1: yes.", "Three.", "Answer 1: yes."]


def test_a_reply_without_an_id_has_one_id_in_thread_and_journal(mem: DeltaMem) -> None:
    same = AIMessage("Always this.")

    @wrap_model_call
    def canned(request: Any, handler: Any) -> AIMessage:
        """Answer without the model."""
        return same

    agent = agent_of(numbered(), DeltaMemMiddleware(mem, "alice"), canned, saver=InMemorySaver())
    for text in ("One.", "Two."):
        result = agent.invoke({"messages": [HumanMessage(text)]}, THREAD)
    assert [each.id for each in result["messages"]] == [entry.id for entry in mem.agent("alice").log()]
    assert texts(mem) == ["One.", "Always this.", "Two.", "Always this."] and same.id is None


@pytest.mark.parametrize("asynchronous", [False, True])
def test_the_question_is_durable_before_the_model_is_called(mem: DeltaMem, asynchronous: bool) -> None:
    seen: list[list[str]] = []

    class Away(FakeListChatModel):
        def _call(self, *args: Any, **kwargs: Any) -> str:
            seen.append(texts(mem))
            raise ConnectionError("the model is away")

    agent = create_agent(Away(responses=[""]), middleware=[DeltaMemMiddleware(mem, "alice")])
    given = {"messages": [HumanMessage("My boat is called Petrel.")]}
    with pytest.raises(ConnectionError):
        asyncio.run(agent.ainvoke(given)) if asynchronous else agent.invoke(given)
    assert seen == [["My boat is called Petrel."]]


def test_guards_may_look_at_a_reply_twice(mem: DeltaMem) -> None:
    tries = []

    @wrap_model_call
    def twice(request: Any, handler: Any) -> Any:
        """Take the second reply."""
        tries.append(handler(request))
        return handler(request)

    agent = agent_of(numbered(), DeltaMemMiddleware(mem, "alice"), twice, saver=InMemorySaver())
    agent.invoke({"messages": [HumanMessage("One.")]}, THREAD)
    assert texts(mem) == ["One.", "Answer 2: yes."] and len(tries) == 1  # what comes after sees what is settled
