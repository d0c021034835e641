"""Async twins of time travel, erasure and moving house: the same results, and a loop that is never blocked."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from deltamem_agents.errors import ClosedError
from deltamem_agents.memory import AgentMemory, DeltaMem, Difference, Drift, Health, Receipt, StatePoint
from tests.databases import engine_of, watched

SLOW = 0.4  # seconds that each call's first visit to the database takes
MESSAGES = [
    {"role": "user", "content": text, "id": f"m{number}"}
    for number, text in enumerate(["My dog is Rex.", "I live in Oslo.", "Mara plays the cello.", "Good night."])
]
OF_AGENTS: dict[str, tuple[Any, ...]] = {
    "log": ("s1",),
    "sessions": (),
    "state": (),
    "rebuild": (),
    "verify": (),
    "diff": (1, 3),
    "fork": ("{} fork",),
    "rollback": (2,),
    "health": (),
    "trend": (),
    "delete": (),
}


def plain(value: Any) -> Any:
    """What can be compared of a result: without names, times and random numbers."""
    if isinstance(value, AgentMemory):
        return [(entry.text, entry.position) for entry in value.log()]
    if isinstance(value, Receipt):
        return value.status, [(each.ids, each.messages, each.records, each.revisions) for each in value.erased]
    if isinstance(value, Drift):
        return value.position, value.worst < 1e-4
    if isinstance(value, Health):
        return replace(value, epoch=0, folded_at=None)
    if isinstance(value, Difference):
        return (
            [entry.text for entry in value.added],
            [entry.text for entry in value.removed],
            [round(moved, 3) for moved in value.layers.values()],
        )
    if isinstance(value, dict):
        return {name: round(float(tensor.norm()), 3) for name, tensor in value.items()}
    if isinstance(value, list):
        return [
            replace(each, at=None) if isinstance(each, StatePoint) else getattr(each, "text", each) for each in value
        ]
    return value


@pytest.fixture
def slow(mem) -> Iterator[Callable[[], None]]:
    """From now on the database takes its time, once a call of the function that this gives."""
    waiting = [False]

    def wait(*_: Any) -> None:
        if waiting[0]:
            waiting[0] = False
            time.sleep(SLOW)

    with watched(engine_of(mem.store), "before_cursor_execute", wait):
        yield lambda: waiting.__setitem__(0, True)


async def longest_gap(call: Any) -> tuple[Any, float]:
    """A call's result, and the longest that the loop was away from a task that only ticks."""
    gaps = [0.0]

    async def tick() -> None:
        last = time.perf_counter()
        while True:
            await asyncio.sleep(0.005)
            now = time.perf_counter()
            gaps.append(now - last)
            last = now

    ticking = asyncio.create_task(tick())
    await asyncio.sleep(0.01)
    try:
        result = await call
        await asyncio.sleep(0.01)
        return result, max(gaps)
    finally:
        ticking.cancel()


async def assert_twins(target: Any, name: str, slow: Callable[[], None], sync: tuple, asynchronous: tuple) -> None:
    twin = getattr(target[1], f"a{name}")
    wanted = plain(getattr(target[0], name)(*sync[0], **sync[1]))
    slow()
    started = time.perf_counter()
    result, gap = await longest_gap(twin(*asynchronous[0], **asynchronous[1]))
    assert time.perf_counter() - started > SLOW, "the slow database was not visited"
    assert gap < SLOW / 2, f"a{name} blocked the loop for {gap:.3f} s"
    assert plain(result) == wanted


@pytest.fixture
def pair(mem) -> tuple[AgentMemory, AgentMemory]:
    """Two agents that were told the same."""
    for name in ("one", "two"):
        mem.agent(name).write(MESSAGES, "s1")
    return mem.agent("one"), mem.agent("two")


@pytest.mark.parametrize("name", OF_AGENTS)
async def test_twins_of_an_agent(pair, slow, name) -> None:
    one, two = (
        [each.format(agent.id) if isinstance(each, str) else each for each in OF_AGENTS[name]] for agent in pair
    )
    await assert_twins(pair, name, slow, (one, {}), (two, {}))


@pytest.mark.parametrize("given", [{"ids": ["m1"]}, {"session": "s1", "forks": True}, {"ids": ["m0"], "dry_run": True}])
async def test_twin_of_erase(pair, slow, given) -> None:
    await assert_twins(pair, "erase", slow, ((), given), ((), given))


@pytest.mark.parametrize("given", [{"at": 2}, {"session": "s1", "at": 3}])
async def test_twin_of_log_at_a_position(pair, slow, given) -> None:
    await assert_twins(pair, "log", slow, ((), given), ((), given))


async def test_twins_of_the_memory(mem, pair, slow, tmp_path) -> None:
    both = (mem, mem)
    for name in ("one", "two"):
        mem.export(name, tmp_path / f"{name}.zip")
    await assert_twins(both, "export", slow, (("one", tmp_path / "a.zip"), {}), (("two", tmp_path / "b.zip"), {}))
    await assert_twins(
        both, "import_", slow, ((tmp_path / "one.zip",), {"agent": "3"}), ((tmp_path / "two.zip",), {"agent": "4"})
    )
    pair[0].erase(ids=["m1"])
    await assert_twins(both, "purge", slow, ((), {}), ((), {}))


async def test_errors_come_through(mem) -> None:
    for call in (mem.agent("nobody").arollback(0), mem.agent("nobody").aerase(ids=["m"]), mem.aexport("nobody", "x")):
        with pytest.raises(LookupError, match="nobody"):
            await call


@pytest.mark.parametrize("kind", [AgentMemory, DeltaMem])
def test_every_method_that_visits_the_database_has_a_twin_with_its_arguments(kind) -> None:
    alone = {"agent", "check_open", "open", "from_dict", "to_dict"}
    names = [name for name, _ in inspect.getmembers(kind, inspect.isfunction) if not name.startswith("_")]
    plain_names = [
        name for name in names if f"a{name}" in names or not inspect.iscoroutinefunction(getattr(kind, name))
    ]
    for name in plain_names:
        if name in alone or (name.startswith("a") and name[1:] in names):
            continue
        assert f"a{name}" in names, f"{kind.__name__}.{name} has no async twin"
        assert list(inspect.signature(getattr(kind, f"a{name}")).parameters) == list(
            inspect.signature(getattr(kind, name)).parameters
        )


async def test_twins_of_a_closed_memory_say_so(mem) -> None:
    agent = mem.agent("a")
    mem.close()
    for call in (agent.alog(), agent.arecall("x"), agent.awrite(MESSAGES)):
        with pytest.raises(ClosedError):
            await call
