"""Odd arguments of the integrations: a ConfigError that names them, or taken as something that can be kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from langchain_core.messages import HumanMessage
from langgraph.store.base import PutOp, SearchOp
from llama_index.core.base.llms.types import ChatMessage, ToolCallBlock

from deltamem_agents import DeltaMem
from deltamem_agents.cli.history import terminal
from deltamem_agents.errors import ConfigError, DeltaMemError
from langchain_deltamem import DeltaMemChatMessageHistory, DeltaMemStore
from llama_index_deltamem import DeltaMemory, DeltaMemoryBlock

NOT_MESSAGES: list[Any] = ["str", None, 5, {}, b"x", object(), ["str"], [None], [{"role": "user"}], [[]]]
FACT = "My locker code is 4417."


@pytest.fixture(scope="module")
def mem() -> Iterator[DeltaMem]:
    with DeltaMem.open(backbone=None, url="sqlite://", embedder=False) as opened:
        yield opened


def user(text: str, **fields: Any) -> ChatMessage:
    return ChatMessage(role="user", content=text, **fields)


def said(text: str) -> ChatMessage:
    return ChatMessage(role="assistant", content=text)


def texts(memory: DeltaMemory) -> list[str]:
    return [message.content or "" for message in memory.get_all()]


@pytest.mark.parametrize("odd", NOT_MESSAGES, ids=lambda odd: type(odd).__name__)
async def test_what_is_no_message_is_refused(mem: DeltaMem, odd: Any) -> None:
    memory, block = DeltaMemory.from_defaults(mem, "odd"), DeltaMemoryBlock(mem, "odd")
    history = DeltaMemChatMessageHistory(mem, "odd")
    calls: list[Callable[[], Any]] = [
        lambda: memory.put(odd),
        lambda: memory.put_messages(odd if isinstance(odd, list) else [odd]),
        lambda: memory.set(odd),
        lambda: history.add_messages(odd if isinstance(odd, list) else [odd]),
    ]
    for call in calls:
        with pytest.raises(ConfigError, match="message"):
            call()
    with pytest.raises(ConfigError, match="message"):
        await memory.aput(odd)
    with pytest.raises(ConfigError, match="message"):
        await block.aput(odd, from_short_term_memory=True)
    with pytest.raises(ConfigError, match="message"):
        await history.aadd_messages(odd if isinstance(odd, list) else [odd])
    assert mem.agent("odd").log() == []
    if odd is not None and odd != "str":
        with pytest.raises(ConfigError, match="input"):
            memory.get(input=odd)


@pytest.mark.parametrize(
    "odd", [object(), {1, 2}, b"x", float("nan"), print, {"a": object()}], ids=lambda odd: type(odd).__name__
)
def test_what_a_message_may_hold_is_taken(mem: DeltaMem, odd: Any) -> None:
    memory = DeltaMemory.from_defaults(mem, "kept", on_error="raise")
    call = ToolCallBlock(tool_call_id="1", tool_name="f", tool_kwargs={"o": odd})
    memory.put_messages([user(FACT, additional_kwargs={"o": odd}), ChatMessage(role="assistant", blocks=[call])])
    memory.set([*memory.get_all(), said("Noted.")])
    assert texts(memory)[0] == FACT and len(texts(memory)) == 3
    memory.wipe()


@pytest.mark.parametrize(
    "call",
    [
        *(lambda store, ttl=ttl: store.put(("a",), "k", {}, ttl=ttl) for ttl in ("x", True, [], float("nan"), 1e300)),
        *(lambda store, value=value: store.batch([PutOp(("a",), "k", value)]) for value in ("x", 5, [])),
        *(lambda store, index=index: store.put(("a",), "k", {"t": "x"}, index=index) for index in ("t", 5, [5], True)),
        *(lambda store, limit=limit: store.search(("a",), limit=limit) for limit in ("x", -1, 1.5, None)),
        *(lambda store, limit=limit: store.list_namespaces(limit=limit) for limit in ("x", -1, 1.5)),
        lambda store: store.search(("a",), offset="x"),
        lambda store: store.batch([SearchOp(("a",), query=5)]),  # type: ignore[arg-type]
        lambda store: store.search(("a",), filter="x"),
        lambda store: store.search(("a",), filter={5: 1}),
    ],
)
def test_odd_operations_of_a_store(mem: DeltaMem, call: Callable[[Any], Any]) -> None:
    store = DeltaMemStore(mem, "store")
    with pytest.raises(DeltaMemError):
        call(store)
    assert store.search(("a",)) == []


def erase(mem: DeltaMem, agent: str) -> None:
    (entry,) = (each for each in mem.agent(agent).log() if each.text == FACT)
    mem.agent(agent).erase(ids=[entry.ref])


@pytest.mark.parametrize(("how", "left"), [(erase, ["Noted."]), (lambda mem, agent: mem.agent(agent).delete(), [])])
@pytest.mark.parametrize("begin", ["put", "set", "history", "resumed"])
def test_a_live_buffer_gives_nothing_that_was_erased(mem: DeltaMem, how: Any, left: list[str], begin: str) -> None:
    agent, turn = f"{begin} {len(left)}", [user(FACT), said("Noted.")]
    memory = DeltaMemory.from_defaults(mem, agent, "s", chat_history=turn if begin == "history" else None)
    if begin == "put":
        memory.put_messages([ChatMessage(role="system", content="Be brief."), *turn])
    elif begin != "history":
        memory.set(turn)
    if begin == "resumed":
        memory = DeltaMemory.from_defaults(mem, agent, "s")
        assert texts(memory) == [FACT, "Noted."]
    other = DeltaMemory.from_defaults(mem, agent, "s")
    chat = DeltaMemChatMessageHistory(mem, agent, "s")
    assert [message.text for message in chat.messages] == [FACT, "Noted."]
    how(mem, agent)
    system = ["Be brief."] if begin == "put" else []
    assert texts(memory) == [*system, *left] and texts(other) == left
    assert [message.text for message in chat.messages] == left
    memory.put(user("What is my code?"))
    assert texts(memory) == [*system, *left, "What is my code?"]  # the open turn stays
    assert all("4417" not in (message.content or "") for message in memory.get())
    memory.put(said("I do not know."))
    assert texts(memory) == [*system, *left, "What is my code?", "I do not know."]


def test_what_was_recalled_in_a_turn_goes_too(mem: DeltaMem) -> None:
    mem.agent("recalled").write([{"role": "user", "content": FACT}], "before")
    memory = DeltaMemory.from_defaults(mem, "recalled", "s")
    memory.put(user("What is my locker code?"))
    assert any("4417" in (message.content or "") for message in memory.get())
    erase(mem, "recalled")
    assert not any("4417" in (message.content or "") for message in memory.get())


def test_a_cleared_history_says_in_the_log_what_it_is(mem: DeltaMem, capsys: pytest.CaptureFixture[str]) -> None:
    history = DeltaMemChatMessageHistory(mem, "cleared", "s")
    history.add_messages([HumanMessage(FACT)])
    history.clear()
    DeltaMemory.from_defaults(mem, "cleared", "s2", chat_history=[user("Hi"), said("Hey")]).reset()
    terminal.show_log(mem.agent("cleared").log())
    shown = " ".join(capsys.readouterr().out.split())
    assert shown.count("new conversation begins here") == 2 and "no text" not in shown
    assert {record.role for record in mem.agent("cleared").recall("locker conversation", k=9).records} == {"user"}
