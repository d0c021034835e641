"""Processes that fork while a database is open: what the new one writes through a store of its own is not lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deltamem_agents.store import Store

PROGRAM = """
import json, os, sys, threading, time
import sqlalchemy
from deltamem_agents.errors import DeltaMemError
from deltamem_agents.store import Store, file_locks

path, how = sys.argv[1:]
url = f"sqlite:///{path}"
file_locks.QUIET_SECONDS = 0.5
engine = sqlalchemy.create_engine(url) if how.startswith("engine") else None
store = Store.open(engine=engine) if engine else Store.open(url)

def say(text):
    return [{"role": "user", "content": text}]

store.append("alice", say("parent"), "s")
stop, threads = threading.Event(), []
if how == "threads":
    def work(number):
        i = 0
        while not stop.is_set():
            store.append("busy", say(f"{number} {i}"), "s")
            store.live("busy")
            i += 1
    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
if how == "reader":
    started = threading.Event()
    def pause(connection, cursor, statement, *_):
        if threading.current_thread() in threads and statement.startswith("SELECT"):
            started.set()
            stop.wait(30)
    sqlalchemy.event.listen(sqlalchemy.Engine, "after_cursor_execute", pause)
    threads = [threading.Thread(target=store.live, args=("alice",))]
for thread in threads:
    thread.start()
if how == "reader":
    started.wait(30)
if how == "engine, disposed":
    engine.dispose()

def child(go, tell):
    mine = Store.open(url)
    for i in range(2):
        mine.append("alice", say(f"child {i}"), "s")
        os.write(tell, b".")
        os.read(go, 1)
    return [entry.text for entry in mine.live("alice")]

read, write = os.pipe()
parent_read, tell = os.pipe()
go, parent_go = os.pipe()
pid = os.fork()
if pid == 0:
    try:
        result = child(go, tell)
    except DeltaMemError as error:
        result = f"{type(error).__name__}: {error}"
    os.write(write, json.dumps(result).encode())
    os._exit(0)
os.close(write)
os.close(tell)
os.read(parent_read, 1)
stop.set()
for thread in threads:
    thread.join()
store.append("alice", say("parent again"), "s")
store.close()
if engine:
    engine.dispose()
os.write(parent_go, b"..")
result = json.loads(os.read(read, 10_000))
os.waitpid(pid, 0)
print(json.dumps([result, [entry.text for entry in Store.open(url).live("alice")]]))
"""


def forked(path: Path, how: str) -> tuple[Any, list[str]]:
    """What the forked process found in the end, or was told, and what is there afterwards."""
    command = [sys.executable, "-c", PROGRAM, str(path), how]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    result, found = json.loads(done.stdout)
    return result, found


@pytest.mark.parametrize("how", ["idle", "threads", "engine, disposed"])
def test_what_a_forked_process_writes_outlives_its_parents_connections(tmp_path: Path, how: str) -> None:
    result, found = forked(tmp_path / "memory.db", how)
    assert sorted(found) == ["child 0", "child 1", "parent", "parent again"]
    assert result == found


@pytest.mark.parametrize("how", ["reader", "engine"])
def test_where_its_parents_connections_are_in_use_it_is_told(tmp_path: Path, how: str) -> None:
    result, found = forked(tmp_path / "memory.db", how)
    assert result.startswith("ForkedError: ") and "spawn" in result
    assert found == ["parent", "parent again"]


REFUSED = """
import os, signal, sys, threading
from deltamem_agents.errors import ForkedError
from deltamem_agents.store import Selection, Store, file_locks

file_locks.QUIET_SECONDS = 0.5
store = Store.open(sys.argv[1], schema=sys.argv[2] or None)
stop = threading.Event()

def say(text):
    return [{"role": "user", "content": text}]

def work(number):
    i = 0
    while not stop.is_set():
        store.append(f"busy {number}", say(f"{i}"), "s")
        i += 1

CALLS = {
    "append": lambda: store.append("alice", say("child"), "s"),
    "append many": lambda: store.append("alice", say("child") * 5, "s"),
    "erase": lambda: store.erase("busy 0", Selection(session="s")),
    "rollback": lambda: store.rollback("busy 0", 1),
    "fork": lambda: store.fork("busy 0", "another"),
    "delete": lambda: store.erase("busy 0", Selection(whole=True)),
    "read": lambda: store.live("busy 0"),
    "search": lambda: store.records.search_text("busy 0", ["child"], 5),
    "purge": lambda: store.purge(),
}
store.append("alice", say("parent"), "s")
threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
for thread in threads:
    thread.start()
wrong = []
for name, call in CALLS.items():
    for _ in range(int(sys.argv[3])):  # whoever forks while another thread writes
        pid = os.fork()
        if pid == 0:
            signal.alarm(20)
            try:
                call()
            except ForkedError:
                os._exit(0)
            os._exit(1)
        ended = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        wrong += [(name, ended)] if ended else []
stop.set()
for thread in threads:
    thread.join()
print(wrong, [entry.text for entry in store.live("alice")])
"""


@pytest.mark.parametrize("kind", ["file", pytest.param("postgresql", marks=pytest.mark.slow)])
def test_the_parents_store_is_refused_at_once_whatever_its_threads_do(
    tmp_path: Path, request: pytest.FixtureRequest, kind: str
) -> None:
    url = f"sqlite:///{tmp_path / 'memory.db'}"
    if kind == "postgresql":
        url = request.getfixturevalue("postgresql_url")()
    command = [sys.executable, "-c", REFUSED, url, "", "4" if kind == "file" else "15"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[] ['parent']"


KILLED = """
import os, sys, threading, time
import sqlalchemy
from deltamem_agents.store import Store

store = Store.open(sys.argv[1])
store.append("alice", [{"role": "user", "content": "parent"}], "s")
begun = threading.Event()

def never_ends(connection, cursor, statement, *_):
    if "FOR UPDATE" in statement:
        begun.set()
        time.sleep(100)

sqlalchemy.event.listen(sqlalchemy.Engine, "after_cursor_execute", never_ends)
threading.Thread(target=lambda: store.rollback("alice", 0), daemon=True).start()
assert begun.wait(30)
child = os.fork()
if child == 0:
    time.sleep(60)
    os._exit(0)
print(child, flush=True)
time.sleep(100)
"""


@pytest.mark.slow  # PostgreSQL
def test_what_a_killed_process_had_begun_ends_though_a_forked_one_lives(postgresql_url: Callable[[], str]) -> None:
    url = postgresql_url()
    with (
        Store.open(url) as store,
        subprocess.Popen([sys.executable, "-c", KILLED, url], stdout=subprocess.PIPE) as made,
    ):
        assert made.stdout is not None
        child = int(made.stdout.readline())
        made.kill()
        made.wait()
        try:
            started = time.monotonic()
            store.append("alice", [{"role": "user", "content": "another"}], "s")
            assert time.monotonic() - started < 10
        finally:
            os.kill(child, signal.SIGKILL)


INTERRUPTED = """
import os, signal, sys, threading
import sqlalchemy
from deltamem_agents.store import Store

def say(text):
    return [{"role": "user", "content": text}]

store = Store.open(sys.argv[1])
others = [Store.open(f"{sys.argv[1]}.{number}") for number in range(8)]
store.append("alice", say("before"), "s")
started, stop = threading.Event(), threading.Event()

def pause(connection, cursor, statement, *_):
    if threading.current_thread() is using and statement.startswith("SELECT"):
        started.set()
        stop.wait(30)

using = threading.Thread(target=lambda: store.live("alice"))
sqlalchemy.event.listen(sqlalchemy.Engine, "after_cursor_execute", pause)
def rest():
    store.live("alice")
    stop.wait(30)
    store.append("alice", say("rested"), "s")

threads = [*(threading.Thread(target=rest, daemon=True) for _ in range(8)), using]
for thread in threads:
    thread.start()
started.wait(30)
signal.signal(signal.SIGALRM, signal.default_int_handler)
signal.setitimer(signal.ITIMER_REAL, 0.3)  # Ctrl-C while the fork waits for the thread that uses the file
try:
    child = os.fork()
except KeyboardInterrupt:
    child = None
if child == 0:
    os._exit(0)
stop.set()
for thread in threads:
    thread.join(10)
    assert not thread.is_alive()
print([entry.text for entry in Store.open(sys.argv[1]).live("alice")])
"""


def test_an_interrupted_fork_keeps_nobody_waiting(tmp_path: Path) -> None:
    command = [sys.executable, "-c", INTERRUPTED, f"sqlite:///{tmp_path / 'memory.db'}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(["before", *["rested"] * 8])
