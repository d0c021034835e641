"""A busy SQLite database is waited for as long as is documented, in total, whatever queues up for it."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine

from deltamem_agents.errors import StoreError
from deltamem_agents.store import Selection, Store
from deltamem_agents.store.dialects import sqlite
from tests.databases import held as held_up

SECONDS = 1.0
THREADS = 8


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sqlite, "BUSY_SECONDS", SECONDS)
    return tmp_path / "memory.db"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    with Store.open(f"sqlite:///{path}") as opened:
        opened.append("alice", [{"role": "user", "content": "Rex", "id": "m"}], "s")
        yield opened


def held(path: Path, mode: str) -> sqlite3.Connection:
    """A connection of somebody else that keeps the database locked."""
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    if mode == "exclusive":
        other.execute("PRAGMA journal_mode=DELETE")
    other.execute("BEGIN EXCLUSIVE" if mode == "exclusive" else "BEGIN IMMEDIATE")
    return other


def together(calls: list[Callable[[], object]]) -> tuple[list[float], list[BaseException]]:
    """Run all at once: how long each took, and what they raised."""
    taken, raised = [], []

    def run(call: Callable[[], object]) -> None:
        began = time.monotonic()
        try:
            call()
        except BaseException as error:
            raised.append(error)
        taken.append(time.monotonic() - began)

    threads = [threading.Thread(target=run, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return taken, raised


def say(store: Store, i: int) -> Callable[[], object]:
    return lambda: store.append(f"agent{i}", [{"role": "user", "content": f"note {i}"}], "s")


def test_writers_wait_no_longer_in_total(store: Store, path: Path) -> None:
    other = held(path, "immediate")
    taken, raised = together([say(store, i) for i in range(THREADS)])
    assert len(raised) == THREADS and all(isinstance(error, StoreError) for error in raised)
    assert max(taken) < 2 * SECONDS and min(taken) > SECONDS / 2
    assert all("try again" in str(error) for error in raised)
    assert store.live("alice")  # readers are not kept waiting
    other.execute("ROLLBACK")
    assert together([say(store, i) for i in range(THREADS)])[1] == []
    assert len(store.agents()) == THREADS + 1


def test_who_waited_long_enough_writes_when_it_is_free(store: Store, path: Path) -> None:
    other = held(path, "immediate")
    timer = threading.Timer(SECONDS / 2, lambda: other.execute("ROLLBACK"))
    timer.start()
    assert together([say(store, i) for i in range(THREADS)])[1] == []
    timer.join()


def test_readers_too(store: Store, path: Path) -> None:
    store.close()
    sqlite3.connect(path).execute("PRAGMA journal_mode=DELETE")
    stores = [Store.open(f"sqlite:///{path}") for _ in range(2)]
    for each in stores:
        each.close()
    other = held(path, "exclusive")
    began = time.monotonic()
    with pytest.raises(StoreError, match="try again"):
        Store.open(f"sqlite:///{path}")
    assert time.monotonic() - began < 2 * SECONDS
    other.execute("ROLLBACK")


def test_one_connection_for_all_and_a_thread_that_keeps_it(path: Path) -> None:
    with Store.open("sqlite://") as store:
        store.append("alice", [{"role": "user", "content": "Rex"}], "s")
        calls = [say(store, i) for i in range(4)] + [lambda: store.live("alice")] * 4
        with held_up(store, lambda: store.live("alice")):
            taken, raised = together(calls)
        assert len(raised) == 8 and max(taken) < 2 * SECONDS
        assert all(isinstance(error, StoreError) and "try again" in str(error) for error in raised)
        assert together(calls)[1] == []


def test_an_erasure_is_pending_where_the_files_are_in_use(store: Store, path: Path) -> None:
    store.erase("alice", Selection(ids=["m"]))
    other = held(path, "immediate")
    assert "locked" in str(store.purge())
    other.execute("ROLLBACK")
    assert store.purge() is None


def test_an_engine_of_the_callers_keeps_its_own_time(path: Path) -> None:
    engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": 0.2})
    with Store.open(engine=engine) as store:
        say(store, 0)()
        other = held(path, "immediate")
        taken, raised = together([say(store, i) for i in range(THREADS)])
        assert len(raised) == THREADS and max(taken) < 2 * SECONDS + 0.2
        other.execute("ROLLBACK")
        say(store, 1)()
    engine.dispose()
