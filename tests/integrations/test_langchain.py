"""LangChain: the chat model, the middleware of `create_agent`, and the chat history, on the bundled model."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.caches import InMemoryCache
from langchain_core.globals import set_llm_cache
from langchain_core.language_models import FakeListChatModel, GenericFakeChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.runnables.history import RunnableWithMessageHistory
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from pydantic import Field

from deltamem_agents import DeltaMem
from deltamem_agents.errors import ClosedError, ConfigError, DeltaMemError, InvalidAgentError, InvalidMessageError
from langchain_deltamem import ChatDeltaMem, DeltaMemChatMessageHistory, DeltaMemMiddleware

FACT, QUESTION = "My locker code is 4417.", "What is my locker code?"


class Listening(FakeListChatModel):
    """A user's chat model, of any provider; keeps what it was given."""

    responses: list[str] = Field(default_factory=lambda: ["Noted.", "Fine.", "Right.", "Sure."])
    given: list[list[BaseMessage]] = Field(default_factory=list)

    def _call(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> str:
        self.given.append(messages)
        return super()._call(messages, *args, **kwargs)


def config(agent: str | None = "alice", thread: str | None = "t1") -> Any:
    given = {"agent_id": agent, "thread_id": thread}
    return {"configurable": {key: value for key, value in given.items() if value is not None}}


def said(*texts: str) -> Any:
    return {"messages": [HumanMessage(text) for text in texts]}


def texts(mem: DeltaMem, agent: str = "alice", session: str | None = None) -> list[str]:
    return [entry.text for entry in mem.agent(agent).log(session)]


@tool
def look_up(word: str) -> str:
    """Look a word up."""
    return f"{word}: a word"


# ChatDeltaMem


def test_invoke_reports_what_it_did(mem: DeltaMem, prompts: list[str]) -> None:
    mem.agent("alice").write([{"role": "user", "content": FACT}])
    reply = ChatDeltaMem(mem=mem, agent_id="alice", max_tokens=8).invoke(QUESTION)
    assert FACT in prompts[-1]
    assert isinstance(reply, AIMessage)
    assert reply.usage_metadata is not None
    assert reply.usage_metadata["total_tokens"] > reply.usage_metadata["output_tokens"] > 0
    facts = reply.response_metadata
    assert (facts["agent_id"], facts["source"], facts["model_name"]) == ("alice", "both", "tiny")
    assert facts["first_token_seconds"] > 0
    assert texts(mem) == [FACT]  # it journals nothing


def test_what_is_told_of_a_reply(mem: DeltaMem) -> None:
    agent = mem.agent("alice")
    agent.write([{"role": "user", "content": "My favourite colour is teal."}])
    told = ChatDeltaMem(mem=mem, agent_id="alice").invoke("What is my favourite colour?").response_metadata
    assert told["agent_id"] == "alice" and told["revision"] == agent.log()[-1].position == 1
    assert told["first_token_seconds"] > 0 and "tokens_per_second" in told and told["source"] in ("state", "both")
    *_, last = ChatDeltaMem(mem=mem, agent_id="alice", mode="vector").stream("What is my favourite colour?")
    assert last.response_metadata.get("revision", "absent") is None  # no state was read


def test_no_reply_comes_from_langchains_cache(mem: DeltaMem, prompts: list[str]) -> None:
    set_llm_cache(InMemoryCache())
    try:
        model = ChatDeltaMem(mem=mem, agent_id="alice", max_tokens=4)
        for fact in ("My favourite colour is teal.", "My favourite colour is now red."):
            mem.agent("alice").write([{"role": "user", "content": fact}])
            model.invoke("What is my favourite colour?")
        assert len(prompts) == 2
    finally:
        set_llm_cache(None)


async def test_streams_are_the_reply_in_pieces(mem: DeltaMem) -> None:
    llm = ChatDeltaMem(mem=mem, agent_id="alice", max_tokens=24)
    whole = llm.invoke(QUESTION)
    chunks = list(llm.stream(QUESTION))
    async_chunks = [chunk async for chunk in llm.astream(QUESTION)]
    for streamed in (chunks, async_chunks):
        assert "".join(str(chunk.content) for chunk in streamed) == whole.content
        assert len(streamed) > 1
        assert streamed[-1].usage_metadata == whole.usage_metadata
    assert (await llm.ainvoke(QUESTION)).content == whole.content
    assert [reply.content for reply in llm.batch([QUESTION, QUESTION])] == [whole.content] * 2


def test_the_agent_comes_from_call_config_or_default(mem: DeltaMem) -> None:
    llm = ChatDeltaMem(mem=mem, default_agent_id="alice", trust_configurable=True, max_tokens=4)

    def agent_of(reply: BaseMessage) -> str:
        return str(reply.response_metadata["agent_id"])

    assert agent_of(llm.invoke("Hi")) == "alice"
    assert agent_of(llm.invoke("Hi", config("bob"))) == "bob"
    assert agent_of(llm.invoke("Hi", config("bob"), delta_agent_id="carol")) == "carol"
    assert agent_of(llm.bind(delta_agent_id="dora").invoke("Hi", config("bob"))) == "dora"
    assert agent_of(list(llm.stream("Hi", config("bob")))[-1]) == "bob"
    inside_a_graph = create_agent(llm).invoke(said("Hi"), config("erik"))
    assert agent_of(inside_a_graph["messages"][-1]) == "erik"


def test_stop_and_max_tokens(mem: DeltaMem) -> None:
    llm = ChatDeltaMem(mem=mem, agent_id="alice", max_tokens=24)
    whole = str(llm.invoke(QUESTION).content)
    stop = whole[-4:-2]
    before = whole.partition(stop)[0].strip()
    assert llm.invoke(QUESTION, stop=[stop]).content == before
    assert ChatDeltaMem(mem=mem, agent_id="alice", stop=[stop]).invoke(QUESTION).content == before
    cut = llm.invoke(QUESTION, max_tokens=1)
    assert cut.response_metadata["finish_reason"] == "length"
    assert cut.usage_metadata is not None and cut.usage_metadata["output_tokens"] == 1


def test_tools_reach_the_prompt_and_calls_come_back(mem: DeltaMem, prompts: list[str]) -> None:
    llm = ChatDeltaMem(mem=mem, agent_id="alice", max_tokens=4).bind_tools([look_up])
    call = {"name": "look_up", "args": {"word": "teal"}, "id": "c1"}
    llm.invoke([HumanMessage("?"), AIMessage("", tool_calls=[call]), ToolMessage("a colour", tool_call_id="c1")])
    assert "Look a word up." in prompts[-1]
    assert '"word": "teal"' in prompts[-1]
    assert "a colour" in prompts[-1]


def test_generated_tool_calls_are_parsed(mem: DeltaMem, monkeypatch: pytest.MonkeyPatch) -> None:
    # The bundled model calls no tools: its words are put in its mouth here, all else is real.
    words = 'Let me see. <tool_call>{"name": "look_up", "arguments": {"word": "teal"}}</tool_call>'
    generate = mem.engine.generate

    def scripted(prompt: Any, *args: Any, on_text: Callable[[str], None] | None = None, **kwargs: Any) -> Any:
        from concurrent.futures import Future
        from dataclasses import replace

        done: Future[Any] = Future()
        done.set_result(replace(generate(prompt, *args, **kwargs).result(), text=words))
        for piece in words.split(" "):
            if on_text is not None:
                on_text(f"{piece} ")
        return done

    monkeypatch.setattr(mem.engine, "generate", scripted)
    llm = ChatDeltaMem(mem=mem, agent_id="alice", max_tokens=4).bind_tools([look_up])
    whole = llm.invoke("What is teal?")
    chunks = list(llm.stream("What is teal?"))
    streamed = chunks[0]
    for chunk in chunks[1:]:
        streamed = streamed + chunk
    for message in (whole, streamed):
        assert isinstance(message, AIMessage)
        assert str(message.content).strip() == "Let me see."
        assert [(c["name"], c["args"]) for c in message.tool_calls] == [("look_up", {"word": "teal"})]


def test_bad_input_of_the_chat_model(mem: DeltaMem) -> None:
    for bad in ({"mode": "both"}, {"k": 0}, {"budget": -1}, {"temperature": -1}, {"max_tokens": 0}):
        with pytest.raises(ConfigError):
            ChatDeltaMem(mem=mem, agent_id="alice", **bad)
    with pytest.raises(ConfigError, match=r"agent_id=….*delta_agent_id.*context.*configurable"):
        ChatDeltaMem(mem=mem).invoke("Hi")
    with pytest.raises(InvalidAgentError, match="is an int"):
        ChatDeltaMem(mem=mem, trust_configurable=True).invoke("Hi", {"configurable": {"agent_id": 7}})
    llm = ChatDeltaMem(mem=mem, agent_id="alice")
    with pytest.raises(InvalidMessageError):
        llm.invoke([HumanMessage("")])
    mem.close()
    with pytest.raises(ClosedError):
        llm.invoke("Hi")


# DeltaMemMiddleware


@pytest.mark.slow  # a process that imports torch and LangChain
def test_told_in_one_process_used_in_the_next(
    python: Callable[..., Any], url: str, open_mem: Callable[[], DeltaMem], prompts_of: Callable[[DeltaMem], list[str]]
) -> None:
    done = python("examples/langchain_agent.py", "--url", url)
    assert done.returncode == 0, done.stderr
    assert "- user: My favourite colour is teal." in done.stdout
    mem = open_mem()
    prompts = prompts_of(mem)
    agent = create_agent(
        ChatDeltaMem(mem=mem, max_tokens=8), middleware=[DeltaMemMiddleware(mem, trust_configurable=True)]
    )
    agent.invoke(said("What is my favourite colour?"), config("alice", "next"))
    assert prompts[-1].count("My favourite colour is teal.") == 1  # by the middleware, not by the model once more
    other = Listening()
    create_agent(other, middleware=[DeltaMemMiddleware(mem, "alice")]).invoke(said("Which colour is my favourite?"))
    assert isinstance(other.given[-1][0], SystemMessage)
    assert "My favourite colour is teal." in str(other.given[-1][0].content)


def test_the_models_agent_follows_the_middlewares(mem: DeltaMem) -> None:
    agent = create_agent(ChatDeltaMem(mem=mem, max_tokens=4), middleware=[DeltaMemMiddleware(mem, "alice")])
    agent.invoke(said(FACT))
    reply = agent.invoke(said(QUESTION))["messages"][-1]
    assert (reply.response_metadata["agent_id"], reply.response_metadata["source"]) == ("alice", "both")


def test_recall_joins_the_system_prompt(mem: DeltaMem) -> None:
    mem.agent("alice").write([{"role": "user", "content": FACT}])
    model = Listening()
    for prompt in ("Be brief.", SystemMessage([{"type": "text", "text": "Be brief."}])):
        agent = create_agent(model, system_prompt=prompt, middleware=[DeltaMemMiddleware(mem, "alice")])
        agent.invoke(said(QUESTION))
        system = model.given[-1][0]
        assert system.text.startswith("Be brief.")
        assert FACT in system.text
    tight = create_agent(model, middleware=[DeltaMemMiddleware(mem, "alice", budget=3)])
    tight.invoke(said(QUESTION))
    assert not any(isinstance(message, SystemMessage) for message in model.given[-1])


def test_two_agents_never_see_each_other(mem: DeltaMem) -> None:
    model = Listening()
    agent = create_agent(
        model, middleware=[DeltaMemMiddleware(mem, trust_configurable=True)], checkpointer=InMemorySaver()
    )

    async def both() -> None:
        for text in ("My locker code is {}.", QUESTION, "What was said about my locker?"):
            await asyncio.gather(
                agent.ainvoke(said(text.format("4417")), config("alice", "a")),
                agent.ainvoke(said(text.format("9023")), config("bob", "b")),
            )

    asyncio.run(both())
    seen = [" ".join(message.text for message in prompt) for prompt in model.given]
    assert len(seen) == 6
    assert all(("4417" in prompt) != ("9023" in prompt) for prompt in seen)
    assert "9023" not in " ".join(texts(mem, "alice"))
    assert "4417" not in " ".join(texts(mem, "bob"))


@pytest.mark.parametrize("asynchronous", [False, True])
def test_with_a_checkpointer_each_message_is_written_once(mem: DeltaMem, asynchronous: bool) -> None:
    saver = InMemorySaver()
    agent = create_agent(Listening(), middleware=[DeltaMemMiddleware(mem, trust_configurable=True)], checkpointer=saver)

    def run(text: str) -> dict[str, Any]:
        if asynchronous:
            return asyncio.run(agent.ainvoke(said(text), config()))
        return agent.invoke(said(text), config())

    first, second = run(FACT), run(QUESTION)
    assert "delta_mem_written" not in first | second  # private
    assert texts(mem) == [FACT, "Noted.", QUESTION, "Fine."]
    assert [entry.id for entry in mem.agent("alice").log()] == [message.id for message in second["messages"]]
    assert mem.agent("alice").sessions() == ["t1"]
    run(FACT)  # said again: a message of its own
    assert texts(mem)[4:] == [FACT, "Right."]


def test_an_edited_message_replaces_the_old_one(mem: DeltaMem) -> None:
    agent = create_agent(
        Listening(), middleware=[DeltaMemMiddleware(mem, trust_configurable=True)], checkpointer=InMemorySaver()
    )
    first = agent.invoke(said(FACT), config())["messages"][0]
    agent.update_state(config(), {"messages": [HumanMessage("My locker code is 1234.", id=first.id)]})
    agent.invoke(said(QUESTION), config())
    assert FACT not in texts(mem)
    assert sorted(texts(mem)) == sorted(["Noted.", "My locker code is 1234.", QUESTION, "Fine."])


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("way", ["erased", "rolled back", "erased after an edit"])
def test_new_words_under_an_id_that_is_gone_are_journalled(mem: DeltaMem, way: str, asynchronous: bool) -> None:
    agent = create_agent(Listening(), middleware=[DeltaMemMiddleware(mem, "alice")], checkpointer=InMemorySaver())

    def send(text: str) -> list[str]:
        given = {"messages": [HumanMessage(text, id="m")]}
        asyncio.run(agent.ainvoke(given, config())) if asynchronous else agent.invoke(given, config())
        return [entry.text for entry in mem.agent("alice").log() if entry.role == "user"]

    assert send("v1 secret") == ["v1 secret"]
    if way == "rolled back":
        mem.agent("alice").rollback(0)
    else:
        if way == "erased after an edit":
            assert send("v2 secret") == ["v2 secret"]
        mem.agent("alice").erase(ids=["m"], wait=False)
        assert send("v1 secret") == []
    assert send("v3 clean") == send("v3 clean") == ["v3 clean"]
    mem.agent("alice").erase(ids=["m"], wait=False)
    assert send("v3 clean") == send("v1 secret") == []


def test_after_an_error_nothing_is_missing_and_nothing_doubled(mem: DeltaMem) -> None:
    def replies() -> Iterator[AIMessage | str]:
        yield AIMessage("", tool_calls=[{"name": "broken", "args": {}, "id": "c1"}])
        yield "Better."

    @tool
    def broken() -> str:
        """Fail."""
        raise RuntimeError("no")

    class Calling(GenericFakeChatModel):
        def bind_tools(self, *args: Any, **kwargs: Any) -> Any:
            return self

    agent = create_agent(
        Calling(messages=replies()),
        [broken],
        middleware=[DeltaMemMiddleware(mem, trust_configurable=True)],
        checkpointer=InMemorySaver(),
    )
    with pytest.raises(RuntimeError):
        agent.invoke(said(FACT), config())
    assert texts(mem) == [FACT, ""]
    stuck = agent.get_state(config()).values["messages"]
    done = ToolMessage("failed", tool_call_id="c1")
    agent.update_state(config(), {"messages": [done]}, as_node="tools")
    agent.invoke(None, config())
    assert texts(mem) == [FACT, "", "failed", "Better."]
    assert mem.agent("alice").log()[0].id == stuck[0].id


def test_a_client_that_resends_its_history_is_aligned(mem: DeltaMem) -> None:
    agent = create_agent(Listening(), middleware=[DeltaMemMiddleware(mem, trust_configurable=True)])  # no checkpointer
    history: list[BaseMessage] = []
    for text in (FACT, QUESTION, "Thanks"):
        history.append(HumanMessage(text))
        reply = agent.invoke({"messages": [m.model_copy(update={"id": None}) for m in history]}, config())
        history.append(reply["messages"][-1])
    assert texts(mem) == [FACT, "Noted.", QUESTION, "Fine.", "Thanks", "Right."]


def test_what_is_written(mem: DeltaMem) -> None:
    def run(agent: str, **options: Any) -> list[str]:
        messages = [SystemMessage("Rules."), HumanMessage(FACT)]
        create_agent(Listening(), middleware=[DeltaMemMiddleware(mem, agent, **options)]).invoke({"messages": messages})
        return texts(mem, agent)

    assert run("a") == [FACT, "Noted."]
    assert run("b", write="human") == [FACT]
    assert run("c", write=lambda message: message.type == "ai") == ["Noted."]
    with pytest.raises(ConfigError, match="'none'"):
        DeltaMemMiddleware(mem, "d", write="none")  # type: ignore[arg-type]


def test_three_ways_to_name_the_agent(mem: DeltaMem) -> None:
    def run(agent_id: Any = None, **given: Any) -> list[str]:
        before = {info.id for info in mem.agents()}
        middleware = DeltaMemMiddleware(mem, agent_id, trust_configurable=True)
        create_agent(Listening(), middleware=[middleware], context_schema=dict).invoke(said("Hi"), **given)
        return [info.id for info in mem.agents() if info.id not in before]

    assert run("constructor") == ["constructor"]
    assert run(config=config("configured")) == ["configured"]
    assert run(context={"agent_id": "context"}, config=config("nobody")) == ["context"]
    assert run(lambda state, runtime: f"said {state['messages'][0].text}") == ["said Hi"]
    with pytest.raises(ConfigError, match=r"agent_id=….*context=.*configurable"):
        run()
    with pytest.raises(InvalidAgentError, match="is an int"):
        run(config={"configurable": {"agent_id": 7}})


async def test_streaming_and_state_mode_through_an_agent(mem: DeltaMem) -> None:
    mem.agent("alice").write([{"role": "user", "content": FACT}])
    agent = create_agent(
        ChatDeltaMem(mem=mem, max_tokens=12), middleware=[DeltaMemMiddleware(mem, "alice", mode="state")]
    )
    pieces = [piece async for piece, _ in agent.astream(said(QUESTION), stream_mode="messages")]
    reply = texts(mem)[-1]
    assert "".join(piece.text for piece in pieces).strip() == reply
    assert len(pieces) > 1
    assert texts(mem)[:2] == [FACT, QUESTION]
    hinted = Listening()
    create_agent(hinted, middleware=[DeltaMemMiddleware(mem, "alice", mode="state")]).invoke(said(QUESTION))
    assert FACT not in str(hinted.given[-1])  # the state alone: no record


# DeltaMemChatMessageHistory


async def test_history_keeps_messages_as_they_were(mem: DeltaMem, open_mem: Callable[[], DeltaMem]) -> None:
    history = DeltaMemChatMessageHistory(mem, "alice", "s" * 300)
    call = {"name": "look_up", "args": {"word": "teal"}, "id": "c1", "type": "tool_call"}
    given: list[BaseMessage] = [
        SystemMessage("Rules.", id="m0"),
        HumanMessage([{"type": "text", "text": "See"}, {"type": "image", "url": "x"}], id="m1", name="Ann"),
        AIMessage("", tool_calls=[call], id="m2"),
        ToolMessage("a colour", tool_call_id="c1", id="m3"),
        AIMessage("It is a colour.", id="m4"),
    ]
    history.add_messages(given)
    history.add_messages(given)  # known ids
    assert history.messages == given
    assert await DeltaMemChatMessageHistory(open_mem(), "alice", "s" * 300).aget_messages() == given
    await history.aadd_messages([HumanMessage("Thanks"), AIMessage("")])
    assert [message.text for message in history.messages][5:] == ["Thanks"]


@pytest.mark.parametrize("asynchronous", [False, True])
def test_clear_begins_anew_and_keeps_the_memory(mem: DeltaMem, asynchronous: bool) -> None:
    history = DeltaMemChatMessageHistory(mem, "alice", "s1")
    history.add_messages([HumanMessage(FACT)])
    other = DeltaMemChatMessageHistory(mem, "alice", "s2")
    other.add_messages([HumanMessage("Hi")])
    for _ in range(2):
        asyncio.run(history.aclear()) if asynchronous else history.clear()
    assert history.messages == []
    assert len(other.messages) == 1
    history.add_messages([HumanMessage("Hello again")])
    assert [message.text for message in history.messages] == ["Hello again"]
    assert FACT in mem.agent("alice").recall(QUESTION, generate=False).text
    assert len(mem.agent("alice").log("s1")) == 3  # cleared once, as there was nothing the second time


def test_runnable_with_message_history(mem: DeltaMem, prompts: list[str]) -> None:
    llm = ChatDeltaMem(mem=mem, agent_id="alice", mode="state", max_tokens=8)
    chat = RunnableWithMessageHistory(llm, lambda session_id: DeltaMemChatMessageHistory(mem, "alice", session_id))
    for text in (FACT, QUESTION):
        chat.invoke([HumanMessage(text)], {"configurable": {"session_id": "s1"}})
    assert [text for text in texts(mem, session="s1") if text in (FACT, QUESTION)] == [FACT, QUESTION]
    assert FACT in prompts[-1]
    chat.invoke([HumanMessage(QUESTION)], {"configurable": {"session_id": "s2"}})
    assert FACT not in prompts[-1]


def test_errors_are_ours(mem: DeltaMem) -> None:
    with pytest.raises(DeltaMemError):
        DeltaMemChatMessageHistory(mem, "")
    with pytest.raises(DeltaMemError):
        DeltaMemMiddleware(mem, mode="both")
