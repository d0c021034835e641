"""Which file a SQLite URL names, and who may read it."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import make_url

from deltamem_agents.errors import ConfigError, DeltaMemError
from deltamem_agents.store import Store
from deltamem_agents.store.sqlite_files import file_of

SAID = [{"role": "user", "content": "My locker is 4417."}]


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def open_umask() -> object:
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.mark.usefixtures("open_umask")
def test_a_new_database_is_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "memory.db"
    with Store.open(f"sqlite:///{path}") as store:
        store.append("alice", SAID, "s")
        files = sorted(tmp_path.iterdir())
        assert [each.name for each in files] == ["memory.db", "memory.db-shm", "memory.db-wal"]
        assert [mode(each) for each in files] == [0o600] * 3


@pytest.mark.usefixtures("open_umask")
@pytest.mark.parametrize("given", [0o640, 0o666, 0o400])
def test_a_database_that_is_there_keeps_its_mode(tmp_path: Path, given: int) -> None:
    path = tmp_path / "memory.db"
    with Store.open(f"sqlite:///{path}") as store:
        store.append("alice", SAID, "s")
    path.chmod(given)
    with Store.open(f"sqlite:///{path}") as store:
        assert [entry.text for entry in store.live("alice")] == ["My locker is 4417."]
        assert mode(path) == given


def test_threads_that_make_it_at_once_make_one(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'memory.db'}"

    def write(number: int) -> None:
        with Store.open(url) as store:
            store.append("alice", SAID, str(number))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(16)))
    with Store.open(url) as store:
        assert len(store.live("alice")) == 16
    assert [each.name for each in tmp_path.iterdir() if each.name.startswith(".")] == []


def test_a_relative_url_means_one_file_wherever_the_process_goes(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    script = (
        "import os, sys; from deltamem_agents.store import Store\n"
        "os.chdir(sys.argv[1]); store = Store.open('sqlite:///memory.db'); os.chdir(sys.argv[2])\n"
        "store.append('alice', [{'role': 'user', 'content': 'Hi'}], 's'); print(store.url); store.close()\n"
    )
    done = subprocess.run([sys.executable, "-c", script, here, there], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"sqlite:///{here}/memory.db"
    assert not list(there.iterdir())
    with Store.open(f"sqlite:///{here}/memory.db") as store:
        assert len(store.live("alice")) == 1


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("sqlite:///file::memory:?cache=shared", "uri=true"),
        ("sqlite:///file::memory:?cache=shared&uri=true", "cache=shared"),
        ("sqlite:///file:memory.db", "uri=true"),
        ("sqlite:///file:memory.db?mode=rwc", "uri=true"),
        ("sqlite:///memory.db?cache=shared", "cache=shared"),
        ("sqlite:///memory\n.db", "line break"),
        ("sqlite:///memory.db\n", "line break"),
        ("sqlite:///mem\tory.db", "control character"),
        ("sqlite:///memory.db\x7f", "control character"),
    ],
)
def test_urls_that_sqlite_would_take_otherwise_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=said) as caught:
        Store.open(url)
    assert "\n" not in str(caught.value) and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "sqlite:///file::memory:?uri=true"])
def test_databases_in_memory_leave_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.chdir(tmp_path)
    with Store.open(url) as store:
        store.append("alice", SAID, "s")
        assert len(store.live("alice")) == 1
    assert list(tmp_path.iterdir()) == [] and file_of(make_url(url)) is None


@pytest.mark.parametrize("form", ["sqlite:///file:{}?uri=true", "sqlite:///file:{}?mode=rwc&uri=true", "sqlite:///{}"])
def test_every_form_of_a_path_is_the_same_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    monkeypatch.chdir(tmp_path)
    for path in (tmp_path / "memory.db", "memory.db", "./memory.db"):
        with Store.open(form.format(path)) as store:
            store.append("alice", SAID, "s")
    with Store.open(f"sqlite:///{tmp_path}/memory.db") as store:
        assert len(store.live("alice")) == 3
    assert {each.name for each in tmp_path.iterdir()} <= {"memory.db", "memory.db-wal", "memory.db-shm"}


def test_nothing_is_made_where_only_reading_is_meant(tmp_path: Path) -> None:
    for url in (f"sqlite:///file:{tmp_path}/no.db?mode=ro&uri=true", f"sqlite:///{tmp_path}/no/folder/no.db"):
        with pytest.raises(DeltaMemError):
            Store.open(url)
    assert list(tmp_path.iterdir()) == []
