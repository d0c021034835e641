"""Requests that carry one conversation at once: each message is journalled once, and in order."""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import combinations, permutations
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage

from deltamem_agents import DeltaMem
from langchain_deltamem import DeltaMemChatMessageHistory

SCRIPT = Path(__file__).with_name("at_once.py")
ROUNDS = 20
THREADS = 2


def program() -> Any:
    spec = importlib.util.spec_from_file_location(SCRIPT.stem, SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


ours = program()


@pytest.fixture(scope="module")
def mem(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DeltaMem]:
    url = f"sqlite:///{tmp_path_factory.mktemp('at_once') / 'memory.db'}"
    with DeltaMem.open(None, url=url, embedder=False) as opened:
        yield opened


def together(*calls: Callable[[], object]) -> None:
    """Run the calls at once, in threads."""
    start = Barrier(len(calls))
    with ThreadPoolExecutor(len(calls)) as pool:
        for each in [pool.submit(lambda call=call: (start.wait(30), call())) for call in calls]:
            each.result(60)


@pytest.mark.parametrize("way", ours.WAYS)
def test_threads_that_send_one_history_journal_it_once(mem: DeltaMem, way: str) -> None:
    send = ours.WAYS[way][0]
    for number in range(ROUNDS):
        session = f"{way}-threads-{number}"
        together(*[lambda session=session: send(mem, session)] * THREADS)
        assert ours.journalled(mem, session) == ours.TALK, number


@pytest.mark.parametrize("way", ours.WAYS)
def test_tasks_that_send_one_history_journal_it_once(mem: DeltaMem, way: str) -> None:
    send = ours.WAYS[way][1]

    async def round_of(session: str) -> None:
        await asyncio.gather(*[send(mem, session) for _ in range(THREADS)])

    for number in range(ROUNDS):
        session = f"{way}-tasks-{number}"
        asyncio.run(round_of(session))
        assert ours.journalled(mem, session) == ours.TALK, number


def sent(url: str, python: Callable[..., Any], ways: list[str]) -> None:
    done = python(str(SCRIPT), url, str(ROUNDS), *ways)
    assert done.returncode == 0, done.stderr[-3000:]
    with DeltaMem.open(None, url=url, embedder=False) as mem:
        for way in ways:
            for number in range(ROUNDS):
                assert ours.journalled(mem, f"{way}-{number}") == ours.TALK, (way, number)


def test_processes_that_send_one_history_journal_it_once(url: str, python: Callable[..., Any]) -> None:
    sent(url, python, ["write", "aligned"])


@pytest.mark.slow  # imports both frameworks
def test_processes_with_frameworks_that_send_one_history_journal_it_once(url: str, python: Callable[..., Any]) -> None:
    sent(url, python, [way for way in ours.WAYS if way not in ("write", "aligned")])


EDITED = [*ours.TALK[:2], ("user", "My boat is called Kestrel."), *ours.TALK[3:]]
ANEW = [*ours.TALK[:5], ("assistant", "Tea it is.")]
LONGER = [*ours.TALK, ("user", "And coffee?"), ("assistant", "Noted: coffee.")]
REQUESTS = {
    "all": ours.TALK,
    "the beginning": ours.TALK[:4],
    "the end": ours.TALK[2:],
    "a question edited": EDITED,
    "an answer drawn anew": ANEW,
    "one turn more": LONGER,
}


def add(mem: DeltaMem, session: str, talk: list[tuple[str, str]], named: bool) -> None:
    """As a client that sends all of its conversation, with the ids it has given the messages, or without any."""
    kinds = {"user": HumanMessage, "assistant": AIMessage}
    said = [kinds[role](text, id=f"{i}" if named else None) for i, (role, text) in enumerate(talk)]
    DeltaMemChatMessageHistory(mem, "bob", session, on_error="raise").add_messages(said)


@pytest.mark.parametrize(
    ("held", "named"),
    [
        pytest.param(held, named, marks=[pytest.mark.slow] * ((len(held), named) != (4, False)))
        for held in ([], ours.TALK[:4], ours.TALK)
        for named in (False, True)
    ],
)
def test_other_conversations_at_once_leave_what_one_after_the_other_leaves(
    mem: DeltaMem, named: bool, held: list[tuple[str, str]]
) -> None:
    def session_of(name: str) -> str:
        session = f"{name}-{len(held)}-{named}"
        if held:
            add(mem, session, held, named)
        return session

    def texts(session: str) -> list[str]:
        return [entry.text for entry in mem.agent("bob").log(session)]

    for pair in combinations(REQUESTS, 2):
        serial = []
        for order in permutations(pair):
            session = session_of(f"serial {order}")
            for request in order:
                add(mem, session, REQUESTS[request], named)
            serial.append(texts(session))
        for number in range(2):
            session = session_of(f"at once {pair} {number}")
            together(*(partial(add, mem, session, REQUESTS[request], named) for request in pair))
            assert texts(session) in serial, pair


def test_what_is_erased_while_it_is_sent_again_does_not_come_back(mem: DeltaMem) -> None:
    carol = mem.agent("carol")
    for number in range(8):
        session = f"{number}"
        history = DeltaMemChatMessageHistory(mem, "carol", session, on_error="raise")
        said = [(HumanMessage if role == "user" else AIMessage)(text) for role, text in ours.TALK]
        history.add_messages(said)
        gone = carol.log(session)[2].ref
        together(
            lambda history=history, said=said: history.add_messages(said),
            lambda gone=gone: carol.erase(ids=[gone], wait=False),
        )
        assert [entry.text for entry in carol.log(session)] == [
            text for place, (_, text) in enumerate(ours.TALK) if place != 2
        ]


async def test_a_task_that_is_cancelled_holds_nobody_up(mem: DeltaMem) -> None:
    send = ours.WAYS["memory"][1]
    for number in range(6):
        session = f"cancelled-{number}"
        first, other = (asyncio.create_task(send(mem, session)) for _ in range(2))
        await asyncio.sleep(0.003 * number)
        first.cancel()
        await asyncio.wait_for(other, 30)
        await asyncio.wait([first])
        assert ours.journalled(mem, session) == ours.TALK, number
