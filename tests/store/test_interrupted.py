"""Ctrl-C at any line of a call: no lock or connection stays taken, nothing is half written, the next call works."""

from __future__ import annotations

import os
import sqlite3
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import sqlalchemy
from sqlalchemy import Engine, create_engine

import deltamem_agents.store
from deltamem_agents.store import Selection, Store
from tests.databases import engine_of

OURS = str(Path(deltamem_agents.store.__file__).parent)
THEIRS = str(Path(sqlalchemy.__file__).parent)
# Of SQLAlchemy, where connections are lent and transactions begin and end; the rest makes statements, and is sampled.
ENDS = ("pool/base.py", "pool/impl.py", "util/queue.py", "engine/default.py")
SAMPLED = 23  # every so manieth line
STRIDE = int(os.environ.get("DELTAMEM_INTERRUPT_STRIDE", "211"))  # 1 interrupts at each


def name_of(frame: FrameType) -> str:
    return "/".join(frame.f_code.co_filename.rsplit("/", 2)[1:])


class Interrupter:
    """Raises KeyboardInterrupt at the ``at``-th line that counts, of this thread; counts them where ``at`` is 0."""

    def __init__(self, at: int = 0) -> None:
        self.at, self.seen, self.other, self.where = at, 0, 0, ""

    def __enter__(self) -> Interrupter:
        sys.settrace(self.call)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)

    def call(self, frame: FrameType, what: str, _: Any) -> Any:
        name = frame.f_code.co_filename
        return self.line if name.startswith((OURS, THEIRS)) else None

    def line(self, frame: FrameType, what: str, _: Any) -> Any:
        if what == "line" and self.counts(frame.f_code.co_filename):
            self.seen += 1
            if self.seen == self.at:
                sys.settrace(None)
                self.where = f"{name_of(frame)}:{frame.f_lineno}"
                raise KeyboardInterrupt
        return self.line

    def counts(self, name: str) -> bool:
        if name.startswith(OURS) or name.endswith(ENDS):
            return True
        self.other += 1
        return self.other % SAMPLED == 0


def say(text: str, **more: str) -> dict[str, str]:
    return {"role": "user", "content": text, **more}


def two(store: Store, turn: int) -> None:
    store.append("alice", [say(f"first {turn}"), say(f"second {turn}")], "s")


def replaced(store: Store, turn: int) -> None:
    store.append("alice", [say(f"first {turn}", id="a"), say(f"second {turn}", id="b")], "s")


def erased(store: Store, turn: int) -> None:
    store.erase("alice", Selection(session="gone"))
    store.purge()


def read(store: Store, turn: int) -> None:
    store.live("alice")


CALLS: dict[str, Callable[[Store, int], None]] = {"append": two, "replace": replaced, "erase": erased, "read": read}


def check(store: Store, engine: Engine, path: Path | None, turn: int, where: str) -> None:
    """What must hold after a call was interrupted."""
    texts = [entry.text for entry in store.live("alice")]
    assert texts.count(f"first {turn}") == texts.count(f"second {turn}") <= 1, where
    if path is not None:
        other = sqlite3.connect(path, timeout=0, isolation_level=None)
        try:
            other.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            pytest.fail(f"{where}: {error}")
        other.execute("ROLLBACK")
        other.close()
        assert engine.pool.checkedout() == 0, where  # type: ignore[attr-defined]
    free = []
    thread = threading.Thread(target=lambda: free.extend(store.append("bob", [say(f"after {turn}")], "s")))
    thread.start()
    thread.join(10)
    assert len(free) == 1, where  # another thread has its turn
    assert store.append("bob", [say(f"again {turn}")], "s")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["file", "memory", "engine"])
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_an_interrupt_at_any_line_leaves_nothing_behind(tmp_path: Path, call: Any, kind: str) -> None:
    path = None if kind == "memory" else tmp_path / "memory.db"
    url = "sqlite://" if path is None else f"sqlite:///{path}"
    engine = None
    if kind == "engine":
        engine = create_engine(url)
    with Store.open(None if engine is not None else url, engine=engine) as store:
        store.append("alice", [say("to begin with"), say("something else")], "s")
        used = engine_of(store)
        turn = 0
        for _ in range(3):  # until what is made once has been made
            turn += 1
            store.append("alice", [say("to go")], "gone")
            with Interrupter() as counting:
                call(store, turn)
        at = 0
        while at < counting.seen + 50:
            at += STRIDE
            turn += 1
            if call is erased:
                store.append("alice", [say("to go")], "gone")
            interrupted = False
            with Interrupter(at) as interrupter:
                try:
                    call(store, turn)
                except KeyboardInterrupt:
                    interrupted = True
            sys.settrace(None)
            check(store, used, path, turn, interrupter.where)
            if not interrupted:
                break
        assert at > counting.seen / 2
        if call is erased:
            store.erase("alice", Selection(session="gone"))
            assert store.purge() is None
    if engine is not None:
        assert engine.pool.status()
        engine.dispose()
