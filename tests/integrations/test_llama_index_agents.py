"""LlamaIndex: the memory and the LLM, alone, in chat engines and in agents, on the bundled model."""

from __future__ import annotations

import asyncio
import copy
import json
import pickle
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

import pytest
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.base.llms.types import ImageBlock, TextBlock, ToolCallBlock
from llama_index.core.chat_engine import SimpleChatEngine
from llama_index.core.llms import ChatMessage
from llama_index.core.memory import InsertMethod
from llama_index.core.workflow import Context

from deltamem_agents import DeltaMem
from deltamem_agents.errors import (
    ClosedError,
    ConfigError,
    DeltaMemError,
    InvalidAgentError,
    InvalidMessageError,
    StoreError,
)
from llama_index_deltamem import DeltaMemLLM, DeltaMemory

FACT, QUESTION = "My locker code is 4417.", "What is my locker code?"


def user(text: str) -> ChatMessage:
    return ChatMessage(role="user", content=text)


def assistant(text: str) -> ChatMessage:
    return ChatMessage(role="assistant", content=text)


def texts(mem: DeltaMem, agent: str = "alice", session: str | None = None) -> list[str]:
    return [entry.text for entry in mem.agent(agent).log(session)]


def contents(messages: list[ChatMessage]) -> list[str | None]:
    return [message.content for message in messages]


def speak(monkeypatch: pytest.MonkeyPatch, mem: DeltaMem, *replies: str) -> None:
    """Put words in the backbone's mouth, as the bundled one calls no tools; all else is real."""
    generate, left = mem.engine.generate, list(replies)

    def scripted(prompt: Any, *args: Any, on_text: Callable[[str], None] | None = None, **kwargs: Any) -> Any:
        words, done = left.pop(0), Future[Any]()
        done.set_result(replace(generate(prompt, *args, **kwargs).result(), text=words))
        if on_text is not None:
            for piece in words.split(" "):
                on_text(f"{piece} ")
        return done

    monkeypatch.setattr(mem.engine, "generate", scripted)


# DeltaMemory


def test_a_turn_is_journalled_when_it_is_answered(mem: DeltaMem) -> None:
    memory = DeltaMemory.from_defaults(mem, "alice", session_id="s1")
    memory.put(user(FACT))
    assert texts(mem) == []
    assert contents(memory.get()) == [FACT]
    memory.put(assistant("Noted."))
    assert texts(mem, session="s1") == [FACT, "Noted."]
    memory.put(user("Unanswered"))
    memory.put(user("Next"))
    assert texts(mem)[2:] == ["Unanswered"]
    memory.flush()
    assert texts(mem)[3:] == ["Next"]
    memory.flush()
    assert len(texts(mem)) == 4


async def test_recall_is_inserted_and_the_same_throughout_a_turn(mem: DeltaMem) -> None:
    mem.agent("alice").write([{"role": "user", "content": FACT}])
    memory = DeltaMemory.from_defaults(mem, "alice", session_id="s1")
    await memory.aput_messages([ChatMessage(role="system", content="Be brief."), user(QUESTION)])
    got = await memory.aget()
    assert [message.role.value for message in got] == ["system", "user"]
    assert FACT in str(got[0].content) and "Be brief." in str(got[0].content)
    assert str(got).count(QUESTION) == 1
    mem.agent("alice").write([{"role": "user", "content": "My locker code is 9999."}])
    assert await memory.aget() == await memory.aget(input=QUESTION) == got
    got[0].blocks.clear()
    got[1].blocks[0].text = "changed"  # type: ignore[union-attr]
    assert QUESTION in contents(await memory.aget()) and contents(await memory.aget_all())[0] == "Be brief."
    await memory.aput_messages([assistant("4417."), user("And what is my locker code now?")])
    assert "9999" in str((await memory.aget())[0].content)
    assert "Be brief." not in texts(mem)
    in_user = DeltaMemory.from_defaults(mem, "alice", insert_method=InsertMethod.USER)
    await in_user.aput(user(QUESTION))
    (only,) = await in_user.aget()
    assert FACT in str(only.content) and str(only.content).endswith(QUESTION)


def test_recall_stays_within_the_token_limit(mem: DeltaMem) -> None:
    for number in range(5):
        mem.agent("alice").write([{"role": "user", "content": f"Locker {number} has code {number}417."}], wait=False)
    for limit in (20, 60, 400):
        memory = DeltaMemory.from_defaults(mem, "alice", token_limit=limit)
        memory.put(user("Which locker has which code?"))
        got = memory.get()
        assert sum(map(memory._estimate_token_count, got)) <= limit
        assert (len(got) == 2) == (limit > 20)


def test_reset_keeps_the_memory(mem: DeltaMem) -> None:
    memory = DeltaMemory.from_defaults(mem, "alice", session_id="s1")
    memory.put(user(FACT))
    memory.reset()
    assert texts(mem)[0] == FACT
    memory.put(user(QUESTION))
    assert FACT in str(memory.get()[0].content)


def test_a_resent_history_is_written_once(mem: DeltaMem) -> None:
    history = [ChatMessage(role="system", content="Rules."), user(FACT), assistant("Noted.")]
    for _ in range(2):
        memory = DeltaMemory.from_defaults(mem, "alice", session_id="s1", chat_history=history)
        assert texts(mem) == [FACT, "Noted."]
        assert contents(memory.get_all()) == contents(history)
    memory.set([*history, user(QUESTION)])
    assert QUESTION not in texts(mem)
    memory.put(assistant("4417."))
    assert texts(mem)[2:] == [QUESTION, "4417."]


def test_a_failed_write_is_made_up_for(mem: DeltaMem, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = DeltaMemory.from_defaults(mem, "alice")
    memory.put(user(FACT))
    with monkeypatch.context() as patch:

        def locked(*_: Any) -> None:
            raise StoreError("locked")

        patch.setattr(mem.store, "append", locked)
        with pytest.raises(StoreError):
            memory.put(assistant("Noted."))
    memory.flush()
    assert texts(mem) == [FACT, "Noted."]


def test_content_of_all_kinds(mem: DeltaMem) -> None:
    memory = DeltaMemory.from_defaults(mem, "alice")
    memory.put(ChatMessage(role="user", content=None))
    memory.put(ChatMessage(role="user", blocks=[TextBlock(text="Look"), ImageBlock(image=b"GIF89a")]))
    memory.put(ChatMessage(role="assistant", blocks=[ToolCallBlock(tool_call_id="c", tool_name="zoom")]))
    memory.put(ChatMessage(role="tool", content="zoomed", additional_kwargs={"tool_call_id": "c"}))
    assert texts(mem) == []
    memory.put(assistant("A picture."))
    log = mem.agent("alice").log()
    assert [entry.text for entry in log] == ["Look", "", "zoomed", "A picture."]
    assert [entry.metadata for entry in log] == [{}, {}, {"tool_call_id": "c"}, {}]
    assert "Look" in contents(memory.get())


def test_round_trip_of_a_memory(open_mem: Callable[[], DeltaMem]) -> None:
    mem = open_mem()
    memory = DeltaMemory.from_defaults(mem, "alice", "s1", mode="vector", k=3, budget=50, token_limit=900)
    memory.put_messages([user(FACT), assistant("Noted.")])
    data = json.loads(json.dumps(memory.to_dict()))
    assert FACT not in str(data)
    assert data["url"] == mem.store.url
    mem.close()
    with pytest.raises(ClosedError, match=r"DeltaMem\.open"):
        DeltaMemory.from_dict(data)
    again = open_mem()
    for back in (DeltaMemory.from_dict(data), DeltaMemory.from_dict(data, mem=again)):
        assert back.to_dict() == memory.to_dict()
        assert contents(back.get_all()) == [FACT, "Noted."]
    back.reset()
    assert DeltaMemory.from_dict(data).get_all() == []
    with pytest.raises(DeltaMemError, match="to_dict"):
        pickle.dumps(memory)
    assert copy.deepcopy(back).get_all() == []


def test_bad_input_of_the_memory(mem: DeltaMem) -> None:
    for bad in ({"mode": "both"}, {"k": 0}, {"budget": -1}):
        with pytest.raises(ConfigError):
            DeltaMemory.from_defaults(mem, "alice", **bad)
    for agent in ("", 7, None):
        with pytest.raises(InvalidAgentError):
            DeltaMemory.from_defaults(mem, agent)  # type: ignore[arg-type]
    memory = DeltaMemory.from_defaults(mem, "alice")
    mem.close()
    with pytest.raises(ClosedError):
        memory.put_messages([user("Hi"), assistant("Ho")])


# DeltaMemLLM


async def test_all_ways_to_ask_agree(mem: DeltaMem, prompts: list[str]) -> None:
    mem.agent("alice").write([{"role": "user", "content": FACT}])
    llm = DeltaMemLLM(mem, "alice", max_tokens=24)
    whole = llm.chat([user(QUESTION)])
    expected = whole.message.content
    assert FACT in prompts[-1]
    assert whole.raw is not None and whole.raw["source"] == "both"
    assert whole.raw["usage"]["total_tokens"] > whole.raw["usage"]["completion_tokens"] > 0
    assert (await llm.achat([user(QUESTION)])).message.content == expected
    assert llm.complete(QUESTION).text == (await llm.acomplete(QUESTION)).text == expected
    streams: list[list[Any]] = [
        list(llm.stream_chat([user(QUESTION)])),
        [response async for response in await llm.astream_chat([user(QUESTION)])],
        list(llm.stream_complete(QUESTION)),
        [response async for response in await llm.astream_complete(QUESTION)],
    ]
    for stream in streams:
        assert len(stream) > 1
        assert "".join(response.delta for response in stream) == expected
        last = stream[-1]
        assert (last.text if hasattr(last, "text") else last.message.content) == expected
    assert texts(mem) == [FACT]
    assert len(set(prompts)) == 1


def test_metadata_agents_and_bad_input(mem: DeltaMem) -> None:
    llm = DeltaMemLLM(mem, max_tokens=4)
    assert llm.metadata.model_name == "tiny"
    assert llm.metadata.context_window == mem.engine.window
    assert llm.metadata.is_function_calling_model
    with pytest.raises(InvalidAgentError, match=r"agent_id=….*delta_agent_id"):
        llm.chat([user("Hi")])
    reply = llm.chat([user("Hi")], delta_agent_id="bob", max_tokens=1)
    assert reply.raw is not None and reply.raw["agent_id"] == "bob"
    assert reply.raw["usage"]["completion_tokens"] == 1
    for bad in ({"mode": "both"}, {"k": 0}, {"temperature": -1}):
        with pytest.raises(ConfigError):
            DeltaMemLLM(mem, "alice", **bad)
    with pytest.raises(InvalidMessageError):
        llm.chat([ChatMessage(role="user", content=None)], delta_agent_id="bob")
    with pytest.raises(DeltaMemError, match="cannot be pickled"):
        pickle.dumps(llm)
    assert copy.deepcopy(llm).metadata == llm.metadata


# Agents and chat engines


@pytest.mark.slow  # a process that imports torch and LlamaIndex
def test_told_in_one_process_used_in_the_next(
    python: Callable[..., Any], url: str, open_mem: Callable[[], DeltaMem], prompts_of: Callable[[DeltaMem], list[str]]
) -> None:
    done = python("examples/llama_index_agent.py", "--url", url)
    assert done.returncode == 0, done.stderr
    assert "- user: My favourite colour is teal." in done.stdout
    mem = open_mem()
    prompts = prompts_of(mem)
    llm = DeltaMemLLM(mem, "alice", max_tokens=8)

    def memory() -> DeltaMemory:
        return DeltaMemory.from_defaults(mem, "alice")

    SimpleChatEngine.from_defaults(llm=llm, memory=memory()).chat("What is my favourite colour?")
    asyncio.run(_run(FunctionAgent(llm=llm, tools=[]), "Which colour is my favourite?", memory()))
    assert len(prompts) == 2
    assert all(prompt.count("My favourite colour is teal.") == 1 for prompt in prompts)  # by one of the two


async def test_chat_engines_stream_into_the_journal(mem: DeltaMem) -> None:
    llm = DeltaMemLLM(mem, "alice", max_tokens=12)
    engine = SimpleChatEngine.from_defaults(llm=llm, memory=DeltaMemory.from_defaults(mem, "alice"))
    streamed = await engine.astream_chat(FACT)
    spoken = "".join([piece async for piece in streamed.async_response_gen()])
    assert streamed.is_done
    assert texts(mem) == [text for text in (FACT, spoken.strip()) if text]


async def test_two_agents_never_see_each_other(mem: DeltaMem, prompts: list[str]) -> None:
    codes = {"alice": "4417", "bob": "9023"}
    for text in ("My locker code is {}.", QUESTION):
        runs = [
            _run(
                FunctionAgent(llm=DeltaMemLLM(mem, agent, mode="vector", max_tokens=4), tools=[]),
                text.format(code),
                DeltaMemory.from_defaults(mem, agent),
            )
            for agent, code in codes.items()
        ]
        await asyncio.gather(*runs)
    assert len(prompts) == 4
    assert all(("4417" in prompt) != ("9023" in prompt) for prompt in prompts)
    for agent, other in (("alice", "9023"), ("bob", "4417")):
        assert other not in " ".join(texts(mem, agent))


@pytest.mark.parametrize("streaming", [True, False])
async def test_tool_calls_of_an_agent(mem: DeltaMem, monkeypatch: pytest.MonkeyPatch, streaming: bool) -> None:
    def add(a: int, b: int) -> int:
        """Add two numbers."""
        return a + b

    call = '<tool_call>{"name": "add", "arguments": {"a": 2, "b": 3}}</tool_call>'
    speak(monkeypatch, mem, f"Let me see. {call}", "It is 5.")
    agent = FunctionAgent(llm=DeltaMemLLM(mem, "alice", max_tokens=4), tools=[add], streaming=streaming)
    reply = await agent.run("What is 2 + 3?", memory=DeltaMemory.from_defaults(mem, "alice"))
    assert str(reply) == "It is 5."
    assert texts(mem) == ["What is 2 + 3?", "Let me see.", "5", "It is 5."]
    assert mem.agent("alice").log()[1].content[1]["args"] == {"a": 2, "b": 3}  # type: ignore[index]


async def test_a_context_is_saved_and_restored(open_mem: Callable[[], DeltaMem]) -> None:
    def agent_on(mem: DeltaMem) -> FunctionAgent:
        return FunctionAgent(llm=DeltaMemLLM(mem, "alice", max_tokens=4), tools=[])

    mem = open_mem()
    agent = agent_on(mem)
    context = Context(agent)
    await agent.run(FACT, ctx=context, memory=DeltaMemory.from_defaults(mem, "alice", "s1"))
    saved = json.dumps(context.to_dict())
    mem.close()
    mem = open_mem()
    agent = agent_on(mem)
    restored = Context.from_dict(agent, json.loads(saved))
    await agent.run(QUESTION, ctx=restored)
    memory = await restored.store.get("memory")
    assert [text for text in contents(await memory.aget_all()) if text in (FACT, QUESTION)] == [FACT, QUESTION]
    assert [text for text in texts(mem, session="s1") if text in (FACT, QUESTION)] == [FACT, QUESTION]


async def _run(agent: FunctionAgent, text: str, memory: DeltaMemory) -> str:
    return str(await agent.run(text, memory=memory))
