"""The revisions' part of the conformance suite, and the codec of states."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from sqlalchemy import create_engine, text

from deltamem_agents.errors import ConfigError, StateMismatchError, UnknownAgentError
from deltamem_agents.store import Revision, Store
from deltamem_agents.store.codec import decode, encode

Say = Callable[..., dict[str, Any]]


def revision(position: int, epoch: int = 1, fingerprint: str = "f", state: bytes = b"") -> Revision:
    return Revision(position=position, epoch=epoch, fingerprint=fingerprint, state=state or b"state %d" % position)


@pytest.fixture
def filled(store: Store, say: Say) -> Store:
    store.append("alice", [say(f"message {i}", id=f"m{i}") for i in range(1, 11)], "s")
    return store


def positions(store: Store) -> list[int]:
    return [stored.position for stored in store.revisions("alice")]


def test_commit_and_newest(filled: Store) -> None:
    assert filled.commit("alice", revision(3), after=0) == 3
    assert filled.commit("alice", revision(5), after=3) == 5

    newest = filled.newest_revision("alice", "f")

    assert newest is not None and (newest.position, newest.parent, newest.state) == (5, 3, b"state 5")
    assert newest.created_at is not None and newest.created_at.tzinfo is not None
    older = filled.newest_revision("alice", "f", at_or_before=4)
    assert older is not None and older.position == 3
    assert filled.newest_revision("alice", "f", at_or_before=2) is None
    assert filled.newest_revision("alice", "another") is None


def test_an_older_or_equal_one_is_not_stored(filled: Store) -> None:
    filled.commit("alice", revision(5), after=0)
    assert filled.commit("alice", revision(4), after=0) == 5
    assert filled.commit("alice", revision(5, state=b"other"), after=0) == 5
    assert positions(filled) == [5] and filled.revisions("alice")[0].state == b"state 5"


def test_fingerprints_are_apart(filled: Store) -> None:
    filled.commit("alice", revision(5), after=0)
    assert filled.commit("alice", revision(2, fingerprint="g"), after=0) == 2
    stored = filled.newest_revision("alice", "g")
    assert stored is not None and stored.position == 2


def test_one_of_another_epoch_is_not_stored(filled: Store, say: Say) -> None:
    filled.commit("alice", revision(2), after=0)
    filled.append("alice", [say("changed", id="m7")], "s")
    assert filled.commit("alice", revision(10), after=0) == 2
    assert filled.commit("alice", revision(11, epoch=2), after=2) == 11


def test_superseding_keeps_only_revisions_that_did_not_know_the_text(filled: Store, say: Say) -> None:
    for position, after in ((2, 0), (6, 2), (7, 6), (10, 7)):
        filled.commit("alice", revision(position), after=after, keep=(2, 6, 7, 10))

    filled.append("alice", [say("changed", id="m7")], "s")

    assert positions(filled) == [2, 6] and {stored.epoch for stored in filled.revisions("alice")} == {2}
    newest = filled.newest_revision("alice", "f")
    assert newest is not None and (newest.position, newest.epoch) == (6, 2)


def test_retention_keeps_the_newest_two_and_those_asked_for(filled: Store) -> None:
    for position in range(1, 7):
        filled.commit("alice", revision(position), after=position - 1, keep=(2,))
    assert positions(filled) == [2, 5, 6]
    filled.commit("alice", revision(9), after=6)
    assert positions(filled) == [6, 9]


def test_unknown_agent_and_positions_out_of_range(filled: Store) -> None:
    with pytest.raises(UnknownAgentError, match="'bob'"):
        filled.commit("bob", revision(1), after=0)
    for position, after in ((0, 0), (-1, 0), (3, 3), (3, -1), (11, 0)):
        with pytest.raises(ConfigError, match=f"position {position}"):
            filled.commit("alice", revision(position), after=after)
    for bad in (replace(revision(3), state=b""), revision(3, fingerprint=""), revision(3, fingerprint="f" * 256)):
        with pytest.raises(ConfigError, match="fingerprint"):
            filled.commit("alice", bad, after=0)
    assert positions(filled) == []


def test_a_damaged_revision_names_the_remedy(tmp_path: Path, say: Say) -> None:
    url = f"sqlite:///{tmp_path}/m.db"
    with Store.open(url) as store:
        store.append("alice", [say("x")], "s")
        store.commit("alice", revision(1), after=0)
        with create_engine(url).begin() as connection:
            connection.execute(text("UPDATE deltamem_revisions SET state = x'00'"))
        with pytest.raises(StateMismatchError, match="deltamem rebuild alice"):
            store.newest_revision("alice", "f")


def test_codec_round_trip_is_exact_and_stable() -> None:
    state = {"layers.1": torch.randn(4, 4), "layers.0": torch.randn(2, 4, 4).transpose(1, 2)}

    data = encode(state)

    decoded = decode(data)
    assert set(decoded) == set(state) and all(torch.equal(decoded[name], state[name]) for name in state)
    assert all(tensor.dtype == torch.float32 for tensor in decoded.values())
    assert data == encode(dict(reversed(state.items())))


def test_codec_refuses_what_is_not_a_state() -> None:
    for bad in ({}, {"a": torch.zeros(2, 2, dtype=torch.float16)}, {"a": torch.full((2, 2), float("nan"))}):
        with pytest.raises(StateMismatchError):
            encode(bad)
    data = encode({"a": torch.ones(4, 4)})
    huge = (2**60).to_bytes(8, "little") + data[8:]
    for damaged in (b"", b"x" * 7, b"{}" * 20, data[:-1], data + b"x", huge, data.replace(b"F32", b"F16")):
        with pytest.raises(StateMismatchError, match="again"):
            decode(damaged)
