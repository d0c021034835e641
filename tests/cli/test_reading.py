"""Commands that read make no database, no tables and no files."""

from __future__ import annotations

import sqlite3

import pytest

READING = [
    ("log",), ("agents",), ("recall", "Which?"), ("diff", "alice", "0"), ("verify", "alice"), ("rebuild", "alice"),
    ("export", "alice", "alice.zip"), ("fork", "alice", "bob"), ("rollback", "alice", "0"),
    ("delete", "alice", "--yes"), ("erase", "alice", "--yes", "--session", "s"), ("reindex",), ("db", "current"),
    ("db", "check"), ("db", "repair"), ("db", "purge"),
]  # fmt: skip


@pytest.mark.parametrize("command", READING, ids=" ".join)
def test_a_database_that_does_not_exist_is_an_error(deltamem, tmp_path, command):
    done = deltamem(*command, "--url", f"sqlite:///{tmp_path / 'no.db'}")
    assert done.code == 1 and "no.db" in done.err and done.err.count("\n") == 1 and done.out == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", [each for each in READING if each != ("db", "current")], ids=" ".join)
def test_no_tables_are_made_in_an_empty_one(deltamem, tmp_path, command):
    path = tmp_path / "empty.db"
    path.touch()
    done = deltamem(*command, "--url", f"sqlite:///{path}")
    assert done.code == 1 and "no deltamem tables" in done.err
    assert sqlite3.connect(path).execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,)
    assert path.stat().st_size == 0
