"""Whole agents: users at once, restarts, streaming, interrupts, tools that fail or run at once, a sub-agent."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Callable
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import HumanInTheLoopMiddleware, ToolRetryMiddleware
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command

from deltamem_agents import DeltaMem
from langchain_deltamem import (
    ChatDeltaMem,
    DeltaMemChatMessageHistory,
    DeltaMemMiddleware,
    DeltaMemRetriever,
    DeltaMemStore,
)

FACT, QUESTION = "My locker code is 4417.", "What is my locker code?"


def config(agent: str = "alice", thread: str = "t1") -> Any:
    return {"configurable": {"agent_id": agent, "thread_id": thread}}


def as_alice(past: Any) -> Any:
    """The config of a checkpoint, which keeps the thread and not the agent's id."""
    return {"configurable": {**past["configurable"], "agent_id": "alice"}}


def said(text: str) -> Any:
    return {"messages": [HumanMessage(text)]}


def texts(mem: DeltaMem, agent: str = "alice", session: str | None = None) -> list[str]:
    return [entry.text for entry in mem.agent(agent).log(session)]


def calling(*calls: str) -> str:
    return "".join(f"<tool_call>{call}</tool_call>" for call in calls)


def look_up(word: str) -> str:
    return f'{{"name": "look_up", "arguments": {{"word": "{word}"}}}}'


@tool("look_up")
def looks_up(word: str) -> str:
    """Look a word up."""
    return f"{word}: a word"


def agent_of(mem: DeltaMem, *tools: Any, **options: Any) -> Any:
    chosen = {
        "middleware": [DeltaMemMiddleware(mem, trust_configurable=True)],
        "checkpointer": InMemorySaver(),
        **options,
    }
    return create_agent(ChatDeltaMem(mem=mem, max_tokens=4), list(tools), **chosen)


async def test_two_users_at_once_with_tools(mem: DeltaMem, prompts: list[str], speak: Callable[..., None]) -> None:
    def answer(prompt: str) -> str:
        question = prompt.rpartition("<|user|>")[2]
        return "Noted." if "<|tool|>" in question else calling(look_up("locker"))

    speak(mem, answer)
    agent = agent_of(mem, looks_up)
    for text in ("My locker code is {}.", QUESTION, "What did I say about my locker code?"):
        await asyncio.gather(
            *(
                agent.ainvoke(said(text.format(code)), config(name, f"{name}-{thread}"))
                for thread in (1, 2)
                for name, code in (("alice", "4417"), ("bob", "9023"))
            )
        )
    asked = [prompt for prompt in prompts if "locker" in prompt]
    assert len(asked) == 2 * 2 * 2 * 3  # a tool call and an answer, two users in two threads, three turns
    assert all(("4417" in prompt) != ("9023" in prompt) for prompt in asked)
    assert "9023" not in " ".join(texts(mem, "alice")) and "4417" not in " ".join(texts(mem, "bob"))


def test_a_failing_tool(mem: DeltaMem, speak: Callable[..., None]) -> None:
    @tool
    def broken() -> str:
        """Fail."""
        raise RuntimeError("no such luck")

    speak(mem, calling('{"name": "broken", "arguments": {}}'), "It failed.")
    tries = ToolRetryMiddleware(max_retries=1, initial_delay=0.0, on_failure="continue")
    agent = agent_of(mem, broken, middleware=[tries, DeltaMemMiddleware(mem, trust_configurable=True)])
    agent.invoke(said("Try it."), config())
    log = mem.agent("alice").log()
    assert [entry.role for entry in log] == ["user", "assistant", "tool", "assistant"]
    assert "no such luck" in log[2].text and log[2].metadata["status"] == "error"
    assert log[3].text == "It failed."


@pytest.mark.parametrize("asynchronous", [False, True])
def test_parallel_tool_calls(mem: DeltaMem, speak: Callable[..., None], asynchronous: bool) -> None:
    speak(mem, calling(look_up("teal"), look_up("cello")), "Two words.")
    agent = agent_of(mem, looks_up)
    run = agent.ainvoke(said("Look both up."), config()) if asynchronous else None
    result = asyncio.run(run) if run is not None else agent.invoke(said("Look both up."), config())
    assert [m.text for m in result["messages"] if isinstance(m, ToolMessage)] == ["teal: a word", "cello: a word"]
    assert texts(mem) == ["Look both up.", "", "teal: a word", "cello: a word", "Two words."]


def test_an_interrupted_run_is_journalled_once(mem: DeltaMem, speak: Callable[..., None]) -> None:
    speak(mem, calling(look_up("teal")), "A word.")
    asks = HumanInTheLoopMiddleware(interrupt_on={"look_up": True})
    agent = agent_of(mem, looks_up, middleware=[asks, DeltaMemMiddleware(mem, trust_configurable=True)])
    stopped = agent.invoke(said("Look teal up."), config())
    assert stopped["__interrupt__"]
    assert texts(mem) == ["Look teal up.", ""]
    agent.invoke(Command(resume={"decisions": [{"type": "approve"}]}), config())
    assert texts(mem) == ["Look teal up.", "", "teal: a word", "A word."]


def test_time_travel_with_a_checkpointer(mem: DeltaMem, speak: Callable[..., None]) -> None:
    speak(mem, "Noted.", "It is 4417.", "It is 1234.")
    agent = agent_of(mem)
    first = agent.invoke(said(FACT), config())
    agent.invoke(said(QUESTION), config())
    past = next(
        s for s in agent.get_state_history(config()) if s.values.get("messages") == first["messages"] and not s.next
    )
    edited = [HumanMessage("My locker code is 1234.", id=first["messages"][0].id)]
    branch = agent.update_state(as_alice(past.config), {"messages": edited})
    agent.invoke(said("And now?"), as_alice(branch))
    written = texts(mem)
    assert FACT not in written  # the edit kept its id, so it replaced the message
    assert written.count("My locker code is 1234.") == 1 and written.count("Noted.") == 1
    before = mem.agent("alice").health().position
    agent.invoke(None, as_alice(agent.get_state(config()).config))  # nothing is left to run
    assert mem.agent("alice").health().position == before


def test_a_run_that_is_done_again_writes_once(mem: DeltaMem, speak: Callable[..., None]) -> None:
    speak(mem, "Noted.")
    agent = agent_of(mem)
    agent.invoke(said(FACT), config())
    before_the_model = next(s for s in agent.get_state_history(config()) if s.next == ("model",))
    for _ in range(2):
        agent.invoke(None, as_alice(before_the_model.config))
    assert texts(mem) == [FACT, "Noted."]
    speak(mem, "All right.")
    agent.invoke(None, as_alice(before_the_model.config))
    assert texts(mem) == [FACT, "Noted.", "All right."]


async def test_streaming_tokens_of_an_agent_with_tools(mem: DeltaMem, speak: Callable[..., None]) -> None:
    speak(mem, calling(look_up("teal")), "It is a word for a colour.")
    agent = agent_of(mem, looks_up)
    pieces = [p async for p, _ in agent.astream(said("What is teal?"), config(), stream_mode="messages")]
    spoken = [p.text for p in pieces if p.type == "AIMessageChunk" and p.text]
    assert "".join(spoken).strip() == "It is a word for a colour." and len(spoken) > 3
    assert any(getattr(p, "tool_call_chunks", None) for p in pieces)
    assert texts(mem)[-1].strip() == "It is a word for a colour."


def test_a_sub_agent_has_a_memory_of_its_own(mem: DeltaMem, speak: Callable[..., None]) -> None:
    speak(mem, calling('{"name": "ask", "arguments": {"question": "What is teal?"}}'), "A colour.", "It is a colour.")
    sub = create_agent(
        ChatDeltaMem(mem=mem, max_tokens=4), middleware=[DeltaMemMiddleware(mem, lambda *_: "librarian")]
    )

    @tool
    def ask(question: str) -> str:
        """Ask the librarian."""
        return str(sub.invoke(said(question))["messages"][-1].text)

    agent_of(mem, ask).invoke(said("Find out what teal is."), config())
    assert texts(mem, "librarian") == ["What is teal?", "A colour."]
    assert texts(mem, "alice") == ["Find out what teal is.", "", "A colour.", "It is a colour."]


@pytest.mark.slow  # a process that imports torch and LangChain
def test_a_restart_between_turns(python: Callable[..., Any], mem: DeltaMem, url: str) -> None:
    agent_of(mem).invoke(said(FACT), config())
    mem.close()
    script = """
import sys
from langchain.agents import create_agent
from deltamem_agents import DeltaMem
from langchain_deltamem import ChatDeltaMem, DeltaMemMiddleware
with DeltaMem.open("tiny", url=sys.argv[1], embedder=False) as mem:
    agent = create_agent(ChatDeltaMem(mem=mem, max_tokens=4), middleware=[DeltaMemMiddleware(mem, "alice")])
    said = {"messages": [("user", sys.argv[2])]}
    agent.invoke(said, {"configurable": {"thread_id": sys.argv[3]}})
    print([entry.text for entry in mem.agent("alice").log() if entry.role == "user"])
    print(mem.agent("alice").recall(sys.argv[2], generate=False).text)
"""
    done = python("-c", script, url, QUESTION, "b")
    assert done.returncode == 0, done.stderr
    assert f"{[FACT, QUESTION]}" in done.stdout
    assert f"- user: {FACT}" in done.stdout


async def lateness(call: Any) -> tuple[float, float]:
    """How long a call took, and by how much a task that ticks in the same loop was late at worst; seconds."""
    late, done = [0.0], asyncio.Event()

    async def tick() -> None:
        last = time.perf_counter()
        while not done.is_set():
            await asyncio.sleep(0.005)
            now = time.perf_counter()
            late.append(now - last - 0.005)
            last = now

    ticking = asyncio.create_task(tick())
    started = time.perf_counter()
    await call
    took = time.perf_counter() - started
    done.set()
    await ticking
    return took, max(late)


async def test_a_fold_under_way_never_blocks_the_loop(mem: DeltaMem) -> None:
    agent, store = agent_of(mem, store=DeltaMemStore(mem)), DeltaMemStore(mem)
    history = DeltaMemChatMessageHistory(mem, "alice", "history")
    await agent.ainvoke(said("Hi"), config("bob", "warm"))  # what is imported and made on first use is LangChain's
    worst = 1.0
    for attempt in range(8):  # a busy machine may pause anybody now and then; a call that blocks does so each time
        long = [{"role": "user", "content": f"Fact {n}: the code of locker {n} is {n * 37}. " * 6} for n in range(40)]
        mem.agent("alice").write(long, f"old {attempt}", wait=False)
        took, late = await lateness(
            asyncio.gather(
                mem.agent("alice").astate(),  # folds it
                agent.ainvoke(said(QUESTION), config(thread=f"t{attempt}")),
                store.aput(("users",), "k", {"text": f"tea {attempt}"}),
                store.asearch(("users",), query="tea"),
                history.aadd_messages([HumanMessage(FACT)]),
                DeltaMemRetriever(mem=mem, agent_id="alice").ainvoke(QUESTION),
            )
        )
        assert took > 0.3, f"the fold took {took:.3f} s, too short to tell"
        worst = min(worst, late)
        if worst < 0.05:
            break
    assert worst < 0.05


@pytest.mark.parametrize("asynchronous", [False, True])
def test_tools_to_remember_recall_and_forget(mem: DeltaMem, speak: Callable[..., None], asynchronous: bool) -> None:
    def call(name: str, argument: str, value: str) -> str:
        return calling(f'{{"name": "{name}", "arguments": {{"{argument}": "{value}"}}}}')

    def forgets(prompt: str) -> str:
        found = re.findall(r'"id": "(remember:\w+)", .*"text": "The locker', prompt)
        return call("forget", "id", found[-1])

    speak(
        mem,
        call("remember", "text", "The locker code is 4417."),
        "I will keep that.",
        call("recall", "query", "locker code"),
        forgets,
        call("forget", "id", "nothing"),
        "Gone.",
    )
    agent = agent_of(mem, middleware=[DeltaMemMiddleware(mem, tools=True, trust_configurable=True)])

    def run(text: str, thread: str) -> list[str]:
        given = said(text), config(thread=thread)
        result = asyncio.run(agent.ainvoke(*given)) if asynchronous else agent.invoke(*given)
        return [message.text for message in result["messages"] if isinstance(message, ToolMessage)]

    assert run("Keep this.", "a") == ["Remembered."]
    assert texts(mem) == ["Keep this.", "The locker code is 4417.", "I will keep that."]
    found, *rest = run("Forget my locker.", "b")
    introduction, *lines = found.splitlines()
    assert "not instructions" in introduction
    assert [json.loads(line)["text"] for line in lines][:1] == ["The locker code is 4417."]
    assert rest == ["Forgotten.", "Nothing has this id."]
    assert texts(mem) == ["Keep this.", "I will keep that.", "Forget my locker.", "Gone."]


def test_tools_serve_the_agent_of_the_run(mem: DeltaMem, speak: Callable[..., None]) -> None:
    mem.agent("bob").write([{"role": "user", "content": FACT}])
    speak(mem, calling('{"name": "recall", "arguments": {"query": "locker code"}}'), "Nothing.")
    agent = agent_of(mem, middleware=[DeltaMemMiddleware(mem, tools=True, trust_configurable=True)])
    result = agent.invoke(said("Search."), config("alice"))
    assert [m.text for m in result["messages"] if isinstance(m, ToolMessage)] == ["Nothing was found."]
    assert DeltaMemMiddleware(mem, trust_configurable=True).tools == []
