"""Erasure: what was chosen goes with all that was made of it, and nothing else does."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import create_engine, event

from deltamem_agents.errors import ConfigError, UnknownAgentError
from deltamem_agents.store import MessageRef, Selection, Store
from tests.databases import query

Say = Callable[..., dict[str, Any]]
Commit = Callable[..., int]
Rows = Callable[..., dict[str, list[Any]]]
NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)


@pytest.fixture
def filled(store: Store, say: Say, commit: Commit) -> Store:
    """alice: 1 apple, 2 banana, 3 cherry, 4 blackberry in place of banana (in s1), 5 damson (in s2), an hour apart."""
    for position, (text, name, session) in enumerate(
        [
            ("apple", "a", "s1"),
            ("banana", "b", "s1"),
            ("cherry", "c", "s1"),
            ("blackberry", "b", "s1"),
            ("damson", "d", "s2"),
        ]
    ):
        store.append("alice", [say(text, id=name, created_at=NOON + timedelta(hours=position))], session)
    for position in range(1, 6):
        commit("alice", position, position - 1)
    keys = [key for key, _ in store.records.missing_embeddings("alice", "m", 10)]
    store.records.put_embeddings("alice", "m", keys, np.ones((4, 2), np.float32))
    store.append("bob", [say("apple", id="a"), say("banana", id="b")], "s1")
    store.append("bob", [say("berry", id="b")], "s1")
    commit("bob", 3)
    store.records.put_embeddings(
        "bob", "m", [key for key, _ in store.records.missing_embeddings("bob", "m", 9)], np.ones((2, 2), "f4")
    )
    return store


def live(store: Store, agent: str = "alice") -> list[tuple[int, str]]:
    return [(entry.position, entry.text) for entry in store.live(agent)]


def revisions(store: Store, agent: str = "alice") -> list[int]:
    return [stored.position for stored in store.states.revisions(agent)]


def test_by_ids_every_version_goes(filled: Store, rows: Rows) -> None:
    before = filled.agent("alice")

    plan = filled.erase("alice", Selection(ids=["b", "unheard of"]))

    assert live(filled) == [(1, "apple"), (3, "cherry"), (5, "damson")]
    assert [entry.text for entry in filled.at("alice", 2)] == ["apple"]
    (erased,) = plan.erased
    assert (erased.agent, erased.ids, erased.messages, len(erased.hashes)) == ("alice", (("s1", "b"),), 2, 2)
    assert (erased.records, erased.embeddings, erased.revisions) == (1, 1, 4)
    assert revisions(filled) == [1]
    after = filled.agent("alice")
    assert before is not None and after is not None
    assert (after.epoch, after.position, after.messages) == (before.epoch + 1, 5, 3)
    left = repr(rows(filled, "alice"))
    assert "banana" not in left and "blackberry" not in left and "cherry" in left


def test_no_word_of_it_is_found(filled: Store) -> None:
    assert filled.records.search_text("alice", ["blackberry"], 5) != []
    filled.erase("alice", Selection(ids=["b"]))
    assert filled.records.search_text("alice", ["blackberry", "banana"], 5) == []
    assert [record.text for record in filled.records.read("alice")] == ["apple", "cherry", "damson"]
    assert len(filled.records.embeddings("alice", "m")[0]) == 3


def test_a_message_that_an_erased_one_had_superseded_is_live_again(filled: Store) -> None:
    plan = filled.erase("alice", Selection(since=NOON + timedelta(hours=3)))

    assert plan.erased[0].ids == (("s1", "b"), ("s2", "d"))
    assert live(filled) == [(1, "apple"), (2, "banana"), (3, "cherry")]
    assert [record.text for record, _ in filled.records.search_text("alice", ["banana", "blackberry"], 5)] == ["banana"]
    assert [text for _, text in filled.records.missing_embeddings("alice", "m", 9)] == ["banana"]
    assert filled.sessions("alice") == ["s1"] and revisions(filled) == [1]


def test_states_that_went_with_a_message_that_came_back_are_counted(filled: Store) -> None:
    dry = filled.erase("alice", Selection(since=NOON + timedelta(hours=3)), dry_run=True).erased[0]
    before = len(revisions(filled))
    erased = filled.erase("alice", Selection(since=NOON + timedelta(hours=3))).erased[0]
    assert dry.revisions == erased.revisions == before - len(revisions(filled)) == 4


HOUR = timedelta(hours=1)


@pytest.mark.parametrize(
    ("chosen", "texts"),
    [
        (Selection(since=NOON + 3 * HOUR), ["apple", "banana", "cherry"]),
        (Selection(until=NOON + 3 * HOUR), ["blackberry", "damson"]),
        (Selection(since=NOON + HOUR, until=NOON + 2 * HOUR), ["apple", "cherry", "blackberry", "damson"]),
        (Selection(since=(NOON + 4 * HOUR).astimezone(timezone(-5 * HOUR))), ["apple", "cherry", "blackberry"]),
        (Selection(since=NOON + HOUR, session="s1", ids=["a", "c", "d"]), ["apple", "blackberry", "damson"]),
        (Selection(since=NOON + 5 * HOUR), ["apple", "cherry", "blackberry", "damson"]),
    ],
)
def test_by_time_and_by_all_that_is_given(filled: Store, chosen: Selection, texts: list[str]) -> None:
    filled.erase("alice", chosen)
    assert [text for _, text in live(filled)] == texts


def test_where_nothing_fits_nothing_happens(filled: Store, rows: Rows) -> None:
    before = rows(filled)
    for chosen in (Selection(ids=["x"]), Selection(ids=[]), Selection(session="S1"), Selection(since=NOON + 9 * HOUR)):
        plan = filled.erase("alice", chosen, forks=True)
        assert [(each.messages, each.revisions, each.ids) for each in plan.erased] == [(0, 0, ())]
    assert rows(filled) == before and filled.purge() is None


def test_a_dry_run_tells_and_changes_nothing(filled: Store, rows: Rows) -> None:
    filled.fork("alice", "twin")
    before = rows(filled)
    for chosen in (Selection(ids=["b", "a"]), Selection(session="s1"), Selection(whole=True)):
        dry = filled.erase("alice", chosen, forks=True, dry_run=True)
        assert rows(filled) == before
        filled.fork("alice", "spare")
        done = filled.erase("spare", chosen)
        assert [replaced(each, agent="") for each in dry.erased[:1]] == [
            replaced(each, agent="") for each in done.erased
        ]
        if not chosen.whole:
            filled.erase("spare", Selection(whole=True))
        before = rows(filled)


def replaced(erased: Any, agent: str) -> dict[str, Any]:
    return erased.as_dict() | {"agent": agent, "hashes": len(erased.hashes)}


def test_the_whole_agent(filled: Store, rows: Rows) -> None:
    filled.rollback("alice", 3)
    plan = filled.erase("alice", Selection(whole=True))
    erased = plan.erased[0]
    refs = (("s1", "a"), ("s1", "b"), ("s1", "c"), ("s2", "d"))
    assert (erased.ids, erased.messages, erased.records, erased.revisions) == (refs, 5, 3, 1)
    assert (
        filled.agent("alice") is None and live(filled) == [] and filled.records.search_text("alice", ["apple"], 5) == []
    )
    assert all(found == [] for found in rows(filled, "alice").values())
    with pytest.raises(UnknownAgentError):
        filled.erase("alice", Selection(whole=True))


@pytest.mark.parametrize("chosen", [Selection(ids=["a", "b"]), Selection(session="s1"), Selection(whole=True)])
def test_other_agents_rows_are_untouched(filled: Store, rows: Rows, chosen: Selection) -> None:
    filled.fork("alice", "twin")
    before = {agent: rows(filled, agent) for agent in ("bob", "twin")}
    filled.erase("alice", chosen)
    assert {agent: rows(filled, agent) for agent in ("bob", "twin")} == before
    filled.erase("alice" if filled.agent("alice") else "twin", Selection(whole=True), forks=True)
    assert rows(filled, "bob") == before["bob"] and all(before["bob"][f"deltamem_{name}"] for name in ("embeddings",))


def test_forks_that_hold_it_are_listed(filled: Store, say: Say) -> None:
    filled.fork("alice", "twin")
    filled.fork("twin", "third")
    filled.append("third", [say("apricot", id="a")], "s1")
    filled.fork("bob", "robert")
    filled.append("twin", [say("mine alone", id="e")], "s")
    filled.erase("twin", Selection(ids=["d"]))

    plan = filled.erase("alice", Selection(ids=["a", "d"]))

    assert [each.agent for each in plan.erased] == ["alice"]
    # The superseded one too; never bob's.
    assert plan.held_by == {"twin": [("s1", "a")], "third": [("s1", "a"), ("s2", "d")]}
    assert filled.live("twin")[0].text == "apple"


def test_forks_are_erased_on_request(filled: Store, say: Say, rows: Rows) -> None:
    filled.fork("alice", "twin")
    filled.append("twin", [say("apricot", id="a"), say("elder", id="e")], "s1")
    bobs = rows(filled, "bob")
    epochs = {info.id: info.epoch for info in filled.agents()}

    plan = filled.erase("twin", Selection(ids=["a", "e"]), forks=True)

    assert plan.held_by == {} and [(each.agent, each.messages) for each in plan.erased] == [("twin", 3), ("alice", 1)]
    assert [text for _, text in live(filled)] == ["cherry", "blackberry", "damson"] and revisions(filled) == []
    assert {info.id: info.epoch - epochs[info.id] for info in filled.agents()} == {"alice": 1, "bob": 0, "twin": 1}
    assert rows(filled, "bob") == bobs
    assert "apple" not in repr([rows(filled, agent) for agent in ("alice", "twin")])


def test_a_whole_agent_with_its_forks_leaves_the_forks_their_own(filled: Store, say: Say) -> None:
    filled.fork("alice", "twin")
    filled.append("twin", [say("mine alone", id="e")], "s")
    plan = filled.erase("alice", Selection(whole=True), forks=True)
    assert [(each.agent, each.messages) for each in plan.erased] == [("alice", 5), ("twin", 5)]
    assert live(filled, "twin") == [(6, "mine alone")] and filled.agent("alice") is None


def test_what_was_rolled_back_can_be_erased(filled: Store) -> None:
    filled.rollback("alice", 3)
    plan = filled.erase("alice", Selection(ids=["d"]))
    assert plan.erased[0].messages == 1 and plan.erased[0].records == 0
    assert live(filled) == [(1, "apple"), (2, "banana"), (3, "cherry")]
    filled.rollback("alice", 5)
    assert [text for _, text in live(filled)] == ["apple", "cherry", "blackberry"]


def test_as_if_it_had_never_been(filled: Store, store: Store, say: Say) -> None:
    filled.erase("alice", Selection(ids=["b"]))
    store.append("carol", [say(text, id=i) for text, i in (("apple", "a"), ("cherry", "c"), ("damson", "d"))], "s1")
    assert [entry.text for entry in filled.live("alice")] == [entry.text for entry in store.live("carol")]
    filled.append("alice", [say("banana", id="b")], "s1")  # its id is free
    assert live(filled)[-1] == (6, "banana")


def test_an_agent_written_to_again_is_another(filled: Store, say: Say, commit: Commit) -> None:
    old, info = filled.states.revisions("alice")[-1], filled.agent("alice")
    filled.erase("alice", Selection(whole=True))
    with pytest.raises(UnknownAgentError, match="'alice'"):
        filled.states.commit("alice", old, after=0)

    filled.append("alice", [say(f"new {i}") for i in range(9)], "s")

    again = filled.agent("alice")
    assert info is not None and again is not None and again.epoch != info.epoch
    assert filled.states.commit("alice", old, after=0) == 0 and filled.states.revisions("alice") == []


def test_a_fold_under_way_cannot_store_what_was_erased(filled: Store, commit: Commit) -> None:
    tail = filled.states.fold_input("alice", "g")
    assert tail is not None
    old = filled.states.revisions("alice")[-1]
    filled.erase("alice", Selection(ids=["d"]))
    assert filled.states.commit("alice", old, after=0) == 4 and revisions(filled) == [1, 2, 3, 4]


def test_hashes_differ_between_two_erasures_of_the_same(filled: Store) -> None:
    filled.fork("alice", "twin")
    plans = [filled.erase(agent, Selection(ids=["a", "b"])) for agent in ("alice", "twin")]
    hashes = [plan.erased[0].hashes for plan in plans]
    assert len(hashes[0]) == len(hashes[1]) == 3 and len({*hashes[0], *hashes[1]}) == 6
    assert all(len(each) == 64 for each in hashes[0])


NOTHING_CHOSEN: list[tuple[Selection, str]] = [
    (Selection(), "no filter was given"),
    (Selection(ids="abc"), "list of message ids"),
    (Selection(ids=[1]), "list of message ids"),  # type: ignore[list-item]
    (Selection(ids=7), "list of message ids"),  # type: ignore[arg-type]
    (Selection(ids=b"a"), "list of message ids"),  # type: ignore[arg-type]
    (Selection(ids=[b"a"]), "list of message ids"),  # type: ignore[list-item]
    (Selection(ids=MessageRef("s1", "a")), "list of message ids"),  # would be two ids, and neither is meant
    (Selection(ids=[("a",)]), "pairs of session and id"),  # type: ignore[list-item]
    (Selection(ids=[("s1", "a", "b")]), "pairs of session and id"),  # type: ignore[list-item]
    (Selection(ids=[("s1", 1)]), "pairs of session and id"),  # type: ignore[list-item]
    (Selection(ids=["a"], session=b"s1"), "session is b's1'"),  # type: ignore[arg-type]
    (Selection(since="yesterday"), "since is 'yesterday'"),  # type: ignore[arg-type]
    (Selection(until=5), "until is 5"),  # type: ignore[arg-type]
    (Selection(since=NOON, until=NOON), "not before"),
    (Selection(since=NOON.replace(tzinfo=None), until=NOON), "not before"),
]


@pytest.mark.parametrize("dry_run", [False, True])
def test_selections_that_are_none(filled: Store, rows: Rows, dry_run: bool) -> None:
    before = rows(filled)
    for chosen, named in NOTHING_CHOSEN:
        with pytest.raises(ConfigError, match=named):
            filled.erase("alice", chosen, dry_run=dry_run)
    assert rows(filled) == before


def test_a_time_without_a_zone_is_utc(filled: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "America/New_York")
    time_zone_set()
    try:
        filled.erase("alice", Selection(since=datetime(2026, 5, 1, 15)))
    finally:
        monkeypatch.undo()
        time_zone_set()
    assert [text for _, text in live(filled)] == ["apple", "banana", "cherry"]


def time_zone_set() -> None:
    import time

    if hasattr(time, "tzset"):
        time.tzset()


def test_unknown_agents(store: Store) -> None:
    for dry_run in (False, True):
        with pytest.raises(UnknownAgentError, match="'nobody'"):
            store.erase("nobody", Selection(ids=["a"]), dry_run=dry_run)


def test_many_messages(store: Store, say: Say) -> None:
    store.append("alice", [say(f"message {i}", id=str(i)) for i in range(3000)], "s")
    plan = store.erase("alice", Selection(ids=[str(i) for i in range(2500)]))
    assert plan.erased[0].messages == plan.erased[0].records == 2500
    assert plan.erased[0].ids[0] == ("s", "0") and len(store.live("alice")) == len(store.records.read("alice")) == 500


def test_what_was_superseded_in_many_sessions_is_live_again(store: Store, say: Say) -> None:
    sessions = [f"s{i}" for i in range(110)]
    for session in sessions:
        store.append("alice", [say("old", id="a"), say("other", id="b")], session)
    since = datetime.now(UTC)
    for session in sessions:
        store.append("alice", [say("new", id="a")], session)
    store.erase("alice", Selection(since=since))
    assert {(entry.session, entry.text) for entry in store.live("alice")} == set(product(sessions, ("old", "other")))
    assert len(store.records.read("alice")) == 220


def test_an_erasure_does_not_read_the_whole_journal(tmp_path: Path, say: Say) -> None:
    costs = []
    for length in (500, 4000):
        engine, steps = create_engine(f"sqlite:///{tmp_path / f'{length}.db'}"), [0]

        def step(steps: list[int] = steps) -> None:
            steps[0] += 1

        event.listen(engine, "connect", lambda raw, _, step=step: raw.set_progress_handler(step, 1))
        with Store.open(engine=engine) as store:
            store.append("alice", [say(f"message {i}", id=f"{i}") for i in range(length)], "s")
            store.append("alice", [say("another", id="7")], "s")
            begun = steps[0]
            store.erase("alice", Selection(ids=[("s", "7")]))
            costs.append(steps[0] - begun)
            assert len(store.live("alice")) == length - 1
    assert costs[1] < 2 * costs[0], f"instructions of SQLite: {costs}"


def test_purging_finishes_what_was_erased(filled: Store) -> None:
    filled.erase("alice", Selection(ids=["a"]))
    filled.erase("bob", Selection(ids=["a"]))
    assert filled.purge() is None
    assert query(filled, "SELECT count(*) FROM deltamem_purges") == [0]
    assert [record.text for record, _ in filled.records.search_text("alice", ["cherry"], 5)] == ["cherry"]


@pytest.fixture
def numbered(store: Store, say: Say) -> Store:
    """Three sessions that number their messages from 1; the second has edited its first, the third begins like it."""
    for session, texts in {"a": "apple avocado", "b": "banana bilberry", "c": "banana cherry"}.items():
        store.append("alice", [say(text, id=str(i)) for i, text in enumerate(texts.split(), 1)], session)
    store.append("alice", [say("blackberry", id="1")], "b")
    store.append("alice", [say("damson", id="4")], "c")
    return store


@pytest.mark.parametrize("dry_run", [False, True])
@pytest.mark.parametrize(
    "chosen",
    [
        Selection(ids=["1"]),
        Selection(ids=["4", "1"]),
        Selection(ids=["4", "2", ("a", "1")]),
        Selection(ids=["1"], since=datetime(2000, 1, 1, tzinfo=UTC)),
        Selection(ids=["1"], until=datetime(2000, 1, 1, tzinfo=UTC)),
    ],
)
def test_an_id_of_several_sessions_is_refused(numbered: Store, rows: Rows, chosen: Selection, dry_run: bool) -> None:
    before = rows(numbered)
    with pytest.raises(ConfigError, match=r"'[12]' is in 3 sessions: 'a', 'b', 'c'; nothing was erased"):
        numbered.erase("alice", chosen, dry_run=dry_run)
    assert rows(numbered) == before


def test_an_id_that_is_in_many_sessions_names_some(store: Store, say: Say) -> None:
    for number in range(30):
        store.append("alice", [say("apple", id="1")], f"s{number:02}")
    with pytest.raises(ConfigError, match="is in 30 sessions: 's00', 's01', 's02', 's03', 's04' and 25 more"):
        store.erase("alice", Selection(ids=["1"]))


def test_an_id_that_only_replaced_messages_share_is_refused_too(store: Store, say: Say) -> None:
    store.append("alice", [say("apple", id="1")], "a")
    store.append("alice", [say("banana", id="1")], "b")
    store.rollback("alice", 1)
    with pytest.raises(ConfigError, match="in 2 sessions: 'a', 'b'"):
        store.erase("alice", Selection(ids=["1"]))


@pytest.mark.parametrize(
    ("chosen", "refs"),
    [
        (Selection(ids=["1"], session="b"), [("b", "1")]),
        (Selection(ids=[("b", "1")]), [("b", "1")]),
        (Selection(ids=[MessageRef("b", "1"), "4", ("a", "2")]), [("a", "2"), ("b", "1"), ("c", "4")]),
        (Selection(ids=["4"]), [("c", "4")]),
        (Selection(ids=["1", ("c", "2"), ("a", "2")], session="c"), [("c", "1"), ("c", "2")]),
        (Selection(ids=[("a", "1")], session="b"), []),
        (Selection(ids=[("1", "a"), ("b", "4")]), []),
        (Selection(session="b"), [("b", "1"), ("b", "2")]),
    ],
)
def test_what_is_named_goes_in_its_session(
    numbered: Store, chosen: Selection, refs: list[tuple[str, str]], rows: Rows
) -> None:
    before = numbered.live("alice")
    dry = numbered.erase("alice", chosen, dry_run=True).erased[0]
    erased = numbered.erase("alice", chosen).erased[0]
    assert dry.ids == erased.ids and sorted(erased.ids) == refs
    assert numbered.live("alice") == [entry for entry in before if entry.ref not in refs]
    assert ("blackberry" in repr(rows(numbered)), "bilberry" in repr(rows(numbered))) == (
        ("b", "1") not in refs,
        ("b", "2") not in refs,
    )
    assert all(each == {"session": each["session"], "id": each["id"]} for each in erased.as_dict()["ids"])


def test_a_fork_holds_what_is_of_the_same_session(numbered: Store, say: Say) -> None:
    numbered.fork("alice", "twin")
    numbered.erase("twin", Selection(ids=[("b", "1")]))  # c says "banana" under the same number still
    assert numbered.erase("alice", Selection(ids=[("b", "1")]), dry_run=True).held_by == {}
    assert numbered.erase("alice", Selection(ids=[("c", "1")])).held_by == {"twin": [("c", "1")]}
    numbered.erase("twin", Selection(ids=[("c", "1")]), forks=True)
    assert "banana" not in [entry.text for entry in numbered.live("twin")]
    assert [entry.text for entry in numbered.live("alice", session="b")] == ["bilberry", "blackberry"]
