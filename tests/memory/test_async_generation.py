"""Async calls that wait for the engine hold no thread, fill its rows, and end when they are cancelled."""

from __future__ import annotations

import asyncio
import inspect
import time
from typing import Any

import pytest

from deltamem_agents import DeltaMem
from deltamem_agents.engine import Sampling
from deltamem_agents.errors import ClosedError, ContextLengthError
from deltamem_agents.memory import AgentMemory

ASKED = [{"role": "user", "content": "Tell me about the lighthouse."}]


def running(mem: DeltaMem) -> int:
    return mem.engine.stats().generating


async def until(condition: Any, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        await asyncio.sleep(0.002)


def long(tokens: int) -> dict[str, Any]:
    return {"sampling": Sampling(max_tokens=tokens, temperature=5.0, seed=1), "mode": "vector"}


async def test_sixty_four_at_once_fill_the_rows_and_leave_the_threads_free(mem: DeltaMem) -> None:
    mem.agent("other").write([{"role": "user", "content": "My dog is Rex."}], "s1")
    tasks = [asyncio.ensure_future(mem.agent(f"a{n}").agenerate(ASKED, **long(60))) for n in range(64)]
    most = 0
    answered = None
    while not all(task.done() for task in tasks):
        most = max(most, running(mem))
        if most > 32 and answered is None:
            answered = await asyncio.wait_for(mem.agent("other").alog(), 5)
        await asyncio.sleep(0.001)
    assert most > 32, f"only {most} rows were used"
    assert answered is not None and answered[0].text == "My dog is Rex."
    for task in tasks:
        assert (await task).usage.answer_tokens > 0


@pytest.mark.parametrize("name", ["agenerate", "achat", "arecall"])
async def test_a_cancelled_call_leaves_the_engine(mem: DeltaMem, name: str) -> None:
    agent = mem.agent("a")
    agent.write([{"role": "user", "content": "My dog is Rex."}], "s1")
    before = len(agent.log())
    for _ in range(3):
        if name == "arecall":
            call = agent.arecall("Tell me everything.", mode="state")
        else:
            call = getattr(agent, name)(ASKED, **(long(1500) | {"mode": "state"}))
        task = asyncio.ensure_future(call)
        await until(lambda task=task: running(mem) or task.done())
        if task.done():
            assert name == "arecall"  # the answer is short: it may end first
            continue
        task.cancel()
        with pytest.raises(asyncio.CancelledError) as caught:
            await task
        assert f"{name} was cancelled; it has journalled nothing, and will not" in caught.value.__notes__
        await until(lambda: not running(mem), 5.0)
    assert len(agent.log()) == before


async def test_an_abandoned_stream_leaves_the_engine(mem: DeltaMem) -> None:
    stream = mem.agent("a").astream(ASKED, **long(1500))
    await anext(stream)
    await stream.aclose()
    await until(lambda: not running(mem), 5.0)


async def test_errors_come_from_each_step(mem: DeltaMem) -> None:
    agent = mem.agent("a")
    with pytest.raises(ContextLengthError):
        await agent.agenerate(ASKED, sampling=Sampling(max_tokens=900_000))
    agent.write([{"role": "user", "content": "My dog is Rex."}])
    with pytest.raises(ContextLengthError):
        await agent.arecall("word " * 5000)


async def test_closing_waits_for_calls_of_another_loop_and_not_for_its_own(mem: DeltaMem) -> None:
    agent = mem.agent("a")
    task = asyncio.ensure_future(agent.agenerate(ASKED, **long(200)))
    await until(lambda: running(mem) or task.done())
    await mem.aclose()
    assert (await task).usage.answer_tokens > 0  # it was waited for


async def test_closing_within_the_loop_does_not_wait_for_what_cannot_go_on(mem: DeltaMem) -> None:
    task = asyncio.ensure_future(mem.agent("a").agenerate(ASKED, **long(1500)))
    await until(lambda: running(mem))
    started = time.monotonic()
    mem.close()
    assert time.monotonic() - started < 8
    with pytest.raises(ClosedError):
        await task


def test_signatures_tell_what_is_returned() -> None:
    for name, result in {"recall": "Recall", "generate": "Reply", "chat": "Reply"}.items():
        assert inspect.signature(getattr(AgentMemory, name)).return_annotation == result
