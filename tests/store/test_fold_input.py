"""`Store.tail`: from which state on a fold goes, and over which messages."""

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import delete

from deltamem_agents.store import FoldInput, Selection, Store
from deltamem_agents.store.schema import RevisionRow
from tests.databases import execute

Say = Callable[..., dict[str, Any]]
Commit = Callable[..., int]


@pytest.fixture
def filled(store: Store, say: Say, commit: Commit) -> Store:
    """Ten messages; segments begin after 0, 3 and 6; states at 2, 3 (of 0), 5, 6 (of 3) and 8 (of 6)."""
    store.append("alice", [say(f"message {i}", id=f"m{i}") for i in range(1, 11)], "s")
    for position, after in ((2, 0), (3, 0), (5, 3), (6, 3), (8, 6)):
        commit("alice", position, after)
    return store


def thinned(store: Store, *gone: int) -> None:
    execute(store, delete(RevisionRow).where(RevisionRow.position.in_(gone)))


def told(tail: FoldInput | None) -> tuple[int, int | None, int | None, list[int]]:
    """Position, newest, base, positions of entries."""
    assert tail is not None
    return (
        tail.position,
        tail.newest.position if tail.newest else None,
        tail.base.position if tail.base else None,
        [entry.position for entry in tail.entries],
    )


def test_the_open_segment_is_given_from_its_start(filled: Store) -> None:
    tail = filled.states.fold_input("alice", "f")
    assert told(tail) == (10, 8, 6, [7, 8, 9, 10])
    info = filled.agent("alice")
    assert tail is not None and info is not None and tail.epoch == info.epoch


def test_a_state_that_stands_for_all_leaves_nothing_to_fold(filled: Store, commit: Commit) -> None:
    commit("alice", 10, 6)
    assert told(filled.states.fold_input("alice", "f")) == (10, 10, None, [])


def test_without_states(filled: Store) -> None:
    everything = (10, None, None, list(range(1, 11)))
    assert told(filled.states.fold_input("alice", "another")) == everything
    assert told(filled.states.fold_input("alice", "f", anew=True)) == everything
    assert told(filled.states.fold_input("alice", "f", 4, anew=True)) == (4, None, None, [1, 2, 3, 4])
    assert filled.states.fold_input("nobody", "f") is None and filled.states.fold_input("nobody", "f", 3) is None


def test_a_parent_that_was_thinned_out_is_replaced_by_an_older_segments_start(filled: Store) -> None:
    thinned(filled, 6)
    assert told(filled.states.fold_input("alice", "f")) == (10, 8, 3, list(range(4, 11)))
    thinned(filled, 3)
    assert told(filled.states.fold_input("alice", "f")) == (10, 8, None, list(range(1, 11)))
    thinned(filled, 8, 5)
    assert told(filled.states.fold_input("alice", "f")) == (10, 2, None, list(range(1, 11)))


def test_as_it_stood_before(filled: Store) -> None:
    assert told(filled.states.fold_input("alice", "f", 10)) == told(filled.states.fold_input("alice", "f"))
    assert told(filled.states.fold_input("alice", "f", 9)) == (9, 8, 6, [7, 8, 9])
    assert told(filled.states.fold_input("alice", "f", 8)) == (8, 8, None, [])
    assert told(filled.states.fold_input("alice", "f", 7)) == (7, 6, 3, [4, 5, 6, 7])
    assert told(filled.states.fold_input("alice", "f", 1)) == (1, None, None, [1])
    assert told(filled.states.fold_input("alice", "f", 0)) == (0, None, None, [])


def test_as_it_stood_with_what_is_dead_now(filled: Store, say: Say) -> None:
    filled.rollback("alice", 5)
    filled.append("alice", [say("message 12")], "s")
    assert told(filled.states.fold_input("alice", "f")) == (12, 5, 3, [4, 5, 12])
    assert told(filled.states.fold_input("alice", "f", 10)) == (10, 5, 3, list(range(4, 11)))
    assert told(filled.states.fold_input("alice", "f", 11)) == (5, 5, None, [])

    filled.append("alice", [say("other", id="m4")], "s")
    assert told(filled.states.fold_input("alice", "f", 5)) == (5, 3, None, [1, 2, 3, 4, 5])
    assert (
        told(filled.states.fold_input("alice", "f", 13))
        == told(filled.states.fold_input("alice", "f"))
        == (13, 3, None, [1, 2, 3, 5, 12, 13])
    )


def test_a_state_folded_since_does_not_stand_for_what_was(filled: Store, say: Say, commit: Commit) -> None:
    filled.append("alice", [say("other", id="m4")], "s")
    commit("alice", 9, 3)  # of 1, 2, 3, 5 … 9: without the message that was at 4
    assert told(filled.states.fold_input("alice", "f", 9)) == (9, 3, None, list(range(1, 10)))


def test_after_an_erasure(filled: Store) -> None:
    filled.erase("alice", Selection(ids=["m9", "m10"]))
    assert told(filled.states.fold_input("alice", "f")) == (8, 8, None, [])
    filled.erase("alice", Selection(ids=["m5"]))
    assert told(filled.states.fold_input("alice", "f")) == (8, 3, None, [1, 2, 3, 4, 6, 7, 8])
    filled.rollback("alice", 0)
    assert told(filled.states.fold_input("alice", "f")) == (0, None, None, [])
