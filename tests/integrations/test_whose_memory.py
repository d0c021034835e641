"""Whose memory an object of an integration works on: one rule for every class that reads or writes memory in a run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.tools import tool
from langchain_core.language_models import FakeListChatModel
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.runnables import RunnableLambda
from langgraph.checkpoint.memory import InMemorySaver

import langchain_deltamem
import llama_index_deltamem
from deltamem_agents import DeltaMem
from deltamem_agents.errors import ConfigError, InvalidAgentError
from langchain_deltamem import ChatDeltaMem, DeltaMemMiddleware, DeltaMemRetriever
from llama_index_deltamem import DeltaMemLLM

FACTS = {name: f"My locker is in the {name} hall." for name in ("alice", "bob", "admin")}


@pytest.fixture
def mem(mem: DeltaMem) -> DeltaMem:
    for name, fact in FACTS.items():
        mem.agent(name).write([{"role": "user", "content": fact}])
    return mem


@dataclass(frozen=True)
class Way:
    """How a class is asked, with the options of its constructor and what the run names; the agents that it read."""

    ask: Callable[..., set[str]]
    names: tuple[str, ...]  # what of a run can name an agent


class Seeing(FakeListChatModel):
    """Keeps what it is shown."""

    seen: list[str]

    def _call(self, messages: Any, *args: Any, **kwargs: Any) -> str:
        self.seen.append("\n".join(str(message.text) for message in messages))
        return super()._call(messages, *args, **kwargs)


def shown(text: str) -> set[str]:
    return {name for name, fact in FACTS.items() if fact in text}


def by_middleware(mem: DeltaMem, options: dict[str, Any], named: dict[str, str]) -> set[str]:
    model = Seeing(responses=["Noted."], seen=[])
    agent = create_agent(model, middleware=[DeltaMemMiddleware(mem, **options)], context_schema=dict)
    context = {"agent_id": named["context"]} if "context" in named else {}
    agent.invoke({"messages": [HumanMessage("Where is my locker?")]}, _config(named), context=context)
    return shown(model.seen[-1])


def by_chat_model(mem: DeltaMem, options: dict[str, Any], named: dict[str, str]) -> set[str]:
    model = ChatDeltaMem(mem=mem, max_tokens=1, **options)
    call = {"delta_agent_id": named["call"]} if "call" in named else {}
    reply = _within(named, lambda config: model.invoke("Where is my locker?", config, **call))
    return {reply.response_metadata["agent_id"]}


def by_retriever(mem: DeltaMem, options: dict[str, Any], named: dict[str, str]) -> set[str]:
    retriever = DeltaMemRetriever(mem=mem, k=1, **options)
    call = {"agent_id": named["call"]} if "call" in named else {}
    found = _within(named, lambda config: retriever.invoke("Where is my locker?", config, **call))
    return {document.metadata["agent_id"] for document in found}


def by_llm(mem: DeltaMem, options: dict[str, Any], named: dict[str, str]) -> set[str]:
    call = {"delta_agent_id": named["call"]} if "call" in named else {}
    raw = DeltaMemLLM(mem, max_tokens=1, **options).complete("Where is my locker?", **call).raw
    assert raw is not None
    return {raw["agent_id"]}


def _config(named: dict[str, str]) -> Any:
    return {"configurable": {"agent_id": named["configurable"]} if "configurable" in named else {}}


def _within(named: dict[str, str], ask: Callable[[Any], Any]) -> Any:
    """Ask within a graph whose run has a context, or outside of any."""
    if "context" not in named:
        return ask(_config(named))
    from langgraph.graph import START, StateGraph

    got: list[Any] = []
    graph: Any = StateGraph(dict, context_schema=dict)
    graph.add_node("ask", RunnableLambda(lambda state, config: got.append(ask(config)) or {}))
    graph.add_edge(START, "ask")
    graph.compile().invoke({"x": 1}, _config(named), context={"agent_id": named["context"]})
    return got[0]


WAYS = {
    "middleware": Way(by_middleware, ("context", "configurable")),
    "chat model": Way(by_chat_model, ("call", "context", "configurable")),
    "retriever": Way(by_retriever, ("call", "context", "configurable")),
    "LlamaIndex LLM": Way(by_llm, ("call",)),
}
# These are made for one agent, whom no run can change.
FIXED = {
    *("DeltaMemChatMessageHistory", "DeltaMemStore", "DeltaMemClassicMemory"),
    *("DeltaMemory", "DeltaMemoryBlock"),
}
every = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)


def test_every_class_is_known_here() -> None:
    public = {*langchain_deltamem.__all__, *llama_index_deltamem.__all__}
    asked = {"DeltaMemMiddleware", "ChatDeltaMem", "DeltaMemRetriever", "DeltaMemLLM"}
    assert {name for name in public if name[0].isupper()} == asked | FIXED


@every
def test_the_constructors_agent_is_final(mem: DeltaMem, way: Way) -> None:
    assert way.ask(mem, {"agent_id": "alice"}, {}) == {"alice"}
    for name in way.names:
        assert way.ask(mem, {"agent_id": "alice"}, {name: "alice"}) == {"alice"}
        if name == "configurable":  # not trusted: what a client set there is nobody's word
            assert way.ask(mem, {"agent_id": "alice"}, {name: "admin"}) == {"alice"}
            with pytest.raises(ConfigError, match=r"'admin'.*'alice'"):
                way.ask(mem, {"agent_id": "alice", "trust_configurable": True}, {name: "admin"})
        else:
            with pytest.raises(ConfigError, match=r"'admin'.*'alice'"):
                way.ask(mem, {"agent_id": "alice"}, {name: "admin"})


@every
def test_a_default_gives_way_to_the_run(mem: DeltaMem, way: Way) -> None:
    assert way.ask(mem, {"default_agent_id": "alice"}, {}) == {"alice"}
    for name in way.names:
        trusted = {"trust_configurable": True} if name == "configurable" else {}
        assert way.ask(mem, {"default_agent_id": "alice", **trusted}, {name: "bob"}) == {"bob"}
    if "configurable" in way.names:
        assert way.ask(mem, {"default_agent_id": "alice"}, {"configurable": "admin"}) == {"alice"}


@every
def test_nobody_named_raises_at_the_first_call(mem: DeltaMem, way: Way) -> None:
    with pytest.raises(ConfigError, match="no agent id"):
        way.ask(mem, {}, {})
    if "configurable" in way.names:
        with pytest.raises(ConfigError, match="no agent id"):
            way.ask(mem, {}, {"configurable": "admin"})


@every
def test_what_is_no_id_is_refused(mem: DeltaMem, way: Way) -> None:
    for bad in ("", " ", "x" * 300, 7):
        with pytest.raises((InvalidAgentError, ValueError)):
            way.ask(mem, {"agent_id": bad}, {})
        with pytest.raises((InvalidAgentError, ValueError)):
            way.ask(mem, {"default_agent_id": bad}, {})
    with pytest.raises(ConfigError, match="both agent_id and default_agent_id"):
        way.ask(mem, {"agent_id": "alice", "default_agent_id": "bob"}, {})


@pytest.mark.parametrize("way", [WAYS["chat model"], WAYS["retriever"]], ids=["chat model", "retriever"])
def test_a_callable_is_given_the_config(mem: DeltaMem, way: Way) -> None:
    tenant = {"agent_id": lambda config: {"admin": "bob"}.get(config["configurable"].get("agent_id"), "alice")}
    assert way.ask(mem, tenant, {}) == {"alice"}
    assert way.ask(mem, tenant, {"configurable": "admin"}) == {"bob"}
    with pytest.raises(ConfigError, match=r"'admin'.*'alice'"):
        way.ask(mem, tenant, {"call": "admin"})


def test_a_sub_agent_keeps_its_own_memory(mem: DeltaMem) -> None:
    inner = create_agent(FakeListChatModel(responses=["Found."]), middleware=[DeltaMemMiddleware(mem, "librarian")])

    @tool
    def ask_librarian(text: str) -> str:
        """Ask."""
        return str(inner.invoke({"messages": [HumanMessage(text)]})["messages"][-1].text)

    class Calling(FakeListChatModel):
        turn: int = 0

        def bind_tools(self, *args: Any, **kwargs: Any) -> Any:
            return self

        def _generate(self, messages: Any, *args: Any, **kwargs: Any) -> Any:
            made = super()._generate(messages, *args, **kwargs)
            if not any(message.type == "tool" for message in messages):
                call = {"name": "ask_librarian", "args": {"text": "Any books on tea?"}, "id": "c"}
                made.generations[0].message = AIMessage("", tool_calls=[call])
            return made

    middleware = DeltaMemMiddleware(mem, trust_configurable=True)
    outer = create_agent(Calling(responses=["Yes."]), [ask_librarian], middleware=[middleware])
    outer.invoke({"messages": [HumanMessage("Ask for tea.")]}, {"configurable": {"agent_id": "bob"}})
    assert [entry.text for entry in mem.agent("librarian").log()] == ["Any books on tea?", "Found."]
    assert "Any books on tea?" not in [entry.text for entry in mem.agent("bob").log() if entry.role == "user"]


def test_two_memories_in_one_agent_lose_nothing(mem: DeltaMem) -> None:
    saver = InMemorySaver()
    both = [DeltaMemMiddleware(mem, "user"), DeltaMemMiddleware(mem, "team", write="human")]
    for text in ("My boat is called Petrel.", "We meet on Mondays."):
        agent = create_agent(FakeListChatModel(responses=["Noted."]), middleware=both, checkpointer=saver)
        agent.invoke({"messages": [HumanMessage(text)]}, {"configurable": {"thread_id": "t"}})
    said = {name: [entry.text for entry in mem.agent(name).log()] for name in ("user", "team")}
    assert said["user"] == ["My boat is called Petrel.", "Noted.", "We meet on Mondays.", "Noted."]
    assert said["team"] == ["My boat is called Petrel.", "We meet on Mondays."]


def test_a_middleware_takes_a_memory_and_no_url() -> None:
    with pytest.raises(ConfigError, match="mem is a str"):
        DeltaMemMiddleware("sqlite:///x.db")  # type: ignore[arg-type]
