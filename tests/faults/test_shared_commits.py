"""Threads that share a transaction: each gets its own result or error, and what one does wrong harms no other."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, event, text

from deltamem_agents.errors import ConfigError, StoreError, UnknownAgentError
from deltamem_agents.store import Revision, Selection, Store

SECONDS = 20.0  # then something hangs


@pytest.fixture
def store(tmp_path: Path) -> Any:
    with Store.open(f"sqlite:///{tmp_path / 'memory.db'}") as opened:
        opened.append("alice", [{"role": "user", "content": "first"}], "s")
        yield opened


def held(store: Store, waiting: int) -> Any:
    """A write that is under way until so many others wait for it."""
    entered = threading.Event()
    queue = store._database._queue
    assert queue is not None

    def work(_: Connection) -> None:
        entered.set()
        wait_for(queue, waiting)

    thread = threading.Thread(target=store._database.write, args=(work,))
    thread.start()
    assert entered.wait(SECONDS)
    return thread


def wait_for(queue: Any, waiting: int) -> None:
    until = time.monotonic() + SECONDS
    while len(queue._waiting) < waiting and time.monotonic() < until:
        time.sleep(0.001)


def test_writes_that_wait_are_one_transaction(store: Store) -> None:
    commits: list[object] = []
    with ThreadPoolExecutor(6) as pool:
        thread = held(store, 6)
        event.listen(store._database._engine, "commit", commits.append)
        ids = list(pool.map(lambda i: store.append(f"a{i % 3}", [{"role": "user", "content": str(i)}], "s"), range(6)))
        thread.join()
    assert len(commits) == 2  # that which was under way, and one for all six
    stored = {entry.id: entry.text for i in range(3) for entry in store.live(f"a{i}")}
    assert stored == {ids[i][0]: str(i) for i in range(6)}


def test_one_that_fails_harms_no_other(store: Store) -> None:
    def broken(connection: Connection) -> None:
        connection.execute(text("INSERT INTO deltamem_agents (id) VALUES ('half')"))

    calls: list[Any] = [
        lambda: store.append("bob", [{"role": "user", "content": "one"}], "s"),
        lambda: store.commit("nobody", Revision(position=1, epoch=1, fingerprint="f", state=b"x"), after=0),
        lambda: store._database.write(broken),
        lambda: store.fork("alice", "fork"),
        lambda: store.fork("alice", "alice"),
        lambda: store.erase("alice", Selection(session="s")).erased[0].messages,
    ]
    outcomes: list[Any] = [None] * len(calls)

    def run(number: int) -> None:
        try:
            outcomes[number] = calls[number]()
        except Exception as error:
            outcomes[number] = error

    thread = held(store, len(calls))
    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(calls))]
    for each in (*threads, thread):
        if each is not thread:
            each.start()
    for each in (*threads, thread):
        each.join(30)

    assert [type(outcome) for outcome in (outcomes[1], outcomes[2], outcomes[4])] == [
        UnknownAgentError,
        StoreError,
        ConfigError,
    ]
    assert [entry.id for entry in store.live("bob")] == outcomes[0]
    assert outcomes[5] == 1 and store.live("alice") == []
    assert {agent.id for agent in store.agents()} == {"alice", "bob", "fork"}


def test_whoever_is_interrupted_leaves_the_others_to_be_written(store: Store) -> None:
    class Interrupted(BaseException):
        pass

    raised: list[BaseException] = []
    ids: list[str] = []
    for _ in range(50):  # until it is the one to be interrupted that writes for all

        def run() -> None:
            mine = threading.current_thread()

            def interrupted(_: Connection) -> None:
                if threading.current_thread() is mine:
                    raise Interrupted

            try:
                store._database.write(interrupted)
            except BaseException as error:
                raised.append(error)

        thread = held(store, 1)
        first = threading.Thread(target=run)
        first.start()
        with ThreadPoolExecutor(3) as pool:
            said = pool.map(lambda i: store.append("bob", [{"role": "user", "content": str(i)}], "s"), range(3))
            ids += [each for written in said for each in written]
        for each in (thread, first):
            each.join(30)
        if raised:
            break
    assert [type(error) for error in raised] == [Interrupted]
    assert sorted(entry.id for entry in store.live("bob")) == sorted(ids)


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Ctrl-C raises also where the tests run in the background, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_when_an_interrupt_is_raised_the_write_is_over(store: Store) -> None:
    """Another thread may be writing it just then: who looks afterwards must not see it come later."""
    main, writing, end = threading.main_thread(), threading.Event(), threading.Event()
    assert main is threading.current_thread() and main.ident is not None
    queue = store._database._queue
    assert queue is not None

    def slow(_: Connection) -> None:
        if len(queue._waiting) == 0:  # this thread writes both
            writing.set()
            end.wait(SECONDS)

    def interrupt() -> None:
        writing.wait(SECONDS)
        signal.pthread_kill(main.ident or 0, signal.SIGINT)
        end.wait(0.3)
        end.set()

    threads = [held(store, 2), threading.Thread(target=store._database.write, args=(slow,))]
    threads[1].start()
    wait_for(queue, 1)
    threads.append(threading.Thread(target=interrupt))
    threads[2].start()
    with pytest.raises(KeyboardInterrupt):
        store.append("bob", [{"role": "user", "content": "said once"}], "s")
    before = [entry.text for entry in store.live("bob")]
    for thread in threads:
        thread.join(30)
    store.append("bob", [{"role": "user", "content": "said later"}], "s")
    assert [entry.text for entry in store.live("bob")] == [*before, "said later"]
