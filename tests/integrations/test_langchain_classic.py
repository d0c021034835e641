"""`DeltaMemClassicMemory` in chains of `langchain_classic`, which warn that they are deprecated; the bundled model."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from langchain_classic.chains import ConversationChain, LLMChain
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder

from deltamem_agents import DeltaMem
from deltamem_agents.errors import ConfigError, InvalidAgentError
from langchain_deltamem import ChatDeltaMem, DeltaMemClassicMemory

pytestmark = pytest.mark.filterwarnings("ignore::langchain_core._api.LangChainDeprecationWarning")
FACT, QUESTION = "My locker code is 4417.", "What is my locker code?"


@pytest.fixture(params=[False, True], ids=["sync", "async"])
def say(request: pytest.FixtureRequest) -> Callable[..., dict[str, Any]]:
    def run(chain: Any, **given: str) -> dict[str, Any]:
        return asyncio.run(chain.ainvoke(given)) if request.param else chain.invoke(given)

    return run


def test_a_conversation_chain_goes_on_where_it_was(
    mem: DeltaMem, prompts: list[str], say: Callable[..., dict[str, Any]]
) -> None:
    llm = ChatDeltaMem(mem=mem, agent_id="alice", mode="state", max_tokens=8)

    def chain(session: str) -> ConversationChain:
        return ConversationChain(llm=llm, memory=DeltaMemClassicMemory(mem=mem, agent_id="alice", session_id=session))

    first = say(chain("monday"), input=FACT)
    assert first["history"] == ""
    again = say(chain("monday"), input=QUESTION)
    assert again["history"] == f"Human: {FACT}\nAI: {first['response']}"
    assert FACT in prompts[-1]
    other = say(chain("tuesday"), input=QUESTION)  # by recall
    assert FACT in other["history"] and "AI:" not in other["history"]
    assert [entry.text for entry in mem.agent("alice").log("monday")][::2] == [FACT, QUESTION]


def test_messages_for_a_chat_prompt(mem: DeltaMem) -> None:
    memory = DeltaMemClassicMemory(mem=mem, agent_id="alice", return_messages=True, window=2, input_key="input")
    prompt = ChatPromptTemplate.from_messages([MessagesPlaceholder("history"), ("human", "{input} ({tone})")])
    chain = LLMChain(llm=ChatDeltaMem(mem=mem, agent_id="alice", max_tokens=4), prompt=prompt, memory=memory)
    for text in (FACT, "My dog is called Rex.", "I live in Oslo."):
        chain.invoke({"input": text, "tone": "brief"})
    history = memory.load_memory_variables({"input": QUESTION})["history"]
    assert [type(message) for message in history] == [SystemMessage, HumanMessage, AIMessage]
    assert FACT in history[0].text
    assert history[1].text == "I live in Oslo." and "Oslo" not in history[0].text


def test_clear_keeps_the_memory(mem: DeltaMem) -> None:
    memory = DeltaMemClassicMemory(mem=mem, agent_id="alice")
    memory.save_context({"input": FACT}, {"response": "Noted."})
    memory.clear()
    assert "AI: Noted." not in memory.load_memory_variables({"input": QUESTION})["history"]
    assert FACT in memory.load_memory_variables({"input": QUESTION})["history"]
    assert memory.load_memory_variables({})["history"] == ""
    assert memory.memory_variables == ["history"]


def test_bad_input(mem: DeltaMem) -> None:
    for bad in ({"mode": "both"}, {"k": 0}, {"budget": -1}, {"window": -1}):
        with pytest.raises(ConfigError):
            DeltaMemClassicMemory(mem=mem, agent_id="alice", **bad)
    with pytest.raises(InvalidAgentError):
        DeltaMemClassicMemory(mem=mem, agent_id="")
    with pytest.raises(ConfigError, match=r"a, b.*input_key"):
        DeltaMemClassicMemory(mem=mem, agent_id="alice").save_context({"a": "x", "b": "y"}, {"response": "z"})


def test_it_is_imported_on_use_and_says_what_is_missing(python: Callable[..., Any]) -> None:
    hidden = """
import sys
sys.modules["langchain_classic"] = None
import langchain_deltamem
assert "langchain_deltamem.classic" not in sys.modules
try:
    langchain_deltamem.DeltaMemClassicMemory
except ImportError as error:
    print(error)
"""
    done = python("-c", hidden)
    assert done.returncode == 0, done.stderr
    assert "install langchain-classic" in done.stdout
