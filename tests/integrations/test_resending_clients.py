"""Frameworks whose conversations are summarised, trimmed or sent again: nothing is lost, doubled or brought back."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import (
    AgentMiddleware,
    PIIMiddleware,
    SummarizationMiddleware,
    after_model,
    before_model,
)
from langchain_core.language_models import FakeListChatModel
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, RemoveMessage, SystemMessage
from langchain_core.runnables.history import RunnableWithMessageHistory
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph.message import REMOVE_ALL_MESSAGES
from llama_index.core.llms import ChatMessage

from deltamem_agents import DeltaMem
from langchain_deltamem import ChatDeltaMem, DeltaMemChatMessageHistory, DeltaMemMiddleware
from llama_index_deltamem import DeltaMemory, DeltaMemoryBlock

THREAD: Any = {"configurable": {"thread_id": "t"}}
FACTS = ["My locker is 4417.", "My boat is called Petrel.", "I like tea.", "Which locker is mine?"]


@tool("look_up")
def looks_up(word: str) -> str:
    """Look a word up."""
    return f"{word}: a word"


class Scripted(GenericFakeChatModel):
    def bind_tools(self, tools: Any, **_: Any) -> Any:
        return self


def calls(word: str) -> AIMessage:
    return AIMessage("", tool_calls=[{"name": "look_up", "args": {"word": word}, "id": f"call-{word}"}])


def run(agent: Any, asynchronous: bool, *given: Any) -> Any:
    return asyncio.run(agent.ainvoke(*given)) if asynchronous else agent.invoke(*given)


def texts(mem: DeltaMem, session: str = "t") -> list[str]:
    return [entry.text for entry in mem.agent("alice").log(session)]


def keep(count: int) -> Callable[..., dict[str, Any] | None]:
    """Trims to the last so many messages."""
    return lambda state, runtime: {"messages": [RemoveMessage(id=REMOVE_ALL_MESSAGES), *state["messages"][-count:]]}


def delete_all(state: Any, runtime: Any) -> dict[str, Any]:
    return {"messages": [RemoveMessage(id=each.id) for each in state["messages"][:-1]]}


def summarising() -> AgentMiddleware[Any, Any]:
    model = FakeListChatModel(responses=["They spoke of a locker."])
    return SummarizationMiddleware(model, trigger=("messages", 2), keep=("messages", 1))


OTHERS: dict[str, Callable[[], AgentMiddleware[Any, Any]]] = {
    "summarised": summarising,
    "trimmed before the model": lambda: before_model(keep(2)),
    "trimmed after it": lambda: after_model(keep(1)),
    "removed after it": lambda: after_model(delete_all),
}


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("name", OTHERS)
def test_what_other_middleware_removes_is_kept(
    mem: DeltaMem, monkeypatch: pytest.MonkeyPatch, name: str, first: bool, asynchronous: bool
) -> None:
    asked: list[str] = []
    recall = type(mem.agent("alice")).recall
    monkeypatch.setattr(
        "deltamem_agents.memory.agent.AgentMemory.recall",
        lambda self, query, **options: asked.append(query) or recall(self, query, **options),  # type: ignore[func-returns-value]
    )
    monkeypatch.setattr(
        "deltamem_agents.memory.agent.AgentMemory.arecall",
        lambda self, query, **options: asyncio.to_thread(self.recall, query, **options),
    )
    spoken: list[Any] = []
    for number, fact in enumerate(FACTS):
        spoken += [fact, calls(f"teal{number}"), calls(f"cello{number}"), AIMessage(f"Noted {number}.")]
    model = Scripted(messages=iter([each for each in spoken if not isinstance(each, str)]))
    ours, other = DeltaMemMiddleware(mem, "alice"), OTHERS[name]()
    chain = [other, ours] if first else [ours, other]
    agent = create_agent(model, [looks_up], middleware=chain, checkpointer=InMemorySaver())
    for fact in FACTS:
        run(agent, asynchronous, {"messages": [HumanMessage(fact)]}, THREAD)
    wanted = [
        text
        for number, fact in enumerate(FACTS)
        for text in (fact, "", f"teal{number}: a word", "", f"cello{number}: a word", f"Noted {number}.")
    ]
    assert texts(mem) == wanted
    assert set(asked) == set(FACTS)


@pytest.mark.parametrize("saved", [False, True])
def test_a_summary_is_nothing_that_was_said(mem: DeltaMem, saved: bool) -> None:
    """Not as the client has it, either: without the mark that LangChain gives it."""
    model, told = (
        FakeListChatModel(responses=["Hello.", "It is 4417."]),
        "Here is a summary of the conversation to date:",
    )
    agent = create_agent(
        model, middleware=[DeltaMemMiddleware(mem, "alice")], checkpointer=InMemorySaver() if saved else None
    )
    agent.invoke({"messages": [HumanMessage(f"{told}\n\nThey met."), HumanMessage(FACTS[0])]}, THREAD)
    assert texts(mem) == [FACTS[0], "Hello."]
    agent.invoke({"messages": [HumanMessage(FACTS[0]), HumanMessage(f"{told}\n\nA locker.")]}, THREAD)
    assert not any(told in text for text in texts(mem))


@pytest.mark.parametrize("asynchronous", [False, True])
def test_the_question_is_kept_when_the_agent_begins(mem: DeltaMem, asynchronous: bool) -> None:
    class Broken(FakeListChatModel):
        down: bool = True

        def _call(self, *args: Any, **kwargs: Any) -> str:
            if self.down:
                raise RuntimeError("no model")
            return super()._call(*args, **kwargs)

    model = Broken(responses=["Noted."])
    agent = create_agent(model, middleware=[DeltaMemMiddleware(mem, "alice")], checkpointer=InMemorySaver())
    for _ in range(2):  # tried again
        with pytest.raises(RuntimeError, match="no model"):
            run(agent, asynchronous, {"messages": [HumanMessage(FACTS[0])]}, THREAD)
        assert texts(mem) == [FACTS[0]]
    with pytest.raises(RuntimeError, match="no model"):
        run(agent, asynchronous, None, THREAD)  # resumed
    model.down = False
    run(agent, asynchronous, None, THREAD)
    assert texts(mem) == [FACTS[0], "Noted."]
    run(agent, asynchronous, {"messages": [HumanMessage(FACTS[0])]}, THREAD)  # said again
    assert texts(mem) == [FACTS[0], "Noted."] * 2


def test_what_is_redacted_within_the_run_is_nowhere(mem: DeltaMem) -> None:
    agent = create_agent(
        FakeListChatModel(responses=["Noted."]),
        middleware=[DeltaMemMiddleware(mem, "alice"), PIIMiddleware("email", strategy="redact")],
        checkpointer=InMemorySaver(),
    )
    for text in ("I am ann@example.org.", "I like tea."):
        agent.invoke({"messages": [HumanMessage(text)]}, THREAD)
    assert texts(mem) == ["I am [REDACTED_EMAIL].", "Noted.", "I like tea.", "Noted."]
    said = mem.store.messages.ever_said("alice", "t")
    assert not any("ann@example" in each.wording for each in said)


# Clients that send their history


class Client:
    """Keeps a conversation, and sends it to one of the integrations with each question."""

    def __init__(self, mem: DeltaMem) -> None:
        self.mem = mem
        self.history: list[tuple[str, str]] = []

    def reply(self, question: str) -> str:
        return f"Noted: {question}"

    def say(self, question: str, sent: Sequence[tuple[str, str]] | None = None) -> None:
        history = list(self.history if sent is None else sent)
        self.send([*history, ("user", question)], f"Noted: {question}")
        self.history += [("user", question), ("assistant", f"Noted: {question}")]

    def send(self, history: list[tuple[str, str]], reply: str) -> None:
        raise NotImplementedError


class ToAgent(Client):
    def send(self, history: list[tuple[str, str]], reply: str) -> None:
        agent = create_agent(FakeListChatModel(responses=[reply]), middleware=[DeltaMemMiddleware(self.mem, "alice")])
        agent.invoke({"messages": history}, THREAD)


class ToAsyncAgent(Client):
    def send(self, history: list[tuple[str, str]], reply: str) -> None:
        agent = create_agent(FakeListChatModel(responses=[reply]), middleware=[DeltaMemMiddleware(self.mem, "alice")])
        asyncio.run(agent.ainvoke({"messages": history}, THREAD))


class ToThread(Client):
    """The state of the thread has what was sent before, too."""

    def __init__(self, mem: DeltaMem) -> None:
        super().__init__(mem)
        self.saver = InMemorySaver()

    def send(self, history: list[tuple[str, str]], reply: str) -> None:
        agent = create_agent(
            FakeListChatModel(responses=[reply]),
            middleware=[DeltaMemMiddleware(self.mem, "alice")],
            checkpointer=self.saver,
        )
        agent.invoke({"messages": history}, THREAD)


class ToHistory(Client):
    def send(self, history: list[tuple[str, str]], reply: str) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            chain = RunnableWithMessageHistory(
                FakeListChatModel(responses=[reply]),  # type: ignore[arg-type]  # a model, as in its documentation
                lambda session: DeltaMemChatMessageHistory(self.mem, "alice", session),
            )
        given = [HumanMessage(text) if role == "user" else AIMessage(text) for role, text in history]
        chain.invoke(given, {"configurable": {"session_id": "t"}})


class ToMemory(Client):
    def send(self, history: list[tuple[str, str]], reply: str) -> None:
        given = [ChatMessage(role=role, content=text) for role, text in history]
        memory = DeltaMemory.from_defaults(self.mem, "alice", "t", chat_history=given)
        memory.put(ChatMessage(role="assistant", content=reply))


class ToMemoryAndPut(Client):
    def send(self, history: list[tuple[str, str]], reply: str) -> None:
        given = [ChatMessage(role=role, content=text) for role, text in history]
        memory = DeltaMemory.from_defaults(self.mem, "alice", "t", chat_history=given[:-1])
        memory.put(given[-1])
        memory.put(ChatMessage(role="assistant", content=reply))


class ToBlock(Client):
    def send(self, history: list[tuple[str, str]], reply: str) -> None:
        given = [ChatMessage(role=role, content=text) for role, text in [*history, ("assistant", reply)]]
        for each in given:
            each.additional_kwargs["session_id"] = "t"
        asyncio.run(DeltaMemoryBlock(self.mem, "alice").aput(given))


CLIENTS = (ToAgent, ToAsyncAgent, ToThread, ToHistory, ToMemory, ToMemoryAndPut, ToBlock)


@pytest.fixture(params=CLIENTS, ids=lambda each: each.__name__)
def client(request: pytest.FixtureRequest, mem: DeltaMem) -> Client:
    made: Client = request.param(mem)
    return made


def test_a_client_sends_its_history(client: Client) -> None:
    """Trims line breaks, leaves the middle or the beginning out, edits; and three messages are erased meanwhile."""
    mem = client.mem
    for fact in ["Hi", *FACTS[:3], "ok", "ok"]:
        client.say(fact)
    told = [text for _, text in client.history]
    assert texts(mem) == told
    log = mem.agent("alice").log()
    receipt = mem.agent("alice").erase(ids=[log[2].ref, log[3].ref, log[8].ref], wait=False)
    assert receipt.remaining == {"alice": [log[2].ref, log[3].ref, log[8].ref]}
    told = [text for place, text in enumerate(told) if place not in (2, 3, 8)]
    client.say("Which boat is mine?")
    client.say("And tea?", [(role, f" {text.strip()}\n") for role, text in client.history])
    client.say("And now?", [*client.history[:2], *client.history[6:]])
    client.say("ok", client.history[-4:] if not isinstance(client, ToBlock) else None)
    for question in ("Which boat is mine?", "And tea?", "And now?", "ok"):
        told += [question, client.reply(question)]
    assert texts(mem) == told
    client.say(FACTS[0])  # on purpose
    assert texts(mem) == [*told, FACTS[0], client.reply(FACTS[0])]
    mem.agent("alice").erase(ids=[log[2].ref, log[3].ref], tombstone=False, wait=False)
    client.say("Bye")
    assert texts(mem).count(FACTS[0]) == 2 and texts(mem)[-2:] == ["Bye", "Noted: Bye"]


@pytest.mark.parametrize("kind", [ToAgent, ToAsyncAgent, ToMemory])
def test_an_answer_is_drawn_again(mem: DeltaMem, kind: type[Client]) -> None:
    client = kind(mem)
    for text in ("Hi", "Tea?", "Bye"):
        client.say(text)
    told = texts(mem)
    for reply, more in (("Noted: Bye", []), ("Other", ["Other"]), ("Other", [])):
        client.send(client.history[:5], reply)
        told += more
        assert texts(mem) == told
    client.send(client.history[:3], "Coffee!")
    client.send([*client.history[:3], ("assistant", "Coffee!"), ("user", "Thanks")], "Welcome")
    assert texts(mem) == [*told, "Coffee!", "Thanks", "Welcome"]


def test_a_turn_is_added_to_a_history_however_often_it_was_said(mem: DeltaMem) -> None:
    history = DeltaMemChatMessageHistory(mem, "alice", "t")
    for _ in range(3):
        history.add_messages([HumanMessage("ok"), AIMessage("Noted.")])
    history.add_user_message("ok")
    history.add_user_message("ok")
    assert texts(mem) == ["ok", "Noted."] * 3 + ["ok"] * 2 and len(history.messages) == 8
    history.clear()
    history.add_messages([HumanMessage("ok"), AIMessage("Noted.")])
    assert len(history.messages) == 2


def test_what_a_user_says_twice_in_a_thread_is_there_twice(mem: DeltaMem) -> None:
    agent = create_agent(
        FakeListChatModel(responses=["Noted."]),
        middleware=[DeltaMemMiddleware(mem, "alice")],
        checkpointer=InMemorySaver(),
    )
    for _ in range(3):
        agent.invoke({"messages": [SystemMessage("Rules."), HumanMessage("ok")]}, THREAD)
    assert texts(mem) == ["ok", "Noted."] * 3


def test_a_rollback_holds_against_a_client(mem: DeltaMem) -> None:
    client = ToAgent(mem)
    for text in ("Hi", "My boat is called Petrel."):
        client.say(text)
    mem.agent("alice").rollback(2)
    client.say("And now?")
    assert texts(mem) == ["Hi", "Noted: Hi", "And now?", "Noted: And now?"]


def test_a_model_recalls_for_no_summary(mem: DeltaMem, prompts: list[str]) -> None:
    mem.agent("alice").write([{"role": "user", "content": "The summary of the conversation is on the shelf."}])
    told: list[BaseMessage] = [
        HumanMessage("Here is a summary of the conversation to date:\n\nA shelf."),
        AIMessage("Hm."),
    ]
    ChatDeltaMem(mem=mem, agent_id="alice", max_tokens=2, mode="vector").invoke(told)
    assert "on the shelf" not in prompts[-1]
