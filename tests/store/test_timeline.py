"""Time travel: the journal as it stood at any position, and rollbacks."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from deltamem_agents.errors import ConfigError, UnknownAgentError
from deltamem_agents.store import Selection, Store
from tests.databases import execute

Say = Callable[..., dict[str, Any]]
Commit = Callable[..., int]


@pytest.fixture
def filled(store: Store, say: Say) -> Store:
    """1 apple, 2 banana, 3 cherry, then banana is superseded at 4 by blackberry, 5 damson."""
    store.append("alice", [say("apple", id="a"), say("banana", id="b"), say("cherry", id="c")], "s1")
    store.append("alice", [say("blackberry", id="b")], "s1")
    store.append("alice", [say("damson", id="d")], "s2")
    return store


def live(store: Store, agent: str = "alice") -> list[tuple[int, str]]:
    return [(entry.position, entry.text) for entry in store.live(agent)]


def epoch(store: Store, agent: str = "alice") -> int:
    info = store.agent(agent)
    assert info is not None
    return info.epoch


def hits(store: Store, *words: str, agent: str = "alice") -> set[str]:
    return {record.text for record, _ in store.records.search_text(agent, words, 10)}


def test_a_rollback_brings_the_journal_back_to_where_it_stood(filled: Store) -> None:
    before = epoch(filled)

    assert filled.rollback("alice", 3) == 6

    assert live(filled) == [(1, "apple"), (2, "banana"), (3, "cherry")]
    assert [record.text for record in filled.records.read("alice")] == ["apple", "banana", "cherry"]
    assert hits(filled, "banana", "blackberry", "damson") == {"banana"}
    assert filled.sessions("alice") == ["s1"]
    info = filled.agent("alice")
    assert info is not None and (info.messages, info.position, info.epoch) == (3, 6, before + 1)


def test_the_journal_goes_on_from_there(filled: Store, say: Say) -> None:
    filled.rollback("alice", 2)
    filled.append("alice", [say("elder", id="c"), say("banana", id="b"), say("damson", id="d")], "s1")

    assert live(filled) == [(1, "apple"), (2, "banana"), (7, "elder"), (8, "damson")]
    filled.append("alice", [say("banana", id="b"), say("fig", id="a")], "s3")  # of another session's messages
    assert live(filled)[-3:] == [(8, "damson"), (9, "banana"), (10, "fig")]
    assert hits(filled, "cherry", "elder", "damson") == {"elder", "damson"}


def test_a_rollback_can_be_rolled_back(filled: Store, say: Say) -> None:
    before = live(filled)
    filled.rollback("alice", 1)
    filled.append("alice", [say("fig")], "s")

    assert filled.rollback("alice", 5) == 8

    assert live(filled) == before
    assert hits(filled, "fig", "banana", "blackberry", "cherry") == {"blackberry", "cherry"}
    assert filled.rollback("alice", 7) == 9
    assert live(filled) == [(1, "apple"), (7, "fig")]


def test_to_the_beginning(filled: Store, say: Say) -> None:
    assert filled.rollback("alice", 0) == 6
    assert live(filled) == [] and filled.records.read("alice") == [] and hits(filled, "apple", "damson") == set()
    info = filled.agent("alice")
    assert info is not None and (info.messages, info.position) == (0, 6)
    filled.append("alice", [say("apple", id="a")], "s")
    assert live(filled) == [(7, "apple")]
    filled.rollback("alice", 3)
    assert live(filled) == [(1, "apple"), (2, "banana"), (3, "cherry")]


def test_where_nothing_changes_no_entry_is_made(filled: Store) -> None:
    before = filled.agent("alice")
    assert filled.rollback("alice", 5) == 5
    assert filled.agent("alice") == before
    filled.rollback("alice", 3)
    after = filled.agent("alice")
    assert filled.rollback("alice", 6) == filled.rollback("alice", 3) == 6
    assert filled.agent("alice") == after


def test_positions_that_are_none(filled: Store) -> None:
    before = filled.agent("alice")
    bad: list[Any] = [-1, 6, 10**12, 10**30, True, 2.0, "3", None]
    for position in bad:
        for call in (filled.rollback, filled.at):
            with pytest.raises(ConfigError, match="from 0 to 5"):
                call("alice", position)
    for position in bad[:-1]:  # None is the journal as it stands
        with pytest.raises(ConfigError, match="from 0 to 5"):
            filled.states.fold_input("alice", "f", position)
    assert filled.agent("alice") == before


def test_unknown_agents(store: Store) -> None:
    for call in (store.rollback, store.at):
        with pytest.raises(UnknownAgentError, match="'nobody'"):
            call("nobody", 0)
    assert store.agents() == []


def test_the_journal_as_it_stood_at_each_position(filled: Store, say: Say) -> None:
    filled.rollback("alice", 3)
    filled.append("alice", [say("banana split", id="b")], "s1")

    stood = [[entry.text for entry in filled.at("alice", position)] for position in range(8)]

    assert stood == [
        [],
        ["apple"],
        ["apple", "banana"],
        ["apple", "banana", "cherry"],
        ["apple", "cherry", "blackberry"],
        ["apple", "cherry", "blackberry", "damson"],
        ["apple", "banana", "cherry"],
        ["apple", "cherry", "banana split"],
    ]
    assert filled.at("alice", 7) == filled.live("alice")


def test_only_states_that_still_hold_are_kept(filled: Store, commit: Commit) -> None:
    for position in range(1, 6):
        commit("alice", position, position - 1)

    filled.rollback("alice", 4)
    assert [stored.position for stored in filled.states.revisions("alice")] == [1, 2, 3, 4]

    filled.rollback("alice", 3)  # banana is back, at 2
    assert [stored.position for stored in filled.states.revisions("alice")] == [1]
    newest = filled.states.newest("alice", "f")
    assert newest is not None and newest.epoch == epoch(filled)


def test_a_fold_of_before_is_not_accepted(filled: Store, commit: Commit) -> None:
    commit("alice", 3)
    revision = filled.states.revisions("alice")[0]
    filled.states.drop("alice")
    filled.rollback("alice", 3)
    assert filled.states.commit("alice", revision, after=0) == 0
    assert filled.states.revisions("alice") == []


def test_records_that_come_back_are_to_be_embedded_again(filled: Store) -> None:
    keys = [key for key, _ in filled.records.missing_embeddings("alice", "m", 10)]
    filled.records.put_embeddings("alice", "m", keys, np.ones((4, 2), np.float32))

    filled.rollback("alice", 1)
    filled.rollback("alice", 5)

    assert [text for _, text in filled.records.missing_embeddings("alice", "m", 10)] == [
        "cherry",
        "blackberry",
        "damson",
    ]
    assert len(filled.records.embeddings("alice", "m")[0]) == 1


def test_other_agents_are_as_they_were(filled: Store, say: Say, rows: Callable[..., dict[str, list[Any]]]) -> None:
    filled.append("bob", [say("apple", id="a"), say("pear", id="b")], "s")
    filled.append("bob", [say("plum", id="b")], "s")
    before = rows(filled, "bob")

    filled.rollback("alice", 1)

    assert rows(filled, "bob") == before and len(before["deltamem_messages"]) == 3
    assert hits(filled, "apple", "plum", "pear", agent="bob") == {"apple", "plum"}


def test_a_long_journal(store: Store, say: Say) -> None:
    store.append("alice", [say(f"message {i}", id=str(i)) for i in range(1, 1201)], "s")
    store.append("alice", [say(f"other {i}", id=str(i)) for i in range(1, 1201)], "s")
    store.rollback("alice", 1100)
    assert live(store) == [(i, f"message {i}") for i in range(1, 1101)]
    store.rollback("alice", 2400)
    assert live(store) == [(1200 + i, f"other {i}") for i in range(1, 1201)]
    assert len(store.records.read("alice")) == 1200


def test_supersession_after_a_rollback_is_of_one_session(store: Store, say: Say) -> None:
    for session, text in (("a", "apple"), ("b", "banana"), ("a", "apricot"), ("b", "blackberry")):
        store.append("alice", [say(text, id="1")], session)
    assert live(store) == [(3, "apricot"), (4, "blackberry")]
    store.rollback("alice", 2)
    assert live(store) == [(1, "apple"), (2, "banana")] and hits(store, "apple", "apricot", "banana") == {
        "apple",
        "banana",
    }
    store.append("alice", [say("avocado", id="1")], "a")
    assert live(store) == [(2, "banana"), (6, "avocado")]
    assert [entry.text for entry in store.at("alice", 3)] == ["banana", "apricot"]
    store.fork("alice", "twin")
    store.append("twin", [say("bilberry", id="1")], "b")
    assert live(store, "twin") == [(6, "avocado"), (7, "bilberry")] and live(store) == [(2, "banana"), (6, "avocado")]


@pytest.mark.parametrize("session", ["s", "other"])
def test_what_once_replaced_across_sessions_still_does(store: Store, say: Say, session: str) -> None:
    """As in a journal that was written when ids were the agent's."""
    store.append("alice", [say("apple", id="1")], "s")
    store.append("alice", [say("banana", id="1")], "other")
    execute(store, *AS_BEFORE_VERSION_4)
    before = [[entry.text for entry in store.at("alice", position)] for position in range(3)]
    assert before == [[], ["apple"], ["banana"]] == [*before[:2], [entry.text for entry in store.live("alice")]]
    store.rollback("alice", 1)
    assert live(store) == [(1, "apple")]
    store.rollback("alice", 2)
    assert live(store) == [(2, "banana")]
    store.fork("alice", "twin")
    for agent in ("alice", "twin"):
        store.append(agent, [say("cherry", id="1")], session)
        assert live(store, agent) == ([(5, "cherry")] if session == "other" else [(2, "banana"), (5, "cherry")])
        assert [entry.text for entry in store.at(agent, 5)] == [text for _, text in live(store, agent)]
        store.erase(agent, Selection(ids=[("other", "1")]))
        assert live(store, agent) == [(1, "apple") if session == "other" else (5, "cherry")]


AS_BEFORE_VERSION_4 = (
    "UPDATE deltamem_messages SET left_at = 2 WHERE position = 1",
    "DELETE FROM deltamem_records WHERE position = 1",
    "UPDATE deltamem_agents SET agent_ids_until = head",
)
