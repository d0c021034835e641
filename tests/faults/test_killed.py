"""``kill -9`` at random moments: what was acknowledged is there, once, and everything made of it is in step."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from deltamem_agents import DeltaMem
from deltamem_agents.store import Store
from tests.databases import execute, problems

SAME = 1e-4  # relative, float32


@pytest.mark.slow  # 200 writers are started and killed
@pytest.mark.parametrize(("shared_url", "rounds"), [("sqlite", 150), ("postgresql", 50)], indirect=["shared_url"])
def test_writers_killed_at_random_moments_lose_and_double_nothing(shared_url, rounds, run, tmp_path: Path) -> None:
    report = tmp_path / "report"

    run("writers.py", "killed", shared_url, rounds, 7, report)

    lines = [json.loads(line) for line in report.read_text().splitlines()]
    acknowledged = [name for what, names in lines if what == "done" for name in names]
    begun = [names for what, names in lines if what == "begun"]
    assert len(acknowledged) > rounds  # the writers came to write
    with Store.open(shared_url) as store:
        assert problems(store) == []
        entries = store.live("alice")
        stored = [entry.id for entry in entries]
        assert len(set(stored)) == len(stored)
        assert set(acknowledged) <= set(stored)
        for names in begun:  # a write is there as a whole, or not at all
            assert set(names) <= set(stored) or not set(names) & set(stored)
        # No position was skipped, and the order is that of writing.
        assert [entry.position for entry in entries] == list(range(1, len(entries) + 1))
        assert stored == [name for names in begun for name in names if name in set(stored)]
        assert [(record.message_id, record.text) for record in store.records.read("alice")] == [
            (entry.id, entry.text) for entry in entries
        ]
        hits = store.records.search_text("alice", ["kept"], len(entries) + 1)
        assert sorted(hit.message_id for hit, _ in hits) == sorted(stored)
        for name in (*acknowledged[:5], *acknowledged[-5:]):
            word = f"word{name.replace('-', 'x')}"
            assert [hit.message_id for hit, _ in store.records.search_text("alice", [word], 5)] == [name]
        newest = store.states.newest("alice", "f")  # raises where its checksum does not match
        assert newest is not None and newest.state == f"state at {newest.position}".encode() * 100
        if shared_url.startswith("sqlite"):
            execute(store, "INSERT INTO deltamem_records_fts(deltamem_records_fts, rank) VALUES ('integrity-check', 1)")


@pytest.mark.slow  # 20 processes fold and are killed
def test_processes_killed_while_they_fold_leave_a_state_that_is_the_fold(run, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'memory.db'}"
    report = tmp_path / "report"

    run("folders.py", "killed", url, 20, 7, report)

    lines = [json.loads(line) for line in report.read_text().splitlines()]
    acknowledged = [name for what, names in lines if what == "done" for name in names]
    while_folding = sum(what == "folding" for what, _ in lines) - sum(what == "folded" for what, _ in lines)
    assert while_folding >= 15, "most were to be killed in the middle of folding"
    drifts = [drift for what, drift in lines if what == "drift"]  # found by the process after the killed one
    assert len(drifts) == 20 and max(drifts) < SAME
    with (
        DeltaMem.open("tiny", url=url, embedder=False) as mem,
        DeltaMem.open("tiny", url="sqlite://", embedder=False) as other,
    ):
        assert problems(mem.store) == []
        entries = mem.agent("alice").log()
        assert {entry.id for entry in entries} >= set(acknowledged)
        assert len({entry.id for entry in entries}) == len(entries)
        fresh = other.agent("fresh")
        for entry in entries:
            fresh.write([{"role": entry.role, "content": entry.text}], entry.session, wait=False)
        state, expected = mem.agent("alice").state(), fresh.state()
        for name, tensor in expected.items():
            assert float((state[name] - tensor).norm() / tensor.norm()) < SAME
