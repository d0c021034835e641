"""What SQLite leaves in the unused space of its file is overwritten, and nothing else is touched."""

from __future__ import annotations

import random
import sqlite3
import threading
from pathlib import Path

import pytest

from deltamem_agents.store import Selection, Store
from deltamem_agents.store.dialects import unused_space
from deltamem_agents.store.dialects.purging import purge


def files(path: Path) -> bytes:
    return b"".join(each.read_bytes() for each in path.parent.iterdir() if each.name.startswith(path.name))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("page", [512, 4096])
@pytest.mark.parametrize("vacuum", ["NONE", "INCREMENTAL"])
def test_rows_that_were_moved_and_deleted_are_gone(tmp_path: Path, seed: int, page: int, vacuum: str) -> None:
    path, moments = tmp_path / "rows.db", random.Random(seed)
    connection = sqlite3.connect(path, isolation_level=None)
    for pragma in (f"page_size={page}", f"auto_vacuum={vacuum}", "journal_mode=WAL", "secure_delete=ON"):
        connection.execute(f"PRAGMA {pragma}")
    connection.execute("CREATE TABLE t(key INTEGER PRIMARY KEY, id TEXT UNIQUE, body TEXT)")
    connection.execute("CREATE TABLE deltamem_version(version_num)")
    connection.execute("INSERT INTO deltamem_version VALUES ('1')")
    alive, gone = {}, []
    connection.execute("BEGIN")
    for i in range(1500):
        if alive and moments.random() < 0.45:
            key = moments.choice(list(alive))
            gone.append(alive.pop(key))
            connection.execute("DELETE FROM t WHERE key = ?", (key,))
        else:
            key, name = moments.randrange(10**6), f"<{seed}.{i}>"
            if key not in alive:
                alive[key] = name
                connection.execute(
                    "INSERT INTO t VALUES (?, ?, ?)", (key, name, name * moments.choice([1, 5, 50, 900]))
                )
    connection.execute("COMMIT")
    before = connection.execute("SELECT * FROM t ORDER BY key").fetchall()
    assert purge(connection) is None
    left = files(path)
    assert not [name for name in gone if name.encode() in left]
    other = sqlite3.connect(path)
    assert other.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert other.execute("SELECT * FROM t ORDER BY key").fetchall() == before
    assert unused_space.clear(path, set()) == 0  # all is zero by now


@pytest.mark.slow
def test_nothing_comes_back_from_what_other_connections_had_read(tmp_path: Path) -> None:
    """Messages that are replaced, erased and written by several stores, which have pages of the file in memory."""
    path, moments = tmp_path / "memory.db", random.Random(1)
    stores = [Store.open(f"sqlite:///{path}") for _ in range(3)]
    alive, gone, number = {}, [], 0
    for turn in range(30):
        for _ in range(15):
            store, number = moments.choice(stores), number + 1
            key = f"k{moments.randrange(120)}"
            text = f"<text{number}>" * moments.choice([1, 3, 40, 200])
            if key in alive:
                store.erase("alice", Selection(ids=[key]))  # all versions
                gone.append(alive.pop(key))
            else:
                store.append("alice", [{"role": "user", "content": text, "id": key}], "s")
                store.append("alice", [{"role": "user", "content": text + " again", "id": key}], "s")
                alive[key] = f"<text{number}>"
            moments.choice(stores).live("alice")
        if turn % 10 == 9:
            assert moments.choice(stores).purge() is None
            left = files(path)
            assert not [text for text in gone if text.encode() in left]
    for store in stores:
        store.close()
    left = files(path)
    assert len(gone) > 100 and not [text for text in gone if text.encode() in left]
    assert all(text.encode() in left for text in alive.values())


@pytest.mark.slow
def test_writers_and_readers_meanwhile_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "memory.db"
    stop, written, failed = threading.Event(), [], []

    def write(name: str) -> None:
        try:
            with Store.open(f"sqlite:///{path}") as store:
                while not stop.is_set():
                    written.extend(store.append(name, [{"role": "user", "content": f"remark of {name} " * 20}], "s"))
                    assert len(store.records.search_text(name, ["remark"], 1)) == 1
        except BaseException as error:
            failed.append(error)

    Store.open(f"sqlite:///{path}").close()
    threads = [threading.Thread(target=write, args=(f"agent{i}",)) for i in range(3)]
    for thread in threads:
        thread.start()
    with Store.open(f"sqlite:///{path}") as store:
        for i in range(30):
            store.append("alice", [{"role": "user", "content": f"sesame {i} " * 30, "id": f"m{i}"}], "s")
            store.erase("alice", Selection(ids=[f"m{i}"]))
            store.purge()
        stop.set()
        for thread in threads:
            thread.join()
        assert failed == [] and store.purge() is None
        assert sum(info.messages for info in store.agents()) == len(written)
    assert b"sesame" not in files(path)
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        connection.execute("INSERT INTO deltamem_records_fts(deltamem_records_fts, rank) VALUES ('integrity-check', 1)")
