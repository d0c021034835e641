"""Bad and odd input of the LangChain classes, and that none of our modules uses what is deprecated."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.language_models import FakeListChatModel
from langchain_core.messages import AIMessage, HumanMessage

from deltamem_agents import DeltaMem
from deltamem_agents.errors import ClosedError, ConfigError, InvalidAgentError
from langchain_deltamem import (
    ChatDeltaMem,
    DeltaMemChatMessageHistory,
    DeltaMemMiddleware,
    DeltaMemRetriever,
    DeltaMemStore,
)

PICTURE = {"type": "image", "base64": "aGk=", "mime_type": "image/png"}


def agent_with(middleware: DeltaMemMiddleware) -> Any:
    return create_agent(FakeListChatModel(responses=["Noted."]), middleware=[middleware])


def run(middleware: DeltaMemMiddleware, *messages: Any) -> None:
    agent_with(middleware).invoke({"messages": list(messages)})


def test_an_agent_id_that_is_none(mem: DeltaMem) -> None:
    with pytest.raises(ConfigError, match=r"agent_id=….*context=.*configurable"):
        run(DeltaMemMiddleware(mem), HumanMessage("Hi"))
    with pytest.raises(ConfigError, match="agent_id=…"):
        DeltaMemRetriever(mem=mem).invoke("Hi")
    for bad in (7, "", "  ", "x" * 300):
        with pytest.raises(InvalidAgentError):
            run(DeltaMemMiddleware(mem, bad), HumanMessage("Hi"))  # type: ignore[arg-type]
        with pytest.raises(InvalidAgentError):
            DeltaMemStore(mem, bad)  # type: ignore[arg-type]
        with pytest.raises(InvalidAgentError):
            DeltaMemChatMessageHistory(mem, bad)  # type: ignore[arg-type]
    assert mem.agents() == []


def test_messages_without_content(mem: DeltaMem) -> None:
    run(DeltaMemMiddleware(mem, "alice"), HumanMessage(""), AIMessage(""), HumanMessage([]), HumanMessage("  \n"))
    assert [entry.text for entry in mem.agent("alice").log()] == ["Noted."]


def test_images_are_kept_and_their_text_is_folded(mem: DeltaMem) -> None:
    said = [{"type": "text", "text": "My dog is Rex."}, PICTURE]
    run(DeltaMemMiddleware(mem, "alice"), HumanMessage(said), HumanMessage([PICTURE]))
    log = mem.agent("alice").log()
    assert log[0].content == said and log[0].text == "My dog is Rex."
    assert log[1].content == [PICTURE] and log[1].text == ""
    mem.agent("bob").write([{"role": "user", "content": "My dog is Rex."}, {"role": "assistant", "content": "Noted."}])
    alice, bob = mem.agent("alice").state(), mem.agent("bob").state()
    assert all(float((alice[name] - bob[name]).norm()) <= 1e-4 * float(bob[name].norm()) for name in bob)
    assert DeltaMemChatMessageHistory(mem, "alice").messages[0].content == said


@pytest.mark.parametrize(
    "make",
    [
        lambda mem, **bad: ChatDeltaMem(mem=mem, agent_id="alice", **bad),
        lambda mem, **bad: DeltaMemMiddleware(mem, "alice", **bad),
    ],
    ids=["chat model", "middleware"],
)
@pytest.mark.parametrize("bad", [{"k": 0}, {"k": -1}, {"k": True}, {"mode": "both"}, {"mode": ""}, {"budget": -1}])
def test_options_out_of_range(mem: DeltaMem, make: Callable[..., Any], bad: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        made = make(mem, **bad)
        assert made is None, "pydantic took it"


def test_k_of_a_retriever(mem: DeltaMem) -> None:
    with pytest.raises(ConfigError, match="k is 0"):
        DeltaMemRetriever(mem=mem, agent_id="alice", k=0)
    with pytest.raises(ConfigError, match="k is -3"):
        DeltaMemRetriever(mem=mem, agent_id="alice").invoke("Hi", k=-3)


async def test_a_closed_memory(mem: DeltaMem) -> None:
    strict = DeltaMemMiddleware(mem, "alice", on_error="raise")  # else a run goes on: see test_closed_memories.py
    agent, history = agent_with(strict), DeltaMemChatMessageHistory(mem, "alice")
    store, retriever = DeltaMemStore(mem), DeltaMemRetriever(mem=mem, agent_id="alice")
    mem.close()
    given: Any = {"messages": [HumanMessage("Hi")]}
    with pytest.raises(ClosedError):
        agent.invoke(given)
    with pytest.raises(ClosedError):
        await agent.ainvoke(given)
    with pytest.raises(ClosedError):
        history.add_messages([HumanMessage("Hi")])
    with pytest.raises(ClosedError):
        await history.aget_messages()
    with pytest.raises(ClosedError):
        await store.aget(("a",), "k")
    with pytest.raises(ClosedError):
        retriever.invoke("Hi")
    with pytest.raises(ClosedError):
        DeltaMemStore(mem)


@pytest.mark.slow  # a process that imports torch and LangChain
def test_nothing_of_ours_is_deprecated(python: Callable[..., Any], url: str) -> None:
    """Every class in use, every deprecation an error."""
    script = """
import sys, warnings
import langchain.agents, langgraph.store.base, transformers, sqlalchemy  # their own imports are not ours to judge
from langchain_core.language_models import FakeListChatModel
from langchain_core._api import LangChainDeprecationWarning
from deltamem_agents import DeltaMem
warnings.simplefilter("error", DeprecationWarning)
warnings.simplefilter("error", PendingDeprecationWarning)
warnings.simplefilter("error", LangChainDeprecationWarning)
from langchain_deltamem import *
from langchain_deltamem import DeltaMemStore
with DeltaMem.open("tiny", url=sys.argv[1], embedder=False) as mem:
    llm = ChatDeltaMem(mem=mem, agent_id="alice", max_tokens=4)
    agent = langchain.agents.create_agent(llm, middleware=[DeltaMemMiddleware(mem, "alice", tools=True)])
    agent.invoke({"messages": [("user", "Hi")]})
    list(agent.stream({"messages": [("user", "Hi")]}, stream_mode="messages"))
    DeltaMemRetriever(mem=mem, agent_id="alice").invoke("Hi")
    history = DeltaMemChatMessageHistory(mem, "alice", "s")
    history.add_messages([*history.messages])
    store = DeltaMemStore(mem)
    store.put(("a",), "k", {"text": "tea"}, ttl=1)
    store.search(("a",), query="tea")
    llm.with_structured_output({"title": "T", "type": "object", "properties": {}}).invoke("Hi")
print("clean")
"""
    done = python("-c", script, url)
    assert done.returncode == 0, done.stderr
    assert "clean" in done.stdout
