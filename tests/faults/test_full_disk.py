"""The disk is full: a clear error, nothing acknowledged is lost, and all works again when there is room.

SQLite's ``max_page_count`` stands for the end of the disk: a transaction that would need one page more fails like one
that meets ``ENOSPC``.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, create_engine, event

from deltamem_agents import DeltaMem
from deltamem_agents.errors import StoreError
from deltamem_agents.store import Selection, Store
from tests.databases import problems

PLENTY = 1 << 30
Limited = tuple[Engine, Callable[[int], None]]


@pytest.fixture
def limited(tmp_path: Path) -> Iterator[Limited]:
    """An engine on a file, and what says how many pages more it may take."""
    engine = create_engine(f"sqlite:///{tmp_path / 'memory.db'}", connect_args={"check_same_thread": False})
    room = [PLENTY]
    event.listen(
        engine,
        "checkout",
        lambda connection, *_: connection.execute(
            f"PRAGMA max_page_count = {connection.execute('PRAGMA page_count').fetchone()[0] + room[0]}"
        ),
    )

    def leave(pages: int) -> None:
        room[0] = pages

    yield engine, leave
    engine.dispose()


def test_a_full_disk_loses_nothing_and_says_what_to_do(limited: Limited) -> None:
    engine, leave = limited
    with Store.open(engine=engine) as store:
        acknowledged = store.append("alice", [{"role": "user", "content": "before"}], "s1")
        leave(2)  # at each transaction: a small message fits now and then, a large one never
        for size in (100, 30_000, 100, 30_000):
            try:
                acknowledged += store.append("alice", [{"role": "user", "content": "word " * size}], "s1")
            except StoreError as error:
                assert "disk is full; free some disk space and try again" in str(error)
                assert "word" not in str(error)
            else:
                assert size == 100
        leave(0)
        with pytest.raises(StoreError, match="disk is full"):
            store.append("alice", [{"role": "user", "content": "word " * 30_000}] * 3, "s1")
        assert [entry.id for entry in store.live("alice")] == acknowledged
        assert len(store.records.read("alice")) == len(acknowledged)

        leave(PLENTY)
        acknowledged += store.append("alice", [{"role": "user", "content": "after " * 30_000}], "s1")
        assert [entry.id for entry in store.live("alice")] == acknowledged
        assert [entry.position for entry in store.live("alice")] == list(range(1, len(acknowledged) + 1))
        assert [hit.message_id for hit, _ in store.records.search_text("alice", ["after"], 9)] == acknowledged[-1:]
        assert problems(store) == []


def test_erasing_on_a_full_disk_is_all_or_nothing_and_the_files_are_cleaned_later(limited: Limited) -> None:
    engine, leave = limited
    with Store.open(engine=engine) as store:
        ids = store.append("alice", [{"role": "user", "content": f"quicksilver {i} " * 500} for i in range(20)], "s1")
        leave(0)
        try:
            store.erase("alice", Selection(ids=ids[:10]))
        except StoreError as error:
            assert "disk is full" in str(error)
            assert [entry.id for entry in store.live("alice")] == ids
        else:
            assert [entry.id for entry in store.live("alice")] == ids[10:]
        leave(PLENTY)
        store.erase("alice", Selection(ids=ids[:10]))
        assert store.purge() is None
        assert [entry.id for entry in store.live("alice")] == ids[10:]
        assert problems(store) == []


def test_a_fold_that_cannot_be_stored_still_answers_and_is_stored_when_there_is_room(limited: Limited) -> None:
    engine, leave = limited
    with DeltaMem.open("tiny", engine=engine, embedder=False) as mem:
        alice = mem.agent("alice")
        alice.write([{"role": "user", "content": "My dog is called Rex."}], "s1", wait=False)
        mem.pool.shutdown(wait=True)  # the fold in the background is through
        mem.store.states.drop("alice")
        with engine.connect() as connection:  # no free page that a state would fit into
            connection.exec_driver_sql("VACUUM")
        leave(0)
        state = alice.state()
        assert state and mem.store.states.revisions("alice") == []
        leave(PLENTY)
        again = alice.state()
        assert [revision.position for revision in mem.store.states.revisions("alice")] == [1]
        assert all(bool((again[name] == tensor).all()) for name, tensor in state.items())


def test_a_file_that_may_not_grow_loses_nothing(tmp_path: Path) -> None:
    # The log fails here, where `max_page_count` fails before anything is written to it.
    program = (
        "import resource, sys; from deltamem_agents.errors import StoreError; from deltamem_agents.store import Store\n"
        "store = Store.open(sys.argv[1])\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, resource.RLIM_INFINITY))\n"
        "for i in range(10_000):\n"
        "    try:\n"
        "        store.append('alice', [{'role': 'user', 'content': f'message {i} ' * 200, 'id': str(i)}], 's')\n"
        "    except StoreError as error:\n"
        "        print('full:', error)\n"
        "        break\n"
        "    print(i)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))\n"
        "store.append('alice', [{'role': 'user', 'content': 'after', 'id': 'after'}], 's')\n"
    )
    url = f"sqlite:///{tmp_path / 'memory.db'}"
    done = subprocess.run([sys.executable, "-c", program, url], capture_output=True, text=True, check=True, timeout=60)
    *acknowledged, failure = done.stdout.splitlines()
    assert failure.startswith("full: cannot write sqlite:///")
    with Store.open(url) as store:
        assert [entry.id for entry in store.live("alice")] == [*acknowledged, "after"]
        assert problems(store) == []
