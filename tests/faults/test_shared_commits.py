"""Threads that share a transaction: each gets its own result or error, and what one does wrong harms no other."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from deltamem_agents.errors import ConfigError, StoreError, UnknownAgentError
from deltamem_agents.store import Revision, Selection, Store
from tests.databases import engine_of, held, pool_threads, refuse, stand_still, watched

SECONDS = 20.0  # then something hangs


@pytest.fixture
def store(tmp_path: Path) -> Any:
    with Store.open(f"sqlite:///{tmp_path / 'memory.db'}") as opened:
        opened.append("alice", [{"role": "user", "content": "first"}], "s")
        yield opened


def under_way(store: Store) -> AbstractContextManager[None]:
    """A write that is under way meanwhile; others wait for it."""
    return held(store, lambda: store.states.drop("alice"))


def say(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def test_writes_that_wait_are_one_transaction(store: Store) -> None:
    commits: list[object] = []
    engine = engine_of(store)
    with ThreadPoolExecutor(6, thread_name_prefix="waits") as pool:
        with under_way(store):
            event.listen(engine, "commit", commits.append)
            told = [pool.submit(store.append, f"a{i % 3}", say(str(i)), "s") for i in range(6)]
            stand_still(pool_threads("waits"))
        ids = [each.result(SECONDS) for each in told]
    assert len(commits) == 2  # that which was under way, and one for all six
    stored = {entry.id: entry.text for i in range(3) for entry in store.live(f"a{i}")}
    assert stored == {ids[i][0]: str(i) for i in range(6)}


def test_one_that_fails_harms_no_other(store: Store) -> None:
    refuse(store, "half")
    calls: list[Any] = [
        lambda: store.append("bob", [{"role": "user", "content": "one"}], "s"),
        lambda: store.states.commit("nobody", Revision(position=1, epoch=1, fingerprint="f", state=b"x"), after=0),
        lambda: store.append("half", [*say("whole"), *say("half")], "s"),
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

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(calls))]
    with under_way(store):
        for each in threads:
            each.start()
        stand_still(threads)
    for each in threads:
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
            try:
                store.append("carol", say("interrupted"), "s")
            except BaseException as error:
                raised.append(error)

        first = threading.Thread(target=run)

        def interrupt(
            _connection: Any, _cursor: Any, _statement: str, parameters: Any, *_: Any, by: Any = first
        ) -> None:
            if threading.current_thread() is by and "interrupted" in str(parameters):
                raise Interrupted

        with (
            watched(engine_of(store), "before_cursor_execute", interrupt),
            ThreadPoolExecutor(3, thread_name_prefix="waits") as pool,
        ):
            with under_way(store):
                first.start()
                stand_still([first])
                said = [pool.submit(store.append, "bob", say(str(i)), "s") for i in range(3)]
                stand_still(pool_threads("waits"))
            ids += [each for written in said for each in written.result(SECONDS)]
            first.join(30)
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
    other = threading.Thread(target=lambda: store.append("carol", say("slow"), "s"))
    both: list[str] = []  # what the other thread writes

    def slow(_connection: Any, _cursor: Any, _statement: str, parameters: Any, *_: Any) -> None:
        if threading.current_thread() is other:
            both.extend(each for each in ("slow", "said once") if each in str(parameters))
            if "said once" in both:
                writing.set()
                end.wait(SECONDS)

    def interrupt() -> None:
        stand_still([main])  # it waits for the write that is under way, as the other thread does
        release.set()
        assert writing.wait(SECONDS)
        signal.pthread_kill(main.ident or 0, signal.SIGINT)
        end.wait(0.3)
        end.set()

    begun, release = threading.Event(), threading.Event()

    def keep() -> None:
        with under_way(store):
            begun.set()
            release.wait(SECONDS)

    threads = [threading.Thread(target=keep), other, threading.Thread(target=interrupt)]
    with watched(engine_of(store), "after_cursor_execute", slow):
        threads[0].start()
        assert begun.wait(SECONDS)
        other.start()
        stand_still([other])
        threads[2].start()
        with pytest.raises(KeyboardInterrupt):
            store.append("bob", say("said once"), "s")
        before = [entry.text for entry in store.live("bob")]
        for thread in threads:
            thread.join(30)
    assert set(both) == {"slow", "said once"}
    store.append("bob", say("said later"), "s")
    assert [entry.text for entry in store.live("bob")] == [*before, "said later"]
