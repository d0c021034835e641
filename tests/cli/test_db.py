"""`deltamem db`: versions of the tables, upgrading, checking; and memories in a schema of PostgreSQL."""

from __future__ import annotations

import sqlite3

import numpy as np
import pytest

from deltamem_agents.store import Store, versions
from deltamem_agents.store.database import open_database
from tests.databases import migrations

PLAIN = ("--embedder", "none")


@pytest.fixture
def old(url, tmp_path):
    """URL of a database of version 0001, with a message of agent alice."""
    from alembic.command import upgrade

    database = open_database(url, None)

    def make(connection):
        upgrade(migrations(connection), "0001")
        connection.exec_driver_sql("DROP TABLE deltamem_version")  # 0001 kept its version elsewhere
        time = "2026-01-01 00:00:00.000000"
        connection.exec_driver_sql(f"INSERT INTO deltamem_agents VALUES (1, 'alice', 1, 1, '{time}')")
        connection.exec_driver_sql(
            "INSERT INTO deltamem_messages (agent_key, position, id, session, role, text, created_at) "
            f"VALUES (1, 1, 'm1', 's1', 'user', 'My dog is Rex.', '{time}')"
        )
        connection.exec_driver_sql("INSERT INTO deltamem_records VALUES (1, 1, 1, 0, 'My dog is Rex.', NULL)")

    database.write(make)
    database.close()
    return url


def assert_refused(done, *words):
    assert done.code == 1 and done.out == ""
    assert done.err.startswith("error: ") and done.err.count("\n") == 1
    for word in words:
        assert word in done.err


def test_an_old_database_is_upgraded(deltamem, old, tmp_path):
    for command in (("log", "--agent", "alice"), ("db", "check"), ("doctor",)):
        done = deltamem(*command, "--url", old)
        assert done.code == 1 and "version 0001" in done.err and "deltamem db upgrade" in done.err
    current = deltamem("db", "current", "--url", old)
    assert current.code == 0 and "version 0001" in current.out and "deltamem db upgrade" in current.out
    assert deltamem("db", "current", "--url", old, "--json").json == {"version": "0001", "latest": versions.LATEST}
    done = deltamem("db", "upgrade", "--url", old)
    assert (done.code, done.out) == (0, f"the tables were upgraded from version 0001 to {versions.LATEST}\n")
    assert "nothing to do" in deltamem("db", "upgrade", "--url", old).out
    assert deltamem("db", "upgrade", "--url", old, "--json").json == {
        "before": versions.LATEST,
        "version": versions.LATEST,
    }
    assert deltamem("db", "check", "--url", old).out == "the tables and their rows are sound\n"
    assert [each["content"] for each in deltamem("log", "--agent", "alice", "--url", old, "--json").json] == [
        "My dog is Rex."
    ]
    found = deltamem("recall", "What is my dog?", "--agent", "alice", "--url", old, "--json", *PLAIN).json
    assert "Rex" in found["text"]


def test_a_newer_database_is_left_alone(deltamem, url, tmp_path):
    Store.open(url).close()
    with sqlite3.connect(tmp_path / "memory.db") as connection:
        connection.execute("UPDATE deltamem_version SET version_num = '0099'")
    current = deltamem("db", "current", "--url", url)
    assert current.code == 0 and "0099" in current.out and "install a newer one" in current.out
    for command in ("upgrade", "check", "purge"):
        assert_refused(deltamem("db", command, "--url", url), "0099", "install")


def test_a_new_database(deltamem, url, tmp_path):
    for command in ("current", "check", "purge"):
        assert_refused(deltamem("db", command, "--url", url), "there is no file", "memory.db")
    assert list(tmp_path.iterdir()) == []
    assert deltamem("db", "upgrade", "--url", url).out == f"created the tables, of version {versions.LATEST}\n"
    assert deltamem("db", "current", "--url", url).out == f"version {versions.LATEST}, up to date\n"
    (tmp_path / "empty.db").touch()
    empty = f"sqlite:///{tmp_path / 'empty.db'}"
    assert "no tables yet" in deltamem("db", "current", "--url", empty).out
    assert deltamem("db", "current", "--url", empty, "--json").json["version"] is None
    assert_refused(deltamem("db", "check", "--url", empty), "no deltamem tables", "db upgrade")


def test_check_tells_what_is_wrong(deltamem, url, tmp_path):
    Store.open(url).close()
    with sqlite3.connect(tmp_path / "memory.db") as connection:
        connection.execute("DROP INDEX deltamem_messages_live_id")
        connection.execute("DROP TABLE deltamem_purges")
    done = deltamem("db", "check", "--url", url)
    assert done.code == 1 and "deltamem_messages_live_id" in done.out and "deltamem_purges" in done.out
    found = deltamem("db", "check", "--url", url, "--json")
    assert found.code == 1 and len(found.json["problems"]) == 2


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        ("UPDATE deltamem_messages SET role = 'robot' WHERE position = 2", ["deltamem_messages", "position 2", "role"]),
        ("UPDATE deltamem_messages SET created_at = 'soon'", ["deltamem_messages", "created_at", "position 1"]),
        ("UPDATE deltamem_messages SET blocks = '{'", ["deltamem_messages", "blocks"]),
        ("UPDATE deltamem_agents SET head = 1", ["deltamem_messages", "journal ends at 1"]),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_rows_that_were_edited_are_named(deltamem, url, tmp_path, edit, words):
    with Store.open(url) as store:
        for number in range(40):
            store.append("alice", [{"role": "user", "content": [{"type": "text", "text": f"note {number}"}]}], "s")
    with sqlite3.connect(tmp_path / "memory.db") as connection:
        connection.execute(edit)
    done = deltamem("db", "check", "--url", url)
    assert done.code == 1 and all(word in done.out for word in words) and "restore the database" in done.out
    found = deltamem("db", "check", "--url", url, "--json")
    assert found.code == 1 and found.json["complete"] is True and len(found.json["problems"]) <= 21


def test_a_check_that_is_over_too_soon_says_so(deltamem, url, monkeypatch):
    with Store.open(url) as store:
        store.append("alice", [{"role": "user", "content": "hello"}], "s")
    monkeypatch.setattr("deltamem_agents.store.damage.CHECK_SECONDS", -1.0)
    done = deltamem("db", "check", "--url", url)
    assert done.code == 0 and "some rows were not checked" in done.err
    assert deltamem("db", "check", "--url", url, "--json").json == {"problems": [], "complete": False}


def test_a_broken_full_text_index_is_told_of_and_repaired(deltamem, url, tmp_path):
    assert deltamem("write", "My dog is Rex.", "--agent", "alice", "--url", url, *PLAIN).code == 0
    with sqlite3.connect(tmp_path / "memory.db") as connection:
        connection.execute("UPDATE deltamem_records_fts_data SET block = x'01' WHERE id = 10")
    done = deltamem("db", "check", "--url", url)
    assert done.code == 1 and "full-text index" in done.out and "deltamem db repair" in done.out
    done = deltamem("doctor", "--url", url)
    assert done.code == 1 and "deltamem db repair" in done.err
    assert_refused(deltamem("write", "Again", "--agent", "alice", "--url", url, *PLAIN), "deltamem db repair")
    assert deltamem("db", "repair", "--url", url).out == "the full-text index was rebuilt from the records\n"
    assert deltamem("db", "check", "--url", url).code == 0 and deltamem("doctor", "--url", url).code == 0
    found = deltamem("recall", "What is my dog?", "--agent", "alice", "--url", url, "--json", *PLAIN).json
    assert "Rex" in found["text"]
    assert deltamem("db", "repair", "--url", url, "--json").json == {
        "repaired": ["the full-text index was rebuilt from the records"]
    }


@pytest.mark.parametrize("bytes_of", [(8192, 40_000), (12_288, 60_000), (4096, 8192)])
def test_a_damaged_file_is_called_so_and_not_repaired(deltamem, url, tmp_path, bytes_of):
    with Store.open(url) as store:
        for number in range(300):
            store.append("alice", [{"role": "user", "content": f"note {number} on shelf {number * 7}"}], "s")
    path = tmp_path / "memory.db"
    data = bytearray(path.read_bytes())
    start, stop = bytes_of
    data[start : min(stop, len(data))] = b"U" * (min(stop, len(data)) - start)
    path.write_bytes(data)
    checked = deltamem("db", "check", "--url", url)
    assert checked.code == 1 and "restore it from a backup" in checked.out + checked.err
    repaired = deltamem("db", "repair", "--url", url)
    assert repaired.code == 1 and "backup" in repaired.err and repaired.out == ""


def test_repair_makes_no_database(deltamem, url, tmp_path):
    assert_refused(deltamem("db", "repair", "--url", url), "there is no file", "memory.db")
    assert list(tmp_path.iterdir()) == []


def test_without_a_command_the_commands_are_listed(deltamem):
    done = deltamem("db")
    assert done.code == 2 and "upgrade" in done.out + done.err
    assert deltamem("db", "nonsense").code == 2


@pytest.mark.parametrize("command", [("log",), ("db", "current"), ("agents",), ("doctor",)], ids=" ".join)
def test_sqlite_has_no_schemas(deltamem, url, command):
    Store.open(url).close()
    done = deltamem(*command, "--url", url, "--schema", "memories")
    assert done.code == 1 and "SQLite has no schemas" in done.err


def test_an_unreachable_server(deltamem):
    pytest.importorskip("psycopg")
    done = deltamem("db", "current", "--url", "postgresql://alice:tiger@localhost:1/memories")
    assert_refused(done, "***", "check host and port")
    assert "tiger" not in done.err


def test_a_schema_on_postgresql(deltamem, postgresql_url):
    env = {"DELTAMEM_URL": postgresql_url(), "DELTAMEM_SCHEMA": "memories", "DELTAMEM_AGENT": "alice"}
    assert "no tables yet" in deltamem("db", "current", env=env).out
    assert deltamem("write", "Mara plays the cello.", *PLAIN, env=env).code == 0
    found = deltamem("recall", "Which instrument does Mara play?", "--json", *PLAIN, env=env).json
    assert "cello" in found["text"]
    assert "up to date" in deltamem("db", "current", env=env).out
    assert deltamem("db", "check", env=env).code == 0
    assert deltamem("doctor", "--json", env=env).json["database"]["version"] == versions.LATEST
    assert "no tables yet" in deltamem("db", "current", "--schema", "public", env=env).out
    assert deltamem("fork", "alice", "bob", env=env).code == 0
    receipt = deltamem("erase", "alice", "--yes", "--since", "2020-01-01", "--forks", "--json", env=env).json
    assert receipt["status"] == "complete" and [each["messages"] for each in receipt["erased"]] == [1, 1]
    assert deltamem("db", "purge", env=env).code == 0
    assert_refused(deltamem("log", "--schema", "no name", env=env), "'no name' is not a name")


def test_reindex(deltamem, url, tmp_path):
    for agent in ("alice", "bob"):
        assert deltamem("write", "My dog is Rex.", "It rains.", "--agent", agent, "--url", url, *PLAIN).code == 0
    refused = deltamem("reindex", "--url", url, *PLAIN)
    assert_refused(refused, "no embedder")
    assert_refused(deltamem("reindex", "--agent", "nobody", "--url", url), "'nobody'", "deltamem agents")

    pytest.importorskip("sentence_transformers")
    with Store.open(url) as store:
        keys = [key for key, _ in store.records.missing_embeddings("bob", "another", 9)]
        store.records.put_embeddings("bob", "another", keys, np.ones((2, 3), np.float32))
    done = deltamem("reindex", "--agent", "bob", "--url", url)
    assert (done.code, done.out) == (0, "2 records of 1 agent embedded\n")
    done = deltamem("reindex", "--prune", "--url", url, "--json")
    assert done.json == {"alice": {"embedded": 2, "dropped": 0}, "bob": {"embedded": 0, "dropped": 2}}
    done = deltamem("reindex", "--prune", "--url", url)
    assert done.out == "0 records of 2 agents embedded, 0 embeddings of other models deleted\n"
