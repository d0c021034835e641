"""Several processes on one database, damaged states, and clocks that go backwards."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, update

from deltamem_agents import DeltaMem, messages
from deltamem_agents.errors import StateMismatchError, UnknownAgentError
from deltamem_agents.store import Revision, Selection, Store, revisions
from deltamem_agents.store.codec import encode
from deltamem_agents.store.revisions import checksum_of
from deltamem_agents.store.schema import RevisionRow
from tests.databases import execute, problems
from tests.faulty import after_forwards

SAME = 1e-4  # relative, float32


def say(content: str, **more: Any) -> dict[str, Any]:
    return {"role": "user", "content": content, **more}


@pytest.mark.slow  # 16 processes
def test_sixteen_processes_that_write_to_one_agent_neither_lose_nor_double(shared_url: str, run) -> None:
    run("writers.py", "together", shared_url, 16, 50)

    with Store.open(shared_url) as store:
        entries = store.live("alice")
        assert [entry.position for entry in entries] == list(range(1, 801))
        assert len({entry.id for entry in entries}) == 800
        for writer in range(16):
            own = [entry.text for entry in entries if entry.session == f"s{writer}"]
            assert own == [f"{writer}-{i}" for i in range(50)]
        assert [record.message_id for record in store.records.read("alice")] == [entry.id for entry in entries]
        assert problems(store) == []


@pytest.mark.slow  # loads the model
def test_processes_that_fold_one_agent_at_once_come_to_one_state(shared_url: str, run, tmp_path: Path) -> None:
    run("folders.py", "together", shared_url, 2, tmp_path / "report")

    (told,) = [json.loads(line) for line in (tmp_path / "report").read_text().splitlines()]
    with DeltaMem.open("tiny", url=shared_url, embedder=False) as mem:
        alice = mem.agent("alice")
        entries, stored = alice.log(), mem.store.states.revisions("alice")
        assert [entry.position for entry in entries] == list(range(1, len(entries) + 1))
        assert stored[-1].position == len(entries)
        assert len({revision.position for revision in stored}) == len(stored)
        assert told == ["state", checksum_of(encode(alice.state()))]
        drift = alice.verify().layers
        assert drift and max(drift.values()) < SAME


def test_a_damaged_state_is_refused_with_its_remedy_and_folded_again(tmp_path: Path) -> None:
    with DeltaMem.open("tiny", url=f"sqlite:///{tmp_path / 'memory.db'}", embedder=False) as mem:
        alice, bob = mem.agent("alice"), mem.agent("bob")
        for agent in (alice, bob):
            agent.write([say("My dog is called Rex."), say("I live in Oslo.")], "s1")
        before = alice.state()
        damaged = bytearray(mem.store.states.revisions("alice")[-1].state)
        damaged[-3] ^= 0x40

        newest = (RevisionRow.agent_key == 1) & (func.length(RevisionRow.state) == len(damaged))
        execute(mem.store, update(RevisionRow).where(newest).values(state=bytes(damaged)))
        for use in (alice.state, alice.verify, lambda: alice.recall("Where do I live?", mode="state")):
            with pytest.raises(StateMismatchError, match="deltamem rebuild alice"):
                use()
        assert alice.log() and bob.state()  # the journal can be read, and other agents know nothing of it
        rebuilt = alice.rebuild()
        assert max(float((rebuilt[name] - before[name]).norm() / before[name].norm()) for name in before) < SAME
        assert alice.verify().position == 2


def test_an_agent_with_a_damaged_state_is_still_written_to(tmp_path: Path) -> None:
    with DeltaMem.open("tiny", url=f"sqlite:///{tmp_path / 'memory.db'}", embedder=False) as mem:
        alice = mem.agent("alice")
        alice.write([say("My dog is called Rex.")], "s1")
        execute(mem.store, "UPDATE deltamem_revisions SET state = x'00'")
        assert alice.write([say("I live in Oslo.", id="a")], "s1") == ["a"]  # durable, whatever folding does
        with pytest.raises(StateMismatchError):
            alice.recall("Where do I live?", mode="state")
        alice.write([say("I live in Oslo.", id="a")], "s1", wait=False)
        assert [entry.text for entry in alice.log()] == ["My dog is called Rex.", "I live in Oslo."]


def test_a_clock_that_goes_backwards_leaves_the_order_of_positions(
    shared_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [datetime(2026, 5, 1, 12, tzinfo=UTC)]

    class Clock(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:  # type: ignore[override]
            return now[0]

    for module in (messages, revisions):
        monkeypatch.setattr(module, "datetime", Clock)
    with Store.open(shared_url) as store:
        for i in range(8):
            store.append("alice", [say(f"message {i}")], "s1")
            info = store.agent("alice")
            assert info is not None
            state = f"state {i}".encode()
            revision = Revision(position=info.position, epoch=info.epoch, fingerprint="f", state=state)
            assert store.states.commit("alice", revision, after=i) == i + 1
            now[0] -= timedelta(hours=7)  # over days
        entries = store.live("alice")
        assert [entry.text for entry in entries] == [f"message {i}" for i in range(8)]
        assert [entry.created_at for entry in entries] == sorted((e.created_at for e in entries), reverse=True)
        newest = store.states.newest("alice", "f")
        assert newest is not None and newest.state == b"state 7"
        tail = store.states.fold_input("alice", "f")
        assert tail is not None and tail.position == 8 and tail.entries == []


@pytest.mark.parametrize("whole", [False, True], ids=["messages", "agent"])
def test_a_fold_under_way_cannot_store_what_another_process_erased(shared_url: str, whole: bool) -> None:
    with Store.open(shared_url) as store:
        ids = store.append("alice", [say("one"), say("two"), say("three")], "s1")
        tail = store.states.fold_input("alice", "f")
        assert tail is not None
        revision = Revision(position=tail.position, epoch=tail.epoch, fingerprint="f", state=b"knows two")

        program = (
            "import sys; from deltamem_agents.store import Selection, Store\n"
            "url, whole, id = sys.argv[1:]\n"
            "store = Store.open(url)\n"
            "store.erase('alice', Selection(whole=True) if whole == 'True' else Selection(ids=[id]))\n"
            "store.append('alice', [{'role': 'user', 'content': text} for text in ('x', 'y', 'z')], 's1')\n"
        )
        subprocess.run([sys.executable, "-c", program, shared_url, str(whole), ids[1]], check=True, timeout=60)

        assert store.states.commit("alice", revision, after=0) == 0  # of another epoch, though of the same name
        assert store.states.revisions("alice") == [] and store.states.newest("alice", "f") is None
        again = store.states.fold_input("alice", "f")
        assert again is not None and again.epoch != tail.epoch and again.newest is None
        assert "two" not in [entry.text for entry in again.entries]

        store.erase("alice", Selection(whole=True))
        with pytest.raises(UnknownAgentError):
            store.states.commit("alice", revision, after=0)


def test_a_fold_of_another_epoch_is_not_stored_by_the_memory_either(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'memory.db'}"
    with DeltaMem.open("tiny", url=url, embedder=False) as mem, Store.open(url) as elsewhere:
        alice = mem.agent("alice")
        ids = mem.store.append("alice", [say("My dog is called Rex."), say("I live in Oslo.")], "s1")
        with after_forwards(mem.engine, lambda *_: elsewhere.erase("alice", Selection(ids=ids[:1]))):
            alice.state()
        assert mem.store.states.revisions("alice") == []
        mem.agent("fresh").write([say("I live in Oslo.")], "s1")
        state, expected = alice.state(), mem.agent("fresh").state()
        assert max(float((state[name] - expected[name]).norm() / expected[name].norm()) for name in state) < SAME
