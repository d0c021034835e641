"""Databases that something else has written to: every call gives a result or an error of ours, and none hangs."""

from __future__ import annotations

import shutil
import signal
import sqlite3
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from deltamem_agents import DeltaMem
from deltamem_agents.errors import DeltaMemError, StoreError
from deltamem_agents.memory import AgentMemory
from deltamem_agents.recall import CallableEmbedder
from deltamem_agents.store import Store

SECONDS = 30.0  # for one call; the slowest takes half of one, on a busy machine several
ODD: list[Any] = [
    None,
    0,
    -1,
    7,
    2**53,
    2**62,
    2**63 - 1,
    -(2**63),
    1.5,
    float("inf"),
    "",
    "x",
    "7 ",
    "\0",
    "a" * 300,
    '"',
    "{",
    "[" * 1500,
    "{}",
    "[]",
    "[1, null]",
    '["\\ud800"]',
    '{"a": NaN}',
    '[{"type": "text", "text": 7}]',
    f"[{10**400}]",
    "2026-02-30 25:00:00",
    "0001-01-01 00:00:00.000000+14:00",
    b"",
    b"\xff\xfe",
    b"\0" * 64,
    b"\xff" * 4096,
]
Call = Callable[[DeltaMem, AgentMemory, Path], object]
CALLS: dict[str, Call] = {
    "agents": lambda mem, alice, path: mem.agents(),
    "log": lambda mem, alice, path: alice.log(),
    "log at": lambda mem, alice, path: alice.log(at=6),
    "sessions": lambda mem, alice, path: alice.sessions(),
    "recall": lambda mem, alice, path: alice.recall("Which locker?", generate=False),
    "recall since": lambda mem, alice, path: alice.recall(
        "locker", mode="vector", generate=False, since=datetime(2020, 1, 1, tzinfo=UTC), metadata={"a": 1}
    ),
    "state": lambda mem, alice, path: alice.state(),
    "state at": lambda mem, alice, path: alice.state(at=3),
    "health": lambda mem, alice, path: alice.health(),
    "trend": lambda mem, alice, path: alice.trend(),
    "verify": lambda mem, alice, path: alice.verify(),
    "diff": lambda mem, alice, path: alice.diff(2),
    "export": lambda mem, alice, path: mem.export("alice", path),
    "erase dry": lambda mem, alice, path: alice.erase(session="s2", dry_run=True),
    "write": lambda mem, alice, path: alice.write([{"role": "user", "content": "My key is 7.", "id": "k"}], "s1"),
    "fork": lambda mem, alice, path: alice.fork("carol"),
    "rollback": lambda mem, alice, path: alice.rollback(4),
    "erase": lambda mem, alice, path: alice.erase(session="s2"),
    "reindex": lambda mem, alice, path: mem.reindex("alice"),
    "rebuild": lambda mem, alice, path: alice.rebuild(),
    "delete": lambda mem, alice, path: alice.delete(),
}


SLOW = ("verify", "state at", "diff", "reindex", "rebuild", "fork", "delete")


def embed(texts: list[str]) -> list[list[float]]:
    return [[1.0, len(text) % 5, len(text) % 3] for text in texts]


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[DeltaMem, Path]]:
    """A small database of everything, without the constraints that keep odd values out, and a DeltaMem on a copy."""
    path = tmp_path_factory.mktemp("edited") / "memory.db"
    mem = DeltaMem.open("tiny", url=f"sqlite:///{path}", embedder=CallableEmbedder(embed, name="e"))
    alice = mem.agent("alice")
    alice.write([{"role": "user", "content": "My locker is 4417.", "id": "k", "metadata": {"a": 1}}], "s1")
    alice.write([{"role": "assistant", "content": [{"type": "text", "text": "Noted."}], "id": "n"}], "s1")
    alice.write([{"role": "user", "content": "My locker is 4418.", "id": "k"}], "s1")
    alice.rollback(2)
    alice.write([{"role": "user", "content": "The tea is green."}], "s2")
    alice.rollback(3)
    alice.rollback(5)
    alice.write([{"role": "user", "content": "The cup is blue."}], "s2")
    mem.agent("alice").fork("bob")
    alice.recall("tea", generate=False)
    mem.store.close()
    with sqlite3.connect(path) as driver:
        driver.execute("INSERT INTO deltamem_purges (requested_at) VALUES ('2026-01-01 00:00:00.000000')")
        driver.execute("PRAGMA writable_schema = ON")
        driver.execute(
            "UPDATE sqlite_master SET sql = replace(sql, ' NOT NULL', '') WHERE type = 'table' AND name LIKE 'delta%'"
        )
    driver.close()
    yield mem, path
    mem.close()


def columns() -> list[tuple[str, str]]:
    from deltamem_agents.store.schema import Base

    return [(table.name, column.name) for table in Base.metadata.sorted_tables for column in table.columns]


@contextmanager
def limited(what: str) -> Iterator[None]:
    """Fail where a call takes longer than it should."""

    def late(*_: object) -> None:
        pytest.fail(f"{what} hangs")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def edited(sample: Path, target: Path, statement: str, *values: Any) -> bool:
    """A copy of the database with an edit; whether it could be made."""
    shutil.copyfile(sample, target)
    for end in ("-wal", "-shm"):
        Path(f"{target}{end}").unlink(missing_ok=True)
    driver = sqlite3.connect(target)
    try:
        driver.execute("PRAGMA foreign_keys = OFF")
        driver.execute(statement, values)
        driver.commit()
    except (sqlite3.IntegrityError, OverflowError):
        return False
    finally:
        driver.close()
    return True


def met(mem: DeltaMem, path: Path, what: str, passed: Collection[str] = ()) -> list[DeltaMemError]:
    """The errors of all calls on an edited database; anything else than a result or an error of ours fails."""
    errors: list[DeltaMemError] = []
    try:
        store = Store.open(f"sqlite:///{path}")
    except StoreError as error:
        return [error]
    with store:
        opened = DeltaMem(mem.backbone, store, CallableEmbedder(embed, name="e"))
        for name, call in CALLS.items():
            if name in passed:
                continue
            with limited(f"{name} after {what}"):
                try:
                    call(opened, opened.agent("alice"), path.with_suffix(".zip"))
                except DeltaMemError as error:
                    errors.append(error)
                except Exception as error:
                    raise AssertionError(f"{name} after {what}: {error!r}") from error
        opened.pool.shutdown()
    return errors


def tried(sample: tuple[DeltaMem, Path], tmp_path: Path, table: str, column: str, values: list[Any]) -> None:
    """One row, or all of them, by turns; the last row, as what comes first is often passed over."""
    first = len(column)  # so that the same value is tried in other ways in another column
    for number, value in enumerate(values, start=first):
        target = tmp_path / "memory.db"
        where = f"rowid = (SELECT max(rowid) FROM {table})" if number % 2 else "1 = 1"
        with suppress(sqlite3.OperationalError):
            if edited(sample[1], target, f"UPDATE {table} SET {column} = ? WHERE {where}", value):
                passed = () if number % 3 == 0 else SLOW
                met(sample[0], target, f"{table}.{column} = {value!r:.40}", passed)


@pytest.mark.parametrize("table", sorted({table for table, _ in columns()}))
def test_some_odd_values(sample: tuple[DeltaMem, Path], tmp_path: Path, table: str) -> None:
    """Each column with one of the values, another for each."""
    wanted = [column for name, column in columns() if name == table]
    for number, each in enumerate(wanted):
        tried(sample, tmp_path, table, each, [ODD[(7 * number + len(table)) % len(ODD)]])


@pytest.mark.slow
@pytest.mark.parametrize(("table", "column"), columns(), ids=lambda each: str(each).removeprefix("deltamem_"))
def test_every_odd_value(sample: tuple[DeltaMem, Path], tmp_path: Path, table: str, column: str) -> None:
    tried(sample, tmp_path, table, column, ODD[len(column) % 2 :: 2])  # half of the values, the other half elsewhere


@pytest.mark.parametrize(
    ("statement", "row"),
    [
        ("UPDATE deltamem_rollbacks SET target = position", "deltamem_rollbacks"),
        ("UPDATE deltamem_rollbacks SET target = position + 1", "deltamem_rollbacks"),
        ("UPDATE deltamem_rollbacks SET target = -target", "deltamem_rollbacks"),
        ("UPDATE deltamem_rollbacks SET target = 2 * position", "deltamem_rollbacks"),
        ("UPDATE deltamem_revisions SET parent = position", "deltamem_revisions"),
        ("UPDATE deltamem_revisions SET parent = position + 1", "deltamem_revisions"),
        ("UPDATE deltamem_revisions SET parent = -1", "deltamem_revisions"),
        ("UPDATE deltamem_messages SET position = -position", "deltamem_messages"),
        ("UPDATE deltamem_messages SET position = 0 WHERE position = 1", "deltamem_messages"),
        ("UPDATE deltamem_messages SET role = 'martian'", "deltamem_messages"),
        ("UPDATE deltamem_messages SET text = CAST(x'ff' AS TEXT)", "deltamem_messages"),
        ("UPDATE deltamem_messages SET text = x'ff'", "deltamem_messages"),
        ("UPDATE deltamem_messages SET metadata = '{'", "deltamem_messages"),
        ("UPDATE deltamem_messages SET blocks = '[7]'", "deltamem_messages"),
        ("UPDATE deltamem_messages SET created_at = 'noon'", "deltamem_messages"),
        ("UPDATE deltamem_agents SET head = 1", "deltamem_"),
        ("UPDATE deltamem_agents SET head = 4611686018427387903", "deltamem_agents"),
        ("UPDATE deltamem_agents SET epoch = 'x'", "deltamem_agents"),
        ("UPDATE deltamem_agents SET agent_ids_until = 'x'", "deltamem_agents"),
        ("UPDATE deltamem_agents SET agent_ids_until = -1", "deltamem_agents"),
        ("UPDATE deltamem_embeddings SET vector = x'0000c07f0000c07f0000c07f'", "deltamem_embeddings"),
        ("UPDATE deltamem_embeddings SET vector = x'00'", "deltamem_embeddings"),
        ("UPDATE deltamem_embeddings SET vector = 'text'", "deltamem_embeddings"),
    ],
)
def test_the_error_names_the_row_and_the_remedy(
    sample: tuple[DeltaMem, Path], tmp_path: Path, statement: str, row: str
) -> None:
    target = tmp_path / "memory.db"
    assert edited(sample[1], target, statement)
    errors = [error for error in met(sample[0], target, statement, SLOW) if isinstance(error, StoreError)]
    if "head = 46" in statement:
        return  # an end that is far away is no damage
    assert errors
    for error in errors:
        assert row in str(error) and "row (" in str(error), error
        assert "locker" not in str(error)
        assert any(remedy in str(error) for remedy in ("restore", "rebuild", "reindex"))


def test_what_is_not_edited_is_not_damaged(sample: tuple[DeltaMem, Path], tmp_path: Path) -> None:
    target = tmp_path / "memory.db"
    assert edited(sample[1], target, "SELECT 1")
    assert met(sample[0], target, "nothing") == []
