"""Forks: the same journal and states under another name, and independent from then on."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from deltamem_agents.errors import ConfigError, InvalidAgentError, UnknownAgentError
from deltamem_agents.store import Selection, Store

Say = Callable[..., dict[str, Any]]
Commit = Callable[..., int]


@pytest.fixture
def filled(store: Store, say: Say, commit: Commit) -> Store:
    """1 apple, 2 banana, 3 cherry, of which banana is superseded at 4 and all was rolled back to 3."""
    first = say("apple\ncore", id="a", metadata={"n": [1]}, created_at="2026-01-02T03:04:05.678901+00:00")
    cherry = say([{"type": "image", "url": "c"}, "cherry"], id="c")
    store.append("alice", [first, say("banana", "tool", id="b"), cherry], "s1")
    store.append("alice", [say("blackberry", id="b", folded=False)], "s1")
    store.rollback("alice", 3)
    commit("alice", 1)
    commit("alice", 3, 1)
    commit("alice", 2, fingerprint="g")
    keys = [key for key, _ in store.records.missing_embeddings("alice", "m", 10)]
    store.records.put_embeddings("alice", "m", keys[1:], np.arange(6, dtype=np.float32).reshape(3, 2))
    return store


def told(store: Store, agent: str) -> dict[str, Any]:
    """All that a caller can see of an agent, but its name, epoch and keys."""
    keys, vectors = store.records.embeddings(agent, "m")
    texts = {record.key: (record.position, record.chunk, record.text) for record in store.records.read(agent)}
    info = store.agent(agent)
    assert info is not None
    return {
        "at": [store.at(agent, position) for position in range(info.position + 1)],
        "live": store.live(agent),
        "sessions": store.sessions(agent),
        "records": list(texts.values()),
        "words": sorted(
            record.text for record, _ in store.records.search_text(agent, ["apple", "banana", "blackberry"], 9)
        ),
        "revisions": [
            (each.position, each.fingerprint, each.parent, each.state) for each in store.states.revisions(agent)
        ],
        "embeddings": [(texts[key], vector.tolist()) for key, vector in zip(keys, vectors, strict=True)],
        "missing": [text for _, text in store.records.missing_embeddings(agent, "m", 10)],
        "info": (info.messages, info.position),
    }


def test_a_fork_is_the_same(filled: Store) -> None:
    before = told(filled, "alice")
    info = filled.agent("alice")

    filled.fork("alice", "twin")

    assert told(filled, "twin") == told(filled, "alice") == before and filled.agent("alice") == info
    assert before["words"] == ["apple", "banana"] and len(before["embeddings"]) == 3 and before["missing"] == ["apple"]
    twin = filled.agent("twin")
    assert twin is not None and info is not None and twin.epoch != info.epoch


def test_what_happens_to_one_the_other_does_not_see(filled: Store, say: Say, commit: Commit) -> None:
    filled.fork("alice", "twin")
    before = told(filled, "alice")

    filled.append("twin", [say("apricot", id="a"), say("damson")], "s3")
    filled.rollback("twin", 4)
    commit("twin", 1)
    filled.append("twin", [say("fig")], "s3")
    commit("twin", 9, fingerprint="h")
    filled.erase("twin", Selection(ids=["c"]))
    assert told(filled, "alice") == before

    filled.erase("twin", Selection(whole=True))
    assert told(filled, "alice") == before and filled.agent("twin") is None

    filled.fork("alice", "twin")
    filled.rollback("alice", 0)
    assert told(filled, "twin") == before
    filled.erase("alice", Selection(whole=True))
    assert told(filled, "twin") == before


def test_forks_of_forks(filled: Store) -> None:
    filled.fork("alice", "second")
    filled.fork("second", "third")
    filled.erase("alice", Selection(whole=True))
    assert told(filled, "third") == told(filled, "second")
    plan = filled.erase("third", Selection(ids=["a"]), dry_run=True)
    assert plan.held_by == {"second": [("s1", "a")]}  # relatives, though their root has gone


def test_an_existing_name_is_refused(filled: Store, say: Say) -> None:
    filled.append("bob", [say("pear")], "s")
    before = told(filled, "bob"), told(filled, "alice"), filled.agents()
    for name in ("bob", "alice"):
        with pytest.raises(ConfigError, match=f"'{name}' exists"):
            filled.fork("alice", name)
    assert (told(filled, "bob"), told(filled, "alice"), filled.agents()) == before


def test_unknown_agents_and_bad_names(filled: Store) -> None:
    with pytest.raises(UnknownAgentError, match="'nobody'"):
        filled.fork("nobody", "twin")
    with pytest.raises(InvalidAgentError):
        filled.fork("alice", "x" * 256)
    assert [info.id for info in filled.agents()] == ["alice"]


def test_a_fold_of_the_one_is_not_accepted_for_the_other(filled: Store, say: Say, commit: Commit) -> None:
    filled.fork("alice", "twin")
    filled.append("alice", [say("damson")], "s")
    filled.append("twin", [say("fig")], "s")
    commit("alice", 6, 3)
    assert filled.states.commit("twin", filled.states.revisions("alice")[-1], after=3) == 3
