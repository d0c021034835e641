"""An agent gets its answer whatever a message holds and whatever memory does, and what was said is kept."""

from __future__ import annotations

import contextlib
import json
import logging
import math
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from langchain.agents import create_agent
from langchain_core.language_models import FakeListChatModel
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    HumanMessageChunk,
    SystemMessage,
    SystemMessageChunk,
    ToolMessage,
    ToolMessageChunk,
)
from langgraph.checkpoint.memory import InMemorySaver
from llama_index.core.base.llms.types import ChatMessage as LlamaMessage
from llama_index.core.base.llms.types import ImageBlock, TextBlock, ToolCallBlock
from llama_index.core.memory import Memory

from deltamem_agents import DeltaMem
from deltamem_agents.errors import ClosedError, ConfigError, StoreError
from deltamem_agents.frameworks.messages import SANITIZED, FrameworkMessage
from deltamem_agents.memory.sanitizing import plain_json, plain_text
from deltamem_agents.messages import check_messages
from langchain_deltamem import ChatDeltaMem, DeltaMemChatMessageHistory, DeltaMemClassicMemory, DeltaMemMiddleware
from langchain_deltamem.messages import from_langchain, to_langchain, without_orphans
from llama_index_deltamem import DeltaMemory, DeltaMemoryBlock
from tests.databases import engine_of, watched

NOT_IN_CHECKPOINTS = ("object", "number of many digits", "odd metadata", "artifact")  # LangGraph refuses these
NEXT = "My boat is called Petrel."


class Odd:
    """Says nothing of itself that can be kept."""

    def __str__(self) -> str:
        raise RuntimeError("no")

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("no")

    __hash__ = None  # type: ignore[assignment]


LOOP: list[Any] = []
LOOP.append(LOOP)
DEEP: Any = "end"
for _ in range(500):
    DEEP = [DEEP]

ODD_VALUES: dict[str, Any] = {
    "NUL": "ELF\0\1",
    "surrogate": "half \ud800 of a pair",
    "bytes": b"\x89PNG\0",
    "NaN": math.nan,
    "infinity": -math.inf,
    "date": datetime(2026, 1, 1, tzinfo=UTC),
    "decimal": Decimal("1.5"),
    "uuid": UUID(int=7),
    "path": Path("a/b"),
    "set": {1},
    "tuple": (1, 2),
    "object": object(),
    "object that raises": Odd(),
    "function": print,
    "loop": LOOP,
    "deep": DEEP,
    "number of many digits": 10**400,
    "keys": {1: "one", None: "none", "a\0": "b", b"c": 1},
}

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()) | st.binary(max_size=8),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters()) | st.integers(), inner) | st.tuples(inner),
    max_leaves=20,
)


@given(anything)
def test_what_is_kept_is_json_that_stays_as_it_is(value: Any) -> None:
    kept = plain_json(value)
    told = json.dumps(kept, allow_nan=False)
    assert json.loads(told) == kept and plain_json(kept) == kept
    told.encode()
    assert "\0" not in "".join(_texts(kept)) and not any("\ud800" <= c <= "\udfff" for c in "".join(_texts(kept)))
    try:
        same = json.loads(json.dumps(value, allow_nan=False)) == value and plain_text(told) == told
    except (TypeError, ValueError):
        return
    if same and not any(_is_odd(text) for text in _texts(value)):
        assert kept == value


@pytest.mark.parametrize("value", ODD_VALUES.values(), ids=ODD_VALUES)
def test_odd_values_are_kept_as_something(value: Any) -> None:
    told = json.dumps(plain_json(value), allow_nan=False)
    assert len(told) < 100_000 and " at 0x" not in told.replace("built-in function print", "")


@given(
    st.one_of(anything, st.lists(st.dictionaries(st.sampled_from(["type", "text", "data", "id"]), anything))),
    st.one_of(st.none(), st.text(st.characters(), max_size=300)),
    st.dictionaries(st.text(st.characters(), max_size=5), anything, max_size=3),
)
@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
def test_the_journal_takes_every_message(content: Any, id: str | None, metadata: dict[str, Any]) -> None:
    message = FrameworkMessage(role="user", content=content, id=id, metadata=metadata).for_journal()
    if message is not None:
        (checked,) = check_messages([message])
        assert checked.metadata.get(SANITIZED, []) in ([], ["content"], ["metadata"], ["content", "metadata"])


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [text for key, each in value.items() for text in (*_texts(key), *_texts(each))]
    return [text for each in value for text in _texts(each)] if isinstance(value, list) else []


def _is_odd(text: str) -> bool:
    return plain_text(text) != text


# LangChain


def odd_messages() -> dict[str, list[BaseMessage]]:
    call = lambda args: AIMessage("", tool_calls=[{"name": "t", "args": args, "id": "c"}])  # noqa: E731
    answer = ToolMessage("ok", tool_call_id="c")
    by_value = {
        name: [HumanMessage("Read it."), call({"x": value}), answer, HumanMessage([{"type": "media", "data": value}])]
        for name, value in ODD_VALUES.items()
        if name not in ("loop", "deep", "object that raises")  # LangGraph's own checkpoints do not take these
    }
    return by_value | {
        "NUL in text": [HumanMessage("a\0b"), AIMessage("c\0d"), call({}), ToolMessage("ELF\0\1", tool_call_id="c")],
        "surrogate": [HumanMessage("half \ud800")],
        "a role of one's own": [ChatMessage(role="narrator", content="Once upon a time.")],
        "chunks": [HumanMessageChunk(content="Hi."), AIMessageChunk(content="Hey."), SystemMessageChunk(content="Be.")],
        "chunk of a tool": [HumanMessage("Look."), call({}), ToolMessageChunk(content="ok", tool_call_id="c")],
        "function": [HumanMessage("Look."), FunctionMessage(name="f", content="ok")],
        "long id": [HumanMessage("Hi.", id="x" * 300)],
        "odd id": [HumanMessage("Hi.", id="a\0b")],
        "empty blocks": [HumanMessage(["Hi.", {}, {"type": "text", "text": ""}])],
        "odd blocks": [HumanMessage([{"type": "text", "text": "Hi."}, {"type": "text"}, {"type": 7}])],
        "text that is none": [HumanMessage([{"type": "text", "text": None}, "Hi."])],
        "odd metadata": [HumanMessage("Hi.", additional_kwargs={"x": object(), "y": math.nan})],
        "artifact": [HumanMessage("Hi."), call({}), ToolMessage("ok", tool_call_id="c", artifact=object())],
        "a badly written call": [
            HumanMessage("Book."),
            AIMessage("", invalid_tool_calls=[{"name": "b", "args": "{", "id": "c", "error": None}]),
            answer,
        ],
    }


@pytest.mark.parametrize("name", odd_messages())
@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
async def test_every_reply_is_delivered_and_every_message_kept(mem: DeltaMem, name: str, asynchronous: bool) -> None:
    model = FakeListChatModel(responses=["Fine."])
    saver = None if name in NOT_IN_CHECKPOINTS else InMemorySaver()
    agent = create_agent(model, middleware=[DeltaMemMiddleware(mem, "alice")], checkpointer=saver)
    messages = odd_messages()[name]
    for said in (messages, [HumanMessage(NEXT)]):
        config: Any = {"configurable": {"thread_id": "t"}}
        state: Any = {"messages": said}
        done = await agent.ainvoke(state, config) if asynchronous else agent.invoke(state, config)
        assert done["messages"][-1].content == "Fine."
    log = mem.agent("alice").log()
    kept = [message for message in messages if message.type not in ("system", "SystemMessageChunk")]
    assert len(log) == len(kept) + 3 and [entry.text for entry in log][-2:] == [NEXT, "Fine."]


@pytest.mark.parametrize("name", odd_messages())
def test_a_history_takes_them_and_gives_them_back(mem: DeltaMem, name: str) -> None:
    messages = odd_messages()[name]
    DeltaMemChatMessageHistory(mem, "alice").add_messages(messages)
    back = DeltaMemChatMessageHistory(mem, "alice").messages
    assert len(back) == len(messages)
    kinds = {"AIMessageChunk": "ai", "HumanMessageChunk": "human", "SystemMessageChunk": "system", "function": "tool"}
    kinds |= {"ToolMessageChunk": "tool"}
    assert [message.type for message in back] == [kinds.get(message.type, message.type) for message in messages]


@pytest.mark.parametrize("name", ["chunks", "a role of one's own", "NUL in text", "surrogate", "function"])
def test_a_prompt_may_hold_them(mem: DeltaMem, name: str) -> None:
    model = ChatDeltaMem(mem=mem, agent_id="alice", max_tokens=2)
    assert isinstance(model.invoke([*odd_messages()[name], HumanMessage("And?")]), AIMessage)


def test_what_a_history_keeps_of_a_message(mem: DeltaMem) -> None:
    usage = {"input_tokens": 1, "output_tokens": 2, "total_tokens": 3}
    told = [
        HumanMessage("Book two seats.", name="Ann", id="1"),
        AIMessage("", id="2", tool_calls=[{"name": "book", "args": {"seats": 2}, "id": "c"}], usage_metadata=usage),
        ToolMessage("done", id="3", tool_call_id="c", name="book", artifact={"seats": [1, 2]}, status="error"),
        AIMessage("Booked.", id="4", response_metadata={"model_name": "m", "finish_reason": "stop"}, name="bot"),
        ChatMessage("Meanwhile…", id="5", role="narrator"),
        SystemMessage("Be kind.", id="6"),
    ]
    DeltaMemChatMessageHistory(mem, "alice").add_messages(told)
    assert DeltaMemChatMessageHistory(mem, "alice").messages == told


def test_an_answer_without_its_call_is_no_part_of_a_window(mem: DeltaMem) -> None:
    call = AIMessage("", tool_calls=[{"name": "w", "args": {}, "id": "c"}])
    bad = AIMessage("", invalid_tool_calls=[{"name": "w", "args": "{", "id": "d", "error": None}])
    answer, other = ToolMessage("sunny", tool_call_id="c"), ToolMessage("try again", tool_call_id="d")
    assert without_orphans([answer, HumanMessage("Hi"), call, answer, bad, other]) == [
        HumanMessage("Hi"),
        call,
        answer,
        bad,
        other,
    ]
    history = DeltaMemChatMessageHistory(mem, "alice")
    history.add_messages([HumanMessage("Hi"), bad, other, AIMessage("Well.")])
    assert [message.type for message in history.messages] == ["human", "ai", "tool", "ai"]
    assert history.messages[1].invalid_tool_calls == bad.invalid_tool_calls and history.messages[1].content == ""  # type: ignore[attr-defined]
    window = DeltaMemClassicMemory(mem=mem, agent_id="alice", return_messages=True, window=2)
    assert [m.type for m in window.load_memory_variables({"input": ""})["history"]] == ["ai"]


def test_a_message_goes_round_once_only(mem: DeltaMem) -> None:
    """What was kept of an odd message is plain by then, and is not said to be replaced again."""
    history = DeltaMemChatMessageHistory(mem, "alice")
    history.add_messages([HumanMessage("a\0b", id="1", additional_kwargs={"x": math.nan})])
    (entry,) = mem.agent("alice").log()
    assert entry.metadata[SANITIZED] == ["content", "metadata"]
    again = from_langchain(to_langchain(entry)).for_journal()
    assert again is not None and SANITIZED not in again["metadata"]
    history.add_messages(history.messages)
    assert len(mem.agent("alice").log()) == 1


# LlamaIndex


@pytest.mark.parametrize("value", ODD_VALUES.values(), ids=ODD_VALUES)
def test_a_llama_index_memory_takes_every_message(mem: DeltaMem, value: Any) -> None:
    memory = DeltaMemory.from_defaults(mem, "alice", "s")
    calls = [ToolCallBlock(tool_call_id="c", tool_name="t", tool_kwargs={"x": value})]
    taken: list[LlamaMessage] = []
    kwargs: dict[str, Any] = {"tool_call_id": "c", "name": value}
    text = value if isinstance(value, str) else "ok"
    for message in (
        LlamaMessage(role="user", blocks=[TextBlock(text="Read it."), ImageBlock(image=b"GIF89a")]),
        LlamaMessage(role="assistant", blocks=calls),
        LlamaMessage(role="tool", content=text, additional_kwargs=kwargs),
        LlamaMessage(role="assistant", content="Done."),
        LlamaMessage(role="user", content=NEXT),
        LlamaMessage(role="assistant", content="Nice name."),
    ):
        with contextlib.suppress(Exception):  # what LlamaIndex's own memory does not take, nobody can hand to ours
            Memory.from_defaults().put(message.model_copy(deep=True))
            taken.append(message)
        if taken and taken[-1] is message:
            memory.put(message)
    texts = [entry.text for entry in mem.agent("alice").log()]
    assert len(texts) == len(taken) and [*texts[:1], *texts[-3:]] == ["Read it.", "Done.", NEXT, "Nice name."]


ODD_METADATA: list[dict[str, Any]] = [
    *({key: odd} for key in ("name", "tool_call_id", "status", "artifact", "role") for odd in (["x"], {"x": 1}, 5, "")),
    *({key: odd} for key in ("additional_kwargs", "response_metadata", "usage_metadata") for odd in (["x"], 5, "x")),
    {"invalid_tool_calls": [7]},
    {"invalid_tool_calls": "x"},
    {"additional_kwargs": {"name": ["x"]}},
]
ODD_BLOCKS = [
    [{"type": "tool_call"}],
    [{"type": "tool_call", "id": 1, "name": [], "args": "x"}],
    [{"type": "text", "text": "hi"}, {"type": 7}],
]


@pytest.mark.parametrize("role", ["user", "assistant", "tool", "system"])
def test_what_others_wrote_with_odd_metadata_is_recalled_and_read(mem: DeltaMem, role: str) -> None:
    alice = mem.agent("alice")
    said = [
        {"role": role, "content": f"The harbour is number {i}."} | {"metadata": odd}
        for i, odd in enumerate(ODD_METADATA)
    ]
    alice.write([*said, *({"role": role, "content": blocks} for blocks in ODD_BLOCKS)], "s", wait=False)
    assert alice.recall("Which number is the harbour?", k=50, mode="vector", generate=False).records
    assert len(DeltaMemChatMessageHistory(mem, "alice", "s", tool_output=None).messages) >= len(said)
    assert len(DeltaMemory.from_defaults(mem, "alice", "s").get_all()) >= len(said)


# Memory that fails


class Away(StoreError):
    """The database is away."""


@pytest.fixture
def away(mem: DeltaMem) -> Iterator[Callable[[bool], None]]:
    """Makes each statement of the store fail, and mends it."""
    broken = False

    def switch(off: bool) -> None:
        nonlocal broken
        broken = off

    def fail(*_: Any) -> None:
        if broken:
            raise Away("the database is away")

    with watched(engine_of(mem.store), "before_cursor_execute", fail):
        yield switch


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
async def test_an_agent_answers_while_the_database_is_away(
    mem: DeltaMem, away: Callable[[bool], None], caplog: pytest.LogCaptureFixture, asynchronous: bool
) -> None:
    config: Any = {"configurable": {"thread_id": "t"}}

    async def say(text: str, **options: Any) -> Any:
        middleware = DeltaMemMiddleware(mem, "alice", **options)
        agent = create_agent(FakeListChatModel(responses=["Fine."]), middleware=[middleware], checkpointer=saver)
        said: Any = {"messages": [HumanMessage(text)]}
        done = await agent.ainvoke(said, config) if asynchronous else agent.invoke(said, config)
        return done["messages"][-1].content

    saver = InMemorySaver()
    away(True)
    with caplog.at_level(logging.WARNING):
        assert await say("My locker is 4417.") == "Fine."
    assert "recall failed" in caplog.text and "journalling failed" in caplog.text and "4417" not in caplog.text
    with pytest.raises(Away):
        await say("And?", on_error="raise")
    away(False)
    assert await say(NEXT) == "Fine."
    texts = [entry.text for entry in mem.agent("alice").log()]
    assert texts.count("My locker is 4417.") == texts.count(NEXT) == 1  # made up for by the thread's next run


async def test_other_memories_go_on_too(mem: DeltaMem, away: Callable[[bool], None]) -> None:
    history = DeltaMemChatMessageHistory(mem, "alice")
    classic = DeltaMemClassicMemory(mem=mem, agent_id="alice")
    memory, block = DeltaMemory.from_defaults(mem, "alice", "s"), DeltaMemoryBlock(mem, "alice")
    question, answer = LlamaMessage(role="user", content=NEXT), LlamaMessage(role="assistant", content="Nice.")
    away(True)
    history.add_messages([HumanMessage("Hi.")])
    await history.aadd_messages([HumanMessage("Hi.")])
    classic.save_context({"input": "Hi."}, {"output": "Hey."})
    memory.put_messages([question, answer])
    assert [message.content for message in memory.get()] == [NEXT, "Nice."]
    assert await block.aget([question]) == ""
    await block.aput([question, answer])
    with pytest.raises(Away):
        DeltaMemChatMessageHistory(mem, "alice", on_error="raise").add_messages([HumanMessage("Hi.")])
    with pytest.raises(Away):
        DeltaMemory.from_defaults(mem, "alice", "s", on_error="raise").put_messages([question, answer])
    away(False)
    memory.put_messages([LlamaMessage(role="user", content="And?"), LlamaMessage(role="assistant", content="Yes.")])
    assert [entry.text for entry in mem.agent("alice").log("s")] == [NEXT, "Nice.", "And?", "Yes."]


def test_mistakes_are_raised_all_the_same(mem: DeltaMem) -> None:
    for make in (
        lambda: DeltaMemMiddleware(mem, "alice", on_error="ignore"),  # type: ignore[arg-type]
        lambda: DeltaMemChatMessageHistory(mem, "alice", on_error=None),  # type: ignore[arg-type]
        lambda: DeltaMemClassicMemory(mem=mem, agent_id="alice", on_error="no"),  # type: ignore[arg-type]
        lambda: DeltaMemory.from_defaults(mem, "alice", on_error="no"),  # type: ignore[arg-type]
        lambda: DeltaMemoryBlock(mem, "alice", on_error="no"),
    ):
        with pytest.raises(ConfigError, match="on_error"):
            make()
    memory, middleware = DeltaMemory.from_defaults(mem, "alice"), DeltaMemMiddleware(mem, "alice")
    mem.close()
    with pytest.raises(ClosedError):
        memory.put_messages([LlamaMessage(role="user", content="Hi"), LlamaMessage(role="assistant", content="Hey")])
    with pytest.raises(ClosedError):
        strict = DeltaMemMiddleware(mem, "alice", on_error="raise")
        agent = create_agent(FakeListChatModel(responses=["Fine."]), middleware=[strict])
        agent.invoke({"messages": [HumanMessage("Hi")]})
    agent = create_agent(FakeListChatModel(responses=["Fine."]), middleware=[middleware])
    assert agent.invoke({"messages": [HumanMessage("Hi")]})["messages"][-1].content == "Fine."
