"""The full-text index on SQLite: erasing does not make it grow; a broken one is found, and made anew."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import event

from deltamem_agents.errors import StoreError
from deltamem_agents.store import Selection, Store, versions
from deltamem_agents.store.database import open_database
from deltamem_agents.store.dialects import fts5, purging
from deltamem_agents.store.dialects.fts5_levels import Level, decoded, encoded, levels, merge
from tests.databases import engine_of

INDEX = "deltamem_records_fts"
ERASURES = 2500


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "memory.db"


def say(text: str, **more: str) -> dict[str, str]:
    return {"role": "user", "content": text, **more}


def height(path: Path) -> int:
    with sqlite3.connect(path) as connection:
        found = levels(connection, INDEX)
    assert found is not None
    return len(found)


def problems(path: Path) -> list[str]:
    database = open_database(f"sqlite:///{path}", None)
    try:
        return versions.differences(database)
    finally:
        database.close()


def repair(path: Path) -> None:
    database = open_database(f"sqlite:///{path}", None)
    try:
        assert versions.repair(database) == ["the full-text index was rebuilt from the records"]
    finally:
        database.close()


@pytest.mark.slow
def test_erasing_one_by_one_leaves_the_number_of_levels_flat(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    agents = [f"agent{i}" for i in range(50)]
    each = ERASURES // len(agents)
    monkeypatch.setattr(os, "fsync", lambda _: None)  # what is tested does not depend on the disk
    with Store.open(f"sqlite:///{path}") as store:
        event.listen(engine_of(store), "checkout", lambda driver, *_: driver.execute("PRAGMA synchronous=OFF"))
        for agent in agents:
            store.append(agent, [say(f"note {i} on subject{i % 50}", id=f"m{i}") for i in range(each + 1)], "s")
        heights = []
        for i in range(each):
            for agent in agents:
                store.erase(agent, Selection(ids=[f"m{i}"]))
                assert store.purge() is None
            heights.append(height(path))
            store.append("meanwhile", [say(f"meanwhile {i}")], "s")
        assert max(heights) <= 8 and heights[-1] <= heights[0] + 1
        assert all(len(store.records.search_text(agent, ["note"], 99)) == 1 for agent in agents)
    assert problems(path) == []


def too_high(path: Path) -> None:
    """An index of more levels than SQLite opens, as 1,000 erasures left one before."""
    with sqlite3.connect(path, isolation_level=None) as connection:
        merge(connection, INDEX)
        block = connection.execute(f"SELECT block FROM {INDEX}_data WHERE id = 10").fetchone()[0]
        counters, found = decoded(block)
        assert found is not None
        block = encoded(counters, [Level(0, ())] * 2100 + found)
        connection.execute(f"UPDATE {INDEX}_data SET block = ? WHERE id = 10", (block,))


def damaged(*statements: str) -> object:
    def damage(path: Path) -> None:
        with sqlite3.connect(path) as connection:
            for statement in statements:
                connection.execute(statement)

    return damage


DAMAGE = {
    "more levels than can be opened": too_high,
    "the list of segments is nonsense": damaged(f"UPDATE {INDEX}_data SET block = x'0102' WHERE id = 10"),
    "pages are gone": damaged(f"DELETE FROM {INDEX}_data WHERE id > 10"),
    "pages are nonsense": damaged(f"UPDATE {INDEX}_data SET block = zeroblob(9) WHERE id > 10"),
    "a table of its own is gone": damaged(f"DROP TABLE {INDEX}_docsize"),
    "a trigger is gone": damaged("DROP TRIGGER deltamem_records_removed"),
    "a trigger does something else": damaged(
        "DROP TRIGGER deltamem_records_removed",
        "CREATE TRIGGER deltamem_records_removed AFTER DELETE ON deltamem_records BEGIN SELECT 1; END",
    ),
    "it is gone": damaged(f"DROP TABLE {INDEX}"),
    "it lacks a record": damaged(
        f"INSERT INTO {INDEX}({INDEX}, rowid, agent_key, text, terms) SELECT 'delete', key, agent_key, text, terms "
        "FROM deltamem_records LIMIT 1"
    ),
    "it has a record too many": damaged(f"INSERT INTO {INDEX}(rowid, agent_key, text) VALUES (99, 1, 'ghost')"),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_broken_index_is_found_and_made_anew(path: Path, damage: object) -> None:
    with Store.open(f"sqlite:///{path}") as store:
        store.append("alice", [say(f"Rex is dog number {i}", id=f"m{i}") for i in range(20)], "s")
        before = store.records.search_text("alice", ["rex"], 99)
        assert len(before) == 20
    damage(path)  # type: ignore[operator]

    found = problems(path)
    assert len(found) == 1 and "full-text index" in found[0] and "deltamem db repair" in found[0], found
    repair(path)

    assert problems(path) == []
    with Store.open(f"sqlite:///{path}") as store:
        assert store.records.search_text("alice", ["rex"], 99) == before
        store.append("alice", [say("Rex barks")], "s")
        assert len(store.records.search_text("alice", ["rex"], 99)) == 21
        store.erase("alice", Selection(ids=["m3"]))
        assert store.purge() is None
        assert len(store.records.search_text("alice", ["rex"], 99)) == 20


def test_erasing_from_a_broken_index_says_what_to_do(path: Path) -> None:
    with Store.open(f"sqlite:///{path}") as store:
        store.append("alice", [say("Rex", id="m1"), say("Tom", id="m2")], "s")
        DAMAGE["the list of segments is nonsense"](path)  # type: ignore[operator]
        with pytest.raises(StoreError, match="deltamem db repair"):
            store.erase("alice", Selection(ids=["m1"]))
        assert [entry.id for entry in store.live("alice")] == ["m1", "m2"]
    repair(path)
    with Store.open(f"sqlite:///{path}") as store:
        store.erase("alice", Selection(ids=["m1"]))
        assert store.purge() is None


def test_another_connection_that_has_it_open_notices_a_repair(path: Path) -> None:
    with Store.open(f"sqlite:///{path}") as store:
        store.append("alice", [say("Rex", id="m1")], "s")
        assert len(store.records.search_text("alice", ["rex"], 9)) == 1
        repair(path)
        assert len(store.records.search_text("alice", ["rex"], 9)) == 1
        store.append("alice", [say("Rex again")], "s")
        assert len(store.records.search_text("alice", ["rex"], 9)) == 2
    assert problems(path) == []


def test_a_large_database_is_not_copied_for_one_erasure(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Store.open(f"sqlite:///{path}") as store:
        store.append("alice", [say(f"note {i} " * 50, id=f"m{i}") for i in range(400)], "s")
        statements: list[str] = []
        original = purging.purge

        def traced(driver: sqlite3.Connection) -> str | None:
            driver.set_trace_callback(statements.append)
            try:
                return original(driver)
            finally:
                driver.set_trace_callback(None)

        monkeypatch.setattr(purging, "purge", traced)
        store.erase("alice", Selection(ids=["m7"]))
        assert store.purge() is None
        assert statements and "VACUUM" not in statements
        store.erase("alice", Selection(ids=[f"m{i}" for i in range(8, 390)]))
        size = path.stat().st_size
        assert store.purge() is None
        assert "VACUUM" in statements and path.stat().st_size < size / 2  # more than half was free


def test_an_index_that_cannot_be_looked_at_is_not_called_broken(path: Path) -> None:
    with Store.open(f"sqlite:///{path}") as store:
        store.append("alice", [say("Rex is a dog")], "s")
    with closing(sqlite3.connect(path)) as writer, closing(sqlite3.connect(path, timeout=0)) as looker:
        writer.execute("BEGIN IMMEDIATE")
        (found,) = fts5.problems(looker)
        assert "locked" in found and "could not be checked" in found and "broken" not in found
        writer.rollback()
        assert fts5.problems(looker) == []
