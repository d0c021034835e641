"""Databases that may be read and not written: a file, or its folder, without write permission."""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from deltamem_agents.store import Store

NOBODY = 65534
LOOKING = [("db", "check"), ("db", "current"), ("doctor",), ("log", "--agent", "alice"), ("agents",)]

pytestmark = pytest.mark.skipif(not hasattr(os, "seteuid"), reason="permissions as POSIX has them")


@contextmanager
def unprivileged() -> Iterator[None]:
    """Run as somebody to whom permissions apply."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that anyone may enter, with a database of agent alice and a % in its name."""
    made = Path(tempfile.mkdtemp())
    try:
        with Store.open(f"sqlite:///{made / '100% mine.db'}") as store:
            store.append("alice", [{"role": "user", "content": "My dog is Rex."}], "s")
        yield made
    finally:
        made.chmod(0o755)
        shutil.rmtree(made)


@pytest.fixture
def looked_at(deltamem, folder, url):
    """What each command says of the database, by a user who may not write."""
    Store.open(url).close()
    for command in LOOKING:
        deltamem(*command, "--url", url)  # so that all is imported, which this user may not read
    url = f"sqlite:///{folder / '100% mine.db'}"

    def look():
        with unprivileged():
            return {command: deltamem(*command, "--url", url) for command in LOOKING}

    return look


@pytest.mark.parametrize(("file", "around"), [(0o444, 0o777), (0o644, 0o555), (0o444, 0o555)], ids=oct)
def test_what_only_looks_works(looked_at, folder, file, around):
    (folder / "100% mine.db").chmod(file)
    os.chown(folder / "100% mine.db", NOBODY, -1) if os.geteuid() == 0 else None
    os.chown(folder, NOBODY, -1) if os.geteuid() == 0 else None
    folder.chmod(around)
    for command, done in looked_at().items():
        assert done.code == 0, (command, done.err)
        assert "immutable" not in done.out + done.err and "mode=ro" not in done.out + done.err
    folder.chmod(0o755)
    assert around == 0o777 or [each.name for each in folder.iterdir()] == ["100% mine.db"]


def test_what_was_written_last_is_not_passed_over(looked_at, folder):
    path = folder / "100% mine.db"
    writer = sqlite3.connect(path)
    writer.execute("UPDATE deltamem_agents SET epoch = epoch + 1")
    writer.commit()
    copies = {end: Path(f"{path}{end}").read_bytes() for end in ("", "-wal")}
    writer.close()
    assert copies["-wal"]
    for end, data in copies.items():
        Path(f"{path}{end}").write_bytes(data)
    if os.geteuid() == 0:
        for each in (folder, *folder.iterdir()):
            os.chown(each, NOBODY, -1)
    folder.chmod(0o555)
    for command, done in looked_at().items():
        assert done.code == 1 and "-wal" in done.err and "open a copy" in done.err, (command, done.err)
        assert "immutable" not in done.out + done.err


def test_what_writes_says_what_is_missing(deltamem, folder):
    url = f"sqlite:///{folder / '100% mine.db'}"
    (folder / "100% mine.db").chmod(0o444)
    folder.chmod(0o555)
    for command in (("fork", "alice", "bob"), ("rollback", "alice", 0), ("db", "repair"), ("db", "purge")):
        deltamem(*command[:1], "--help")
        with unprivileged():
            done = deltamem(*command, "--url", url)
        if command != ("db", "purge"):
            assert done.code == 1 and "write permission" in done.err, (command, done.err)
        assert "immutable" not in done.out + done.err
