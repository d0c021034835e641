"""Reaching databases: URLs, engines, several processes, and all that can be wrong with a file."""

import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import URL, SingletonThreadPool, StaticPool, create_engine, event, text

from deltamem_agents.errors import ConfigError, StoreError
from deltamem_agents.store import Revision, Store, masked
from tests.databases import execute, query

Say = Callable[..., dict[str, Any]]


def test_what_one_process_wrote_another_reads(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/memory.db"
    script = (
        "import sys; from deltamem_agents.store import Store\n"
        "store = Store.open(sys.argv[1])\n"
        "store.append('alice', [{'role': 'user', 'content': 'hello from afar'}], 's')\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules\n"
        "import os; os._exit(0)\n"  # no close, no clean-up
    )
    subprocess.run([sys.executable, "-c", script, url], check=True)
    with Store.open(url) as store:
        assert [entry.text for entry in store.live("alice")] == ["hello from afar"]
        assert [record.text for record, _ in store.records.search_text("alice", ["afar"], 5)] == ["hello from afar"]


@pytest.mark.slow
def test_processes_neither_lose_nor_double(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/memory.db"
    script = (
        "import sys; from deltamem_agents.store import Store, Revision\n"
        "url, worker = sys.argv[1:]\n"
        "store = Store.open(url)\n"  # all four create the tables at once
        "for i in range(12):\n"
        "    name = f'{worker}-{i}'\n"
        "    store.append('alice', [{'role': 'user', 'content': name, 'id': name},"
        " {'role': 'user', 'content': 'shared', 'id': 'shared'}], worker)\n"
        "    info = store.agent('alice'); at, epoch = info.position, info.epoch\n"
        "    store.states.commit('alice', Revision(position=at, epoch=epoch, fingerprint='f', state=b'x'), after=0)\n"
    )
    workers = [subprocess.Popen([sys.executable, "-c", script, url, str(worker)]) for worker in range(4)]
    assert [worker.wait(60) for worker in workers] == [0, 0, 0, 0]

    with Store.open(url) as store:
        entries = store.live("alice")
        assert [entry.position for entry in entries] == list(range(1, 53))
        assert sorted(entry.id for entry in entries) == sorted(
            [*["shared"] * 4, *(f"{worker}-{i}" for worker in range(4) for i in range(12))]  # once in each session
        )
        for worker in range(4):  # each one's messages are in the order in which it wrote them
            own = [entry.id for entry in entries if entry.id.startswith(f"{worker}-")]
            assert own == [f"{worker}-{i}" for i in range(12)]
        assert len(store.records.read("alice")) == 52 and len(store.records.search_text("alice", ["shared"], 100)) == 4
        assert [stored.position for stored in store.states.revisions("alice")][-1] == 52


def test_a_file_is_in_wal_mode_with_foreign_keys(tmp_path: Path, say: Say) -> None:
    with Store.open(f"sqlite:///{tmp_path}/m.db") as store:
        store.append("alice", [say("x")], "s")
        for name, value in {
            "journal_mode": "wal",
            "foreign_keys": 1,
            "busy_timeout": pytest.approx(30_000, abs=1_000),  # what is left of them
            "secure_delete": 1,
        }.items():
            assert query(store, f"PRAGMA {name}") == [value]


def test_rows_that_go_by_cascade_leave_the_full_text_index(tmp_path: Path, say: Say) -> None:
    with Store.open(f"sqlite:///{tmp_path}/m.db") as store:
        store.append("alice", [say("quicksilver")], "s")
        execute(store, "DELETE FROM deltamem_agents")
        for rest in (
            "messages",
            "records",
            "records_fts",
            "records_fts WHERE deltamem_records_fts MATCH 'quicksilver'",
        ):
            assert query(store, f"SELECT count(*) FROM deltamem_{rest}") == [0]


@pytest.mark.parametrize("autobegin", [False, True])
def test_a_callers_engine_is_used_and_left_open(tmp_path: Path, say: Say, autobegin: bool) -> None:
    engine = create_engine(f"sqlite:///{tmp_path}/own.db")
    if autobegin:  # SQLAlchemy's recipe for serialisable SQLite
        event.listen(engine, "connect", lambda connection, _: setattr(connection, "isolation_level", None))
        event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE mine (x)"))
    with Store.open(engine=engine) as store:
        store.append("alice", [say("x", id="a"), say("y")], "s")
        store.append("alice", [say("z", id="a")], "s")
        assert [entry.text for entry in store.live("alice")] == ["y", "z"]
    with engine.connect() as connection:
        names = connection.execute(text("SELECT name FROM sqlite_master WHERE type = 'table'")).scalars().all()
        assert all(name == "mine" or name.startswith(("deltamem_", "sqlite_")) for name in names)
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 0  # as its owner left it


def test_a_callers_engine_in_memory(say: Say) -> None:
    with pytest.raises(ConfigError, match="StaticPool"):
        Store.open(engine=create_engine("sqlite://", poolclass=SingletonThreadPool))
    engine = create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})
    with Store.open(engine=engine) as store:
        store.append("alice", [say("x")], "s")
    with Store.open(engine=engine) as store:
        assert len(store.live("alice")) == 1


@pytest.mark.parametrize(
    "url",
    ["mysql://bob:hunter2@db/x", "nonsense", "odd+thing://bob:hunter2@h/x"],
)
def test_other_dialects_are_refused_and_secrets_masked(url: str) -> None:
    with pytest.raises(ConfigError, match="sqlite:///memory") as caught:
        Store.open(url)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("scheme", ["postgresql", "postgresql+psycopg"])
def test_a_server_that_is_not_there_fails_at_once(scheme: str) -> None:
    began = time.monotonic()
    with pytest.raises(StoreError, match=r"127\.0\.0\.1:9/x.*check host and port") as caught:
        Store.open(f"{scheme}://bob:hunter2@127.0.0.1:9/x")
    assert time.monotonic() - began < 5 and "hunter2" not in str(caught.value)


def test_async_drivers_and_both_arguments_are_refused() -> None:
    with pytest.raises(ConfigError):
        Store.open("sqlite+aiosqlite:///x.db")
    with pytest.raises(ConfigError, match="both"):
        Store.open("sqlite://", engine=create_engine("sqlite://"))


def test_masking() -> None:
    assert masked("postgresql://bob:hunter2@h:5/x") == "postgresql://bob:***@h:5/x"
    assert masked("postgresql://bob:a@b@h/x?sslpassword=hunter2&a=b") == "postgresql://bob:***@h/x?sslpassword=***&a=b"
    assert masked("sqlite:///a.db") == "sqlite:///a.db"


def test_unreachable_files(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"sqlite:///.*nowhere.*unable to open.*folder exists"):
        Store.open(f"sqlite:///{tmp_path}/nowhere/m.db")
    with pytest.raises(StoreError, match="unable to open"):
        Store.open(f"sqlite:///{tmp_path}")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("size", [10, 4096, 100_000])
def test_a_file_that_is_no_database_is_left_alone(tmp_path: Path, size: int) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(b"my notes. " * (size // 10))
    before = path.read_bytes()
    with pytest.raises(StoreError, match="not a database"):
        Store.open(f"sqlite:///{path}")
    assert path.read_bytes() == before and [entry.name for entry in tmp_path.iterdir()] == ["notes.txt"]


def test_a_newer_schema_is_refused_untouched(tmp_path: Path) -> None:
    path = tmp_path / "m.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE deltamem_schema (version INTEGER)")
        connection.execute("INSERT INTO deltamem_schema VALUES (99)")
    before = path.read_bytes()
    with pytest.raises(StoreError, match=r"version 0099.*nothing was changed"):
        Store.open(f"sqlite:///{path}")
    assert path.read_bytes() == before


def revision_of(store: Store, fingerprint: str = "f") -> Revision:
    info = store.agent("alice")
    assert info is not None
    return Revision(position=1, epoch=info.epoch, fingerprint=fingerprint, state=b"x")


def filled(path: Path, say: Say) -> None:
    with Store.open(URL.create("sqlite", database=str(path))) as store:
        store.append("alice", [say("we indent with two spaces", id="m")], "s")
        store.states.commit("alice", revision_of(store), after=0)


def test_a_read_only_database_reads_and_refuses_to_write(tmp_path: Path, say: Say) -> None:
    filled(tmp_path / "m.db", say)
    with Store.open(f"sqlite:///file:{tmp_path}/m.db?mode=ro&uri=true") as store:
        assert [entry.id for entry in store.live("alice")] == ["m"]
        assert len(store.records.search_text("alice", ["indent"], 5)) == 1
        with pytest.raises(StoreError, match=r"cannot write .*readonly.*permission"):
            store.append("alice", [say("more")], "s")
        with pytest.raises(StoreError, match="readonly"):
            store.states.commit("alice", revision_of(store, fingerprint="g"), after=0)
        assert len(store.live("alice")) == 1
    with pytest.raises(StoreError, match="unable to open"):
        Store.open(f"sqlite:///file:{tmp_path}/absent.db?mode=ro&uri=true")


@pytest.mark.skipif(os.name != "posix", reason="permissions as POSIX has them")
def test_a_database_in_a_folder_without_write_permission(tmp_path: Path, say: Say) -> None:
    folder = tmp_path / "locked? 100%"
    folder.mkdir()
    filled(folder / "m.db", say)
    for part in (folder / "m.db", folder):
        part.chmod(0o555)
    for part in (tmp_path, *tmp_path.parents[:3]):
        part.chmod(0o755)
    script = (
        "import os, sys\n"
        "from sqlalchemy import URL\n"
        "from deltamem_agents.store import Store\n"
        "from deltamem_agents.errors import StoreError\n"
        "import sqlalchemy.dialects.sqlite.pysqlite\n"
        "if os.getuid() == 0: os.setuid(65534)\n"  # root may write anywhere
        "store = Store.open(URL.create('sqlite', database=sys.argv[1]))\n"
        "assert [entry.id for entry in store.live('alice')] == ['m']\n"
        "assert store.states.newest('alice', 'f').state == b'x'\n"
        "try: store.append('alice', [{'role': 'user', 'content': 'x'}], 's')\n"
        "except StoreError as error: print(error)\n"
    )
    try:
        done = subprocess.run(
            [sys.executable, "-c", script, str(folder / "m.db")], capture_output=True, text=True, check=False
        )
    finally:
        folder.chmod(0o755)
    assert done.returncode == 0, done.stderr
    assert "readonly" in done.stdout and "permission" in done.stdout
    assert [part.name for part in folder.iterdir()] == ["m.db"]


def test_a_full_disk_loses_nothing_that_was_acknowledged(tmp_path: Path, say: Say) -> None:
    engine = create_engine(f"sqlite:///{tmp_path}/m.db")
    event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA max_page_count = 60"))
    with Store.open(engine=engine) as store:
        written = 0
        with pytest.raises(StoreError, match=r"full.*free some disk space"):
            for _ in range(200):
                store.append("alice", [say("word " * 200), say("another " * 100)], "s")
                written += 2
        assert 0 < written == len(store.live("alice")) == len(store.records.read("alice"))


def test_an_error_carries_no_text_of_messages(tmp_path: Path, say: Say) -> None:
    path = tmp_path / "m.db"
    filled(path, say)
    with Store.open(f"sqlite:///{path}") as store:
        with sqlite3.connect(path) as connection:
            connection.execute("DROP TABLE deltamem_messages")
        with pytest.raises(StoreError) as caught:
            store.append("alice", [say("a secret of mine")], "s")
        assert "secret" not in str(caught.value) and "secret" not in str(caught.value.__cause__)


def test_an_error_of_postgresql_quotes_no_row(postgresql_url: Callable[[], str], say: Say) -> None:
    with Store.open(postgresql_url()) as store:
        check = "ALTER TABLE deltamem_messages ADD CHECK (text <> 'a secret of mine')"
        execute(store, check)
        with pytest.raises(StoreError, match="violates check constraint") as caught:
            store.append("alice", [say("a secret of mine")], "s")
        assert "secret" not in str(caught.value)
        assert caught.value.__cause__ is None and caught.value.__suppress_context__  # not in a traceback either


def test_a_copy_of_the_file_opens(tmp_path: Path, say: Say) -> None:
    filled(tmp_path / "m.db", say)
    assert not (tmp_path / "m.db-wal").exists()  # closing leaves one file
    shutil.copy(tmp_path / "m.db", tmp_path / "copy.db")
    with Store.open(f"sqlite:///{tmp_path}/copy.db") as store:
        assert len(store.live("alice")) == 1
