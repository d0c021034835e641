"""Copies of what holds a memory share the memory; pickles are refused, saying what to do instead."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.language_models import FakeListChatModel
from langchain_core.messages import HumanMessage
from llama_index.core.base.llms.types import ChatMessage

import langchain_deltamem as langchain
import llama_index_deltamem as llama_index
from deltamem_agents import DeltaMem
from deltamem_agents.errors import NotPicklableError

QUESTION = "Where is my locker?"


def run(middleware: Any) -> Any:
    agent = create_agent(FakeListChatModel(responses=["Noted."]), middleware=[middleware])
    return agent.invoke({"messages": [HumanMessage("Hi")]})["messages"][-1].content


MADE: dict[str, tuple[Callable[[DeltaMem], Any], Callable[[Any], Any]]] = {
    "ChatDeltaMem": (
        lambda mem: langchain.ChatDeltaMem(mem=mem, agent_id="alice", max_tokens=2),
        lambda it: it.invoke(QUESTION).content,
    ),
    "retriever": (
        lambda mem: langchain.DeltaMemRetriever(mem=mem, agent_id="alice"),
        lambda it: [document.page_content for document in it.invoke(QUESTION)],
    ),
    "store": (langchain.DeltaMemStore, lambda it: (it.put(("a",), "k", {"n": 1}), it.get(("a",), "k").value)[1]),
    "middleware": (lambda mem: langchain.DeltaMemMiddleware(mem, "alice"), run),
    "history": (
        lambda mem: langchain.DeltaMemChatMessageHistory(mem, "alice"),
        lambda it: [message.text for message in it.messages],
    ),
    "classic": (
        lambda mem: langchain.DeltaMemClassicMemory(mem=mem, agent_id="alice"),
        lambda it: it.load_memory_variables({"input": QUESTION}),
    ),
    "LlamaIndex retriever": (
        lambda mem: llama_index.DeltaMemRetriever(mem, "alice"),
        lambda it: [node.text for node in it.retrieve(QUESTION)],
    ),
    "DeltaMemLLM": (
        lambda mem: llama_index.DeltaMemLLM(mem, "alice", max_tokens=2),
        lambda it: it.complete(QUESTION).text,
    ),
    "DeltaMemory": (
        lambda mem: llama_index.DeltaMemory.from_defaults(mem, "alice", "s"),
        lambda it: [message.content for message in it.get(input=QUESTION)],
    ),
    "block": (
        lambda mem: llama_index.DeltaMemoryBlock(mem, "alice"),
        lambda it: str(it.mem) if hasattr(it, "mem") else it.agent_id,
    ),
    "AgentMemory": (lambda mem: mem.agent("alice"), lambda it: [entry.text for entry in it.log()]),
    "DeltaMem": (lambda mem: mem, lambda it: [each.id for each in it.agents()]),
}
every = pytest.mark.parametrize("name", MADE)


@every
@pytest.mark.parametrize("way", [copy.copy, copy.deepcopy], ids=["copy", "deepcopy"])
def test_a_copy_shares_the_memory(mem: DeltaMem, name: str, way: Callable[[Any], Any]) -> None:
    make, use = MADE[name]
    mem.agent("alice").write([{"role": "user", "content": "My locker is in the east hall."}])
    made = make(mem)
    assert use(way(made)) == use(made)


@every
def test_a_pickle_is_refused(mem: DeltaMem, name: str) -> None:
    made = MADE[name][0](mem)
    with pytest.raises(NotPicklableError, match="cannot be pickled; "):
        pickle.dumps(made)


def test_model_copies_of_pydantic_share_it_too(mem: DeltaMem) -> None:
    for name in ("ChatDeltaMem", "retriever", "DeltaMemory"):
        made = MADE[name][0](mem)
        assert MADE[name][1](made.model_copy(deep=True)) == MADE[name][1](made)
    memory = MADE["DeltaMemory"][0](mem)
    copy.deepcopy(memory).put_messages(
        [ChatMessage(role="user", content="Hi"), ChatMessage(role="assistant", content="Hey")]
    )
    assert [entry.text for entry in mem.agent("alice").log("s")] == ["Hi", "Hey"]
