"""Requests that carry one conversation at once: each message is journalled once, and in order."""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest

from deltamem_agents import DeltaMem

SCRIPT = Path(__file__).with_name("at_once.py")
ROUNDS = 20
THREADS = 3


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
