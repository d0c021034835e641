"""What LangChain sees of memory from outside: retrievers' runs, tokens counted by the backbone's tokenizer, options."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.language_models import FakeListChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage, trim_messages
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import tool

from deltamem_agents import DeltaMem
from deltamem_agents.errors import ConfigError, UnsupportedModelError
from langchain_deltamem import ChatDeltaMem, DeltaMemClassicMemory, DeltaMemMiddleware, DeltaMemRetriever

FACT, QUESTION = "My locker code is 4417.", "What is my locker code?"


class Watching(BaseCallbackHandler):
    """Retrievers' runs, as callbacks see them."""

    def __init__(self) -> None:
        self.seen: list[tuple[Any, ...]] = []

    def on_retriever_start(self, serialized: Any, query: str, **known: Any) -> None:
        self.seen.append(
            ("start", query, known["name"], "deltamem" in known["tags"], known["parent_run_id"] is not None)
        )

    def on_retriever_end(self, documents: Any, **known: Any) -> None:
        self.seen.append(("end", *(each.page_content for each in documents)))

    def on_retriever_error(self, error: BaseException, **known: Any) -> None:
        self.seen.append(("error", type(error).__name__))


def told(mem: DeltaMem) -> DeltaMem:
    mem.agent("alice").write([{"role": "user", "content": FACT}])
    return mem


def runnables(mem: DeltaMem) -> dict[str, tuple[Any, Any]]:
    """By the name of the retriever's run: a runnable that recalls, and its input."""
    memory = DeltaMemClassicMemory(mem=mem, agent_id="alice", session_id="other")
    model = FakeListChatModel(responses=["Noted."])
    return {
        "DeltaMemMiddleware.recall": (
            create_agent(model, middleware=[DeltaMemMiddleware(mem, "alice", name="DeltaMemMiddleware")]),
            {"messages": [HumanMessage(QUESTION)]},
        ),
        "DeltaMemClassicMemory.recall": (
            RunnableLambda(memory.load_memory_variables, memory.aload_memory_variables),
            {"input": QUESTION},
        ),
        "DeltaMemRetriever": (
            DeltaMemRetriever(mem=mem, agent_id="alice", tags=["deltamem"]) | (lambda found: found),
            QUESTION,
        ),
    }


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_recall_is_a_retrievers_run(mem: DeltaMem, asynchronous: bool) -> None:
    for name, (runnable, given) in runnables(told(mem)).items():
        watching = Watching()
        config: Any = {"callbacks": [watching], "configurable": {"thread_id": name}}
        asyncio.run(runnable.ainvoke(given, config)) if asynchronous else runnable.invoke(given, config)
        assert watching.seen[0] == ("start", QUESTION, name, True, True), name
        assert watching.seen[1][0] == "end" and FACT in watching.seen[1] and len(watching.seen) == 2, name


async def test_a_recall_is_among_the_events(mem: DeltaMem) -> None:
    for name, (runnable, given) in runnables(told(mem)).items():
        events = [e async for e in runnable.astream_events(given, {"configurable": {"thread_id": name}}, version="v2")]
        started, ended = (
            [each for each in events if each["event"] == f"on_retriever_{kind}"] for kind in ("start", "end")
        )
        assert [each["name"] for each in (*started, *ended)] == [name, name]
        assert started[0]["data"]["input"] == {"query": QUESTION} and "deltamem" in started[0]["tags"]
        assert FACT in [each.page_content for each in ended[0]["data"]["output"]] and started[0]["parent_ids"]


def test_a_recall_that_fails_is_seen_and_costs_nothing(mem: DeltaMem, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: Any, **__: Any) -> Any:
        raise ConnectionError("503")

    monkeypatch.setattr(mem.retriever, "search", away)
    watching, (agent, given) = Watching(), runnables(told(mem))["DeltaMemMiddleware.recall"]
    assert agent.invoke(given, {"callbacks": [watching]})["messages"][-1].text == "Noted."
    assert [each[0] for each in watching.seen] == ["start", "error"]


def test_a_tools_recall_is_one_too(mem: DeltaMem) -> None:
    call = AIMessage("", tool_calls=[{"name": "recall", "args": {"query": "locker code"}, "id": "c1"}])

    class Calling(FakeListChatModel):
        def bind_tools(self, *_: Any, **__: Any) -> Any:
            return self

        def _generate(self, messages: Any, *args: Any, **kwargs: Any) -> Any:
            result = super()._generate(messages, *args, **kwargs)
            if not isinstance(messages[-1], ToolMessage):
                result.generations[0].message = call.model_copy()
            return result

    watching = Watching()
    agent = create_agent(
        Calling(responses=["Fine."]), middleware=[DeltaMemMiddleware(told(mem), "alice", tools=True, name="memory")]
    )
    agent.invoke({"messages": [HumanMessage("Search.")]}, {"callbacks": [watching]})
    assert [each[1:3] for each in watching.seen if each[0] == "start"] == [
        ("Search.", "memory.recall"),
        ("locker code", "recall.search"),
        ("Search.", "memory.recall"),
    ]


# Tokens

DIALOGUE: list[BaseMessage] = [
    SystemMessage("Be brief."),
    HumanMessage([{"type": "text", "text": FACT}]),
    AIMessage("Noted: 4417.<|end|>"),
    HumanMessage("A lone \ud83d surrogate, and a NUL: \0."),
    AIMessage("", tool_calls=[{"name": "look_up", "args": {"word": "teal"}, "id": "c1"}]),
    ToolMessage("teal: a colour", tool_call_id="c1"),
    HumanMessage(QUESTION),
]


@tool
def look_up(word: str) -> str:
    """Look a word up."""
    return word


def test_tokens_are_the_backbones(mem: DeltaMem) -> None:
    llm, tokenizer = ChatDeltaMem(mem=mem, agent_id="nobody", max_tokens=2), mem.engine.tokenizer
    for text in ("", FACT, "naïve 猫 🐈", "x" * 5_000):
        assert llm.get_token_ids(text) == tokenizer.encode(text, add_special_tokens=False)
        assert llm.get_num_tokens(text) == len(llm.get_token_ids(text))
    assert tokenizer.decode(llm.get_token_ids("<|end|>")).strip() == "<|end|>" and llm.get_num_tokens("<|end|>") > 1
    for messages in (DIALOGUE[:2], DIALOGUE[:4], DIALOGUE):  # nobody's memory adds nothing
        assert llm.get_num_tokens_from_messages(messages) == llm.invoke(messages).usage_metadata["input_tokens"]
    shown = llm.get_num_tokens_from_messages(DIALOGUE, [look_up])
    assert shown == llm.bind_tools([look_up]).invoke(DIALOGUE).usage_metadata["input_tokens"]
    assert shown > llm.get_num_tokens_from_messages(DIALOGUE) > 0 == llm.get_num_tokens_from_messages([])
    parts = [llm.get_num_tokens_from_messages([each]) for each in (*DIALOGUE, HumanMessage(""), SystemMessage(""))]
    assert all(parts[:-1])
    assert ChatDeltaMem(mem=mem, agent_id="a", custom_get_token_ids=lambda text: [0]).get_num_tokens(FACT) == 1


def test_messages_are_trimmed_to_tokens(mem: DeltaMem) -> None:
    llm = ChatDeltaMem(mem=mem, agent_id="alice")
    said: list[BaseMessage] = [
        kind(f"{word} {number}. " * 9)
        for number in range(30)
        for kind, word in ((HumanMessage, "Fact"), (AIMessage, "Yes"))
    ]
    for limit in (100, 400, 900):
        kept = trim_messages(said, max_tokens=limit, token_counter=llm, strategy="last", start_on="human")
        assert 0 < len(kept) < len(said) and kept == said[-len(kept) :]
        assert (
            llm.get_num_tokens_from_messages(kept) <= limit < llm.get_num_tokens_from_messages(said[-len(kept) - 2 :])
        )


def test_a_backbone_that_is_shown_no_tools_claims_none(mem: DeltaMem, monkeypatch: pytest.MonkeyPatch) -> None:
    llm = ChatDeltaMem(mem=mem, agent_id="alice", max_tokens=2)
    assert llm.bind_tools([look_up]).invoke("Hi")
    monkeypatch.setitem(vars(mem.engine.rendering), "takes_tools", False)
    for call in (
        lambda: llm.bind_tools([look_up]),
        lambda: llm.with_structured_output({"title": "a", "description": "b", "type": "object", "properties": {}}),
        lambda: llm.bind(tools=[{"type": "function", "function": {"name": "f"}}]).invoke("Hi"),
        lambda: create_agent(llm, [look_up]).invoke({"messages": [HumanMessage("Hi")]}),
    ):
        with pytest.raises(UnsupportedModelError, match="does not show them to the model"):
            call()
    assert llm.bind_tools([]).invoke("Hi")


# Options


@pytest.mark.parametrize("kind", [ChatDeltaMem, DeltaMemRetriever, DeltaMemClassicMemory])
def test_unknown_options_are_refused_by_name(mem: DeltaMem, kind: Any) -> None:
    with pytest.raises(ConfigError, match=r"agent.*did you mean 'agent_id'"):
        kind(mem=mem, agent="alice")
    with pytest.raises(ConfigError, match="has no option 'temprature'"):
        kind(mem=mem, agent_id="alice", temprature=0.5)
    assert kind(mem=mem, agent_id="alice").agent_id == "alice"
