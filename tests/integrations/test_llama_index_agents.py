"""Agents and chat engines of LlamaIndex on the bundled model, which is helped where tools are to be called."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from llama_index.core.agent.workflow import AgentStream, AgentWorkflow, FunctionAgent, ReActAgent, ToolCallResult
from llama_index.core.chat_engine import ContextChatEngine, SimpleChatEngine
from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.core.workflow import Context

from deltamem_agents import DeltaMem
from llama_index_deltamem import DeltaMemLLM, DeltaMemory, DeltaMemRetriever

FACT, QUESTION = "My locker code is 4417.", "What is my locker code?"
SCRIPT = Path(__file__).with_name("llama_index_two_runs.py")
CALL = '<tool_call>{{"name": "{}", "arguments": {}}}</tool_call>'
Speak = Callable[..., None]


def _loaded(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


two_runs = _loaded(SCRIPT)
every_kind = pytest.mark.parametrize("kind", list(two_runs.KINDS))
every_agent = pytest.mark.parametrize("kind", ["function", "react", "workflow"])


def words_of(kind: str) -> Callable[[str], str] | None:
    """What the bundled model cannot say, by prompt; None where it speaks for itself."""
    if kind == "workflow":
        handed = "is now handling the request"
        return lambda prompt: two_runs.HEARD if prompt.rfind(handed) > prompt.rfind("<|user|>") else two_runs.HANDS_OFF
    return (lambda _: str(two_runs.SCRIPTS["react"][0])) if kind == "react" else None


def texts(mem: DeltaMem, agent: str = "alice", session: str | None = None) -> list[str]:
    return [entry.text for entry in mem.agent(agent).log(session)]


def said_by_user(mem: DeltaMem, agent: str = "alice") -> list[str]:
    return [entry.text for entry in mem.agent(agent).log() if entry.role == "user"]


def llm_of(mem: DeltaMem, max_tokens: int = 8) -> DeltaMemLLM:
    return DeltaMemLLM(mem, "alice", max_tokens=max_tokens)


def agent_of(kind: str, mem: DeltaMem, tools: list[Any] | None = None, **options: Any) -> Any:
    llm, tools = llm_of(mem), tools or []
    if kind == "function":
        return FunctionAgent(llm=llm, tools=tools, **options)
    if kind == "react":
        return ReActAgent(llm=llm, tools=tools, **options)
    greeter = FunctionAgent(name="greeter", description="Greets.", llm=llm, can_handoff_to=["keeper"], **options)
    keeper = FunctionAgent(name="keeper", description="Knows things.", llm=llm, tools=tools, **options)
    return AgentWorkflow([greeter, keeper], root_agent="greeter")


# Two processes


@pytest.fixture(scope="module")
def runs(
    python: Callable[..., subprocess.CompletedProcess[str]], tmp_path_factory: pytest.TempPathFactory
) -> list[dict[str, dict[str, Any]]]:
    """What was said and seen in each of two processes: told in this one, asked in another."""
    url = f"sqlite:///{tmp_path_factory.mktemp('runs') / 'memory.db'}"
    told = asyncio.run(two_runs.say(url, "My favourite colour is teal.", "monday"))
    done = python(str(SCRIPT), url, "What is my favourite colour?", "tuesday")
    assert done.returncode == 0, done.stderr[-2000:]
    return [told, json.loads(done.stdout)]


@pytest.mark.slow  # a process that imports torch and LlamaIndex
@every_kind
def test_told_in_one_process_used_in_the_next(runs: list[dict[str, dict[str, Any]]], kind: str) -> None:
    told, asked = (run[kind] for run in runs)
    assert len(asked["prompts"]) == len(told["prompts"]) == (2 if kind == "workflow" else 1)
    assert all("teal" in prompt for prompt in told["prompts"])
    assert all(prompt.count("My favourite colour is teal.") == 1 for prompt in asked["prompts"])
    assert all(prompt.count("What is my favourite colour?") == 1 for prompt in asked["prompts"])
    if kind in ("function", "simple"):
        assert "teal" in asked["reply"]  # the bundled model's own words
    if kind == "context":
        assert two_runs.MANUAL in asked["prompts"][0]
    if kind in two_runs.SCRIPTS:
        assert asked["reply"] == two_runs.HEARD


# Two at once


@every_kind
async def test_two_agents_at_once_stay_apart(mem: DeltaMem, prompts: list[str], speak: Speak, kind: str) -> None:
    if words := words_of(kind):
        speak(mem, words)
    mem.agent("manual").write([{"role": "user", "content": two_runs.MANUAL}])
    codes = {"alice": "4417", "bob": "9023"}
    for number, text in enumerate(("My locker code is {}.", "What is the code {}?", QUESTION + "{:.0}")):
        memories = [DeltaMemory.from_defaults(mem, agent, f"s{number}") for agent in codes]
        said = [text.format(code) for code in codes.values()]
        await asyncio.gather(*map(two_runs.KINDS[kind], [mem] * 2, said, memories))
    assert len(prompts) == (12 if kind == "workflow" else 6)
    assert all(("4417" in prompt) != ("9023" in prompt) for prompt in prompts)
    for agent, code in codes.items():
        (other,) = set(codes.values()) - {code}
        log = texts(mem, agent)
        assert f"My locker code is {code}." in log and other not in " ".join(log)


async def test_two_sessions_of_an_agent_at_once(mem: DeltaMem, prompts: list[str]) -> None:
    memories = [DeltaMemory.from_defaults(mem, "alice", session) for session in ("s1", "s2")]
    said = ["I live in Lisbon.", "I have a cat."]
    await asyncio.gather(*map(two_runs.function, [mem] * 2, said, memories))
    await asyncio.gather(*map(two_runs.function, [mem] * 2, ["What do I have, a cat?", "Where do I live?"], memories))
    assert all(text in prompt for prompt in prompts[2:] for text in said)  # each knows what the other was told
    assert [len(await memory.aget_all()) for memory in memories] == [4, 4]
    assert [said[0] in texts(mem, session="s1"), said[0] in texts(mem, session="s2")] == [True, False]


# Contexts that are used again


@pytest.mark.parametrize("saved", [False, True], ids=["live", "saved"])
@every_agent
async def test_a_context_is_used_again(mem: DeltaMem, prompts: list[str], speak: Speak, kind: str, saved: bool) -> None:
    if words := words_of(kind):
        speak(mem, words)
    agent = agent_of(kind, mem)
    context = Context(agent)
    await agent.run(FACT, ctx=context, memory=DeltaMemory.from_defaults(mem, "alice", "s1"))
    first = len(prompts)
    if saved:
        context = Context.from_dict(agent, json.loads(json.dumps(context.to_dict())))
    for _ in range(2):
        await agent.run(QUESTION, ctx=context)
    assert all(prompt.count(f"<|user|> {FACT}") == 1 for prompt in prompts)  # by the buffer, not by recall as well
    assert all(f"user: {FACT}" not in prompt for prompt in prompts[first:])
    assert said_by_user(mem) == [FACT, QUESTION, QUESTION]


# Streaming


@every_agent
async def test_agents_stream(mem: DeltaMem, speak: Speak, kind: str) -> None:
    if words := words_of(kind):
        speak(mem, words)
    handler = agent_of(kind, mem, streaming=True).run(FACT, memory=DeltaMemory.from_defaults(mem, "alice"))
    pieces = [event.delta async for event in handler.stream_events() if isinstance(event, AgentStream)]
    reply = str(await handler)
    assert len(pieces) > 1 and "".join(pieces).strip().endswith(reply)
    assert "tool_call" not in "".join(pieces)
    assert said_by_user(mem) == [FACT] and texts(mem)[-1].endswith(reply)


async def _streamed(engine: Any, text: str, sync: bool) -> str:
    if sync:
        return "".join(engine.stream_chat(text).response_gen)
    return "".join([piece async for piece in (await engine.astream_chat(text)).async_response_gen()])


@pytest.mark.parametrize("sync", [True, False], ids=["sync", "async"])
@pytest.mark.parametrize("kind", ["simple", "context"])
async def test_chat_engines_stream(mem: DeltaMem, prompts: list[str], kind: str, sync: bool) -> None:
    mem.agent("manual").write([{"role": "user", "content": two_runs.MANUAL}])
    memory = DeltaMemory.from_defaults(mem, "alice")
    if kind == "simple":
        engine: Any = SimpleChatEngine.from_defaults(llm=llm_of(mem), memory=memory)
    else:
        engine = ContextChatEngine.from_defaults(DeltaMemRetriever(mem, "manual"), llm=llm_of(mem), memory=memory)
    replies = [await _streamed(engine, text, sync) for text in (FACT, QUESTION)]
    assert FACT in prompts[-1]
    for _ in range(200):  # a stream's history is written by a thread or a task of the engine
        if len(texts(mem)) == 4:
            break
        await asyncio.sleep(0.01)
    assert texts(mem) == [FACT, replies[0].strip(), QUESTION, replies[1].strip()]
    engine.reset()
    assert engine.chat_history == [] and len(texts(mem)) >= 4


def test_a_chat_engine_is_given_the_history(mem: DeltaMem, prompts: list[str]) -> None:
    memory = DeltaMemory.from_defaults(mem, "alice", "s1")
    engine = SimpleChatEngine.from_defaults(llm=llm_of(mem), memory=memory, system_prompt="Be brief.")
    history = [ChatMessage(role="user", content=FACT), ChatMessage(role="assistant", content="Noted.")]
    for _ in range(2):
        engine.chat(QUESTION, chat_history=list(history))
        history = memory.get_all()
    assert texts(mem)[:3] == [FACT, "Noted.", QUESTION] and texts(mem).count(FACT) == 1
    assert len(said_by_user(mem)) == 3
    assert all(prompt.startswith("<|system|> Be brief.") and prompt.count(FACT) == 1 for prompt in prompts)


@every_agent
async def test_an_agent_is_given_the_history(mem: DeltaMem, prompts: list[str], speak: Speak, kind: str) -> None:
    if words := words_of(kind):
        speak(mem, words)
    history = [ChatMessage(role="user", content=FACT), ChatMessage(role="assistant", content="Noted.")]
    question = ChatMessage(role="user", content=QUESTION)
    for _ in range(2):  # a front end that keeps no state asks, and asks for another answer
        memory = DeltaMemory.from_defaults(mem, "alice", "s1")
        await agent_of(kind, mem).run(chat_history=[*history, question], memory=memory)
    assert said_by_user(mem) == [FACT, QUESTION] and texts(mem).count("Noted.") == 1
    assert all(prompt.count(FACT) == prompt.count(f"<|user|> {QUESTION}") == 1 for prompt in prompts)


# Tools


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def jam(a: int) -> int:
    """Open the door."""
    raise OSError(f"door {a} is jammed")


@pytest.mark.parametrize("streaming", [True, False])
async def test_tool_calls_of_an_agent(mem: DeltaMem, speak: Speak, prompts: list[str], streaming: bool) -> None:
    mem.agent("alice").write([{"role": "user", "content": "I add 2 and 3 each day."}])
    speak(mem, "Let me see. " + CALL.format("add", '{"a": 2, "b": 3}'), "It is 5.")
    agent = FunctionAgent(llm=llm_of(mem), tools=[add], streaming=streaming)
    reply = await agent.run("What is 2 + 3?", memory=DeltaMemory.from_defaults(mem, "alice", "s1"))
    assert str(reply) == "It is 5."
    assert texts(mem, session="s1") == ["What is 2 + 3?", "Let me see.", "5", "It is 5."]
    assert mem.agent("alice").log("s1")[1].content[1]["args"] == {"a": 2, "b": 3}  # type: ignore[index]
    assert [prompt.count("I add 2 and 3 each day.") for prompt in prompts] == [1, 1]


async def test_calls_at_once_and_a_tool_that_returns_directly(mem: DeltaMem, speak: Speak) -> None:
    two = CALL.format("add", '{"a": 2, "b": 3}') + CALL.format("add", '{"a": 4, "b": 5}')
    speak(mem, two, "5 and 9.")
    memory = DeltaMemory.from_defaults(mem, "alice")
    assert str(await FunctionAgent(llm=llm_of(mem), tools=[add]).run("Sums?", memory=memory)) == "5 and 9."
    assert sorted(texts(mem)) == sorted(["Sums?", "", "5", "9", "5 and 9."])
    speak(mem, CALL.format("add", '{"a": 2, "b": 7}'))
    direct = FunctionTool.from_defaults(add, return_direct=True)
    assert str(await FunctionAgent(llm=llm_of(mem), tools=[direct]).run("And?", memory=memory)) == "9"
    assert texts(mem)[5:] == ["And?", "", "9", "9"]


@every_agent
async def test_a_failing_tool(mem: DeltaMem, speak: Speak, prompts: list[str], kind: str) -> None:
    if kind == "react":
        speak(mem, 'Thought: I open it.\nAction: jam\nAction Input: {"a": 7}', "Thought: No.\nAnswer: It is jammed.")
    else:
        hand_over = [two_runs.HANDS_OFF] if kind == "workflow" else []
        speak(mem, *hand_over, CALL.format("jam", '{"a": 7}'), "It is jammed.")
    memory = DeltaMemory.from_defaults(mem, "alice", "s1")
    handler = agent_of(kind, mem, [jam]).run("Open door 7.", memory=memory)
    results = [event async for event in handler.stream_events() if isinstance(event, ToolCallResult)]
    assert str(await handler) == "It is jammed." and results[-1].tool_output.is_error
    assert "door 7 is jammed" in prompts[-1]
    log = mem.agent("alice").log("s1")
    assert log[0].text == "Open door 7." and log[-1].text.endswith("It is jammed.")
    assert sum("door 7 is jammed" in entry.text for entry in log) == 1
    await agent_of("function", mem).run("Which door is jammed?", memory=DeltaMemory.from_defaults(mem, "alice", "s2"))
    assert "It is jammed." in prompts[-1]


async def test_a_turn_that_broke_off_is_journalled_with_the_next(mem: DeltaMem, speak: Speak) -> None:
    agent, memory = agent_of("function", mem), DeltaMemory.from_defaults(mem, "alice")

    def breaks(_: str) -> str:
        raise OSError("out of order")

    speak(mem, breaks, "Noted.")
    with pytest.raises(OSError, match="out of order"):
        await agent.run(FACT, memory=memory)
    assert texts(mem) == []
    await agent.run(QUESTION, memory=memory)
    assert texts(mem) == [FACT, QUESTION, "Noted."]


@pytest.mark.slow  # two processes that import torch and LlamaIndex
def test_the_example_remembers_its_first_run(python: Callable[..., Any], url: str) -> None:
    first, second = (python("examples/llama_index_agent.py", "--url", url) for _ in range(2))
    for done in (first, second):
        assert done.returncode == 0, done.stderr
        assert "- user: My favourite colour is teal." in done.stdout
        assert "tuesday  agent: teal" in done.stdout
    assert "remembered" not in first.stdout and "4 messages are remembered" in second.stdout
