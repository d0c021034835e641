"""The revisions' part of the conformance suite, and the codec of states."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import update

from deltamem_agents.errors import ConfigError, StateMismatchError, UnknownAgentError
from deltamem_agents.store import Revision, Store
from deltamem_agents.store.codec import decode, encode, module_names
from deltamem_agents.store.schema import RevisionRow
from tests.databases import execute

Say = Callable[..., dict[str, Any]]


def revision(store: Store, position: int, fingerprint: str = "f", state: bytes = b"") -> Revision:
    """A revision of alice's present epoch."""
    info = store.agent("alice")
    state = state or b"state %d" % position
    return Revision(position=position, epoch=info.epoch if info else 1, fingerprint=fingerprint, state=state)


@pytest.fixture
def filled(store: Store, say: Say) -> Store:
    store.append("alice", [say(f"message {i}", id=f"m{i}") for i in range(1, 11)], "s")
    return store


def positions(store: Store) -> list[int]:
    return [stored.position for stored in store.states.revisions("alice")]


def test_commit_and_newest(filled: Store) -> None:
    assert filled.states.commit("alice", revision(filled, 3), after=0) == 3
    assert filled.states.commit("alice", revision(filled, 5), after=3) == 5

    newest = filled.states.newest("alice", "f")

    assert newest is not None and (newest.position, newest.parent, newest.state) == (5, 3, b"state 5")
    assert newest.created_at is not None and newest.created_at.tzinfo is not None
    older = filled.states.newest("alice", "f", at_or_before=4)
    assert older is not None and older.position == 3
    assert filled.states.newest("alice", "f", at_or_before=2) is None
    assert filled.states.newest("alice", "another") is None


def test_an_older_or_equal_one_is_not_stored(filled: Store) -> None:
    filled.states.commit("alice", revision(filled, 5), after=0)
    assert filled.states.commit("alice", revision(filled, 4), after=0) == 5
    assert filled.states.commit("alice", revision(filled, 5, state=b"other"), after=0) == 5
    assert positions(filled) == [5] and filled.states.revisions("alice")[0].state == b"state 5"


def test_fingerprints_are_apart(filled: Store) -> None:
    filled.states.commit("alice", revision(filled, 5), after=0)
    assert filled.states.commit("alice", revision(filled, 2, fingerprint="g"), after=0) == 2
    stored = filled.states.newest("alice", "g")
    assert stored is not None and stored.position == 2


def test_one_of_another_epoch_is_not_stored(filled: Store, say: Say) -> None:
    filled.states.commit("alice", revision(filled, 2), after=0)
    of_before = revision(filled, 10)
    filled.append("alice", [say("changed", id="m7")], "s")
    assert filled.states.commit("alice", of_before, after=0) == 2
    assert filled.states.commit("alice", revision(filled, 11), after=2) == 11


def test_superseding_keeps_only_revisions_that_did_not_know_the_text(filled: Store, say: Say) -> None:
    for position, after in ((2, 0), (6, 2), (7, 6), (10, 7)):
        filled.states.commit("alice", revision(filled, position), after=after)

    before = revision(filled, 1).epoch
    filled.append("alice", [say("changed", id="m7")], "s")

    assert positions(filled) == [2, 6] and {stored.epoch for stored in filled.states.revisions("alice")} == {before + 1}
    newest = filled.states.newest("alice", "f")
    assert newest is not None and (newest.position, newest.epoch) == (6, before + 1)


def test_unknown_agent_and_positions_out_of_range(filled: Store) -> None:
    with pytest.raises(UnknownAgentError, match="'bob'"):
        filled.states.commit("bob", revision(filled, 1), after=0)
    for position, after in ((0, 0), (-1, 0), (3, 3), (3, -1), (11, 0)):
        said = f"after is {after}" if after < 0 else f"position.* {position}"
        with pytest.raises(ConfigError, match=said):
            filled.states.commit("alice", revision(filled, position), after=after)
    good = revision(filled, 3)
    for bad in (replace(good, state=b""), replace(good, fingerprint=""), replace(good, fingerprint="f" * 256)):
        with pytest.raises(ConfigError, match="fingerprint"):
            filled.states.commit("alice", bad, after=0)
    assert positions(filled) == []


def test_a_damaged_revision_names_the_remedy(filled: Store) -> None:
    filled.states.commit("alice", revision(filled, 1), after=0)
    execute(filled, update(RevisionRow).values(state=b"\0"))
    with pytest.raises(StateMismatchError, match="deltamem rebuild alice"):
        filled.states.newest("alice", "f")
    with pytest.raises(StateMismatchError, match="deltamem rebuild alice"):
        filled.states.fold_input("alice", "f")
    assert filled.states.drop("alice") == 1 and filled.states.newest("alice", "f") is None


def test_states_are_told_at_a_glance(filled: Store) -> None:
    filled.states.commit("alice", revision(filled, 2), after=0)
    filled.states.commit("alice", revision(filled, 4, state=b"longer state"), after=2)
    filled.states.commit("alice", revision(filled, 3, fingerprint="g"), after=0)

    told = filled.states.summary("alice", "f")

    newest = filled.states.newest("alice", "f")
    assert newest is not None and (told.count, told.bytes, told.position) == (3, 7 + 12 + 7, 4)
    assert (told.checksum, told.created_at) == (newest.checksum, newest.created_at)
    assert filled.states.summary("alice", "another").position is None and filled.states.summary("bob", "f").count == 0


def test_codec_round_trip_is_exact_and_stable() -> None:
    state = {f"layers.{layer}.self_attn": torch.randn(2, 4, 4).transpose(1, 2) for layer in (10, 9, 0)}

    data = encode(state)

    decoded = decode(data)
    assert set(decoded) == set(state) and all(torch.equal(decoded[name], state[name]) for name in state)
    assert all(tensor.dtype == torch.float32 for tensor in decoded.values())
    assert data == encode(dict(reversed(state.items())))
    assert module_names(data) == list(decoded) == [f"layers.{layer}.self_attn" for layer in (0, 9, 10)]


NAMES = st.lists(st.sampled_from(["layers", "self_attn", "0", "1", "2", "10", "a b", "é"]), min_size=1, max_size=4)


@given(names=st.lists(NAMES.map(".".join), min_size=1, max_size=6, unique=True))
def test_codec_keeps_any_names(names: list[str]) -> None:
    state = {name: torch.full((2, 2), float(i)) for i, name in enumerate(names)}
    decoded = decode(encode(state))
    assert decoded.keys() == state.keys() and all(torch.equal(decoded[name], state[name]) for name in names)


def test_a_state_of_36_layers_is_small() -> None:
    state = {f"model.layers.{layer}.self_attn": torch.zeros(8, 8) for layer in range(36)}
    assert len(encode(state)) <= 36 * 256 + 300


OTHER_SHAPES = {"layers.0": torch.zeros(2, 2), "layers.1": torch.zeros(3, 3)}


def test_codec_refuses_what_is_not_a_state() -> None:
    for bad in (
        {},
        {"a": torch.zeros(2, 2, dtype=torch.float16)},
        {"a": torch.full((2, 2), float("nan"))},
        OTHER_SHAPES,
    ):
        with pytest.raises(StateMismatchError):
            encode(bad)
    data = encode({"a": torch.ones(4, 4)})
    huge = (2**60).to_bytes(8, "little") + data[8:]
    for damaged in (b"", b"x" * 7, b"{}" * 20, data[:-1], data + b"x", huge, data.replace(b"F32", b"F16")):
        with pytest.raises(StateMismatchError, match="again"):
            decode(damaged)
