"""An async call that is cancelled says what is journalled, and journals nothing afterwards."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import HumanMessage

from deltamem_agents import DeltaMem
from langchain_deltamem import DeltaMemChatMessageHistory

SAID = [{"role": "user", "content": "My locker code is 4417.", "id": "1"}]


async def cancelled(call: Any, when: Callable[[], bool]) -> asyncio.CancelledError:
    """The error of a call that is cancelled once something is so."""
    task = asyncio.ensure_future(call)
    await asyncio.sleep(0.05)  # it has begun
    while not when():
        await asyncio.sleep(0.002)
    task.cancel()
    try:
        await task
    except asyncio.CancelledError as error:
        return error
    raise AssertionError("it was not cancelled")


def calls_of(mem: DeltaMem) -> dict[str, Callable[[], Any]]:
    alice, history = mem.agent("alice"), DeltaMemChatMessageHistory(mem, "alice", on_error="raise")
    return {
        "awrite": lambda: alice.awrite(SAID),
        "history": lambda: history.aadd_messages([HumanMessage("My locker code is 4417.", id="1")]),
    }


@pytest.mark.parametrize("name", ["awrite", "history"])
async def test_cancelled_before_in_and_after_the_transaction(
    mem: DeltaMem, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    call, append = calls_of(mem)[name], mem.store.append
    begun, go_on = threading.Event(), threading.Event()

    # All threads are busy: it has not begun.
    for _ in range(8):
        mem.pool.submit(go_on.wait, 20)
    error = await cancelled(call(), lambda: True)
    go_on.set()
    assert error.journalled == () and "has journalled nothing, and will not" in error.__notes__[0]  # type: ignore[attr-defined]
    assert mem.agent("alice").log() == []

    # Within the transaction: it is waited for.
    def slow(*given: Any) -> Any:
        begun.set()
        time.sleep(0.3)
        return append(*given)

    monkeypatch.setattr(mem.store, "append", slow)
    error = await cancelled(call(), begun.is_set)
    assert error.journalled == ("1",) and "do not write them again" in error.__notes__[0]  # type: ignore[attr-defined]
    assert [entry.id for entry in mem.agent("alice").log()] == ["1"]


async def test_a_database_that_does_not_answer_holds_nobody_up(mem: DeltaMem, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def stuck(*_: Any) -> Any:
        begun.set()
        go_on.wait(20)
        raise OSError("away")

    monkeypatch.setattr(mem.store, "append", stuck)
    started = time.perf_counter()
    error = await cancelled(mem.agent("alice").awrite(SAID), begun.is_set)
    assert time.perf_counter() - started < 5 and error.journalled is None  # type: ignore[attr-defined]
    assert "is not known" in error.__notes__[0]
    go_on.set()


async def test_a_cancelled_chat_journals_nothing(mem: DeltaMem, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, generate = threading.Event(), mem.engine.generate

    def slow(*given: Any, **options: Any) -> Any:
        begun.set()
        time.sleep(0.2)
        return generate(*given, **options)

    monkeypatch.setattr(mem.engine, "generate", slow)
    error = await cancelled(mem.agent("alice").achat(SAID), begun.is_set)
    assert error.journalled == ()  # type: ignore[attr-defined]
    await asyncio.sleep(0.5)
    assert mem.agent("alice").log() == []


async def test_a_timeout_tells_it_too(mem: DeltaMem, monkeypatch: pytest.MonkeyPatch) -> None:
    append = mem.store.append

    def slow(*given: Any) -> Any:
        time.sleep(0.3)
        return append(*given)

    monkeypatch.setattr(mem.store, "append", slow)
    with pytest.raises(TimeoutError) as late:
        async with asyncio.timeout(0.1):
            await mem.agent("alice").awrite(SAID)
    assert late.value.__cause__ is not None and late.value.__cause__.journalled == ("1",)  # type: ignore[attr-defined]


async def test_aopen(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'memory.db'}"
    async with DeltaMem.aopen(backbone=None, url=url, embedder=False) as mem:
        await mem.agent("alice").awrite(SAID)
    mem = await DeltaMem.aopen(backbone=None, url=url, embedder=False)
    assert [entry.id for entry in await mem.agent("alice").alog()] == ["1"]
    await mem.aclose()
    with pytest.raises(TypeError, match="urls"):
        await DeltaMem.aopen(urls=url)
    opening = asyncio.ensure_future(DeltaMem.aopen(backbone=None, url=url, embedder=False))
    await asyncio.sleep(0)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
