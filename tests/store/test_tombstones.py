"""What an erasure leaves behind, by which a message that comes again is known, and what no erasure leaves."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from deltamem_agents.errors import ConfigError
from deltamem_agents.store import Said, Selection, Store, check_messages, wording

Say = Callable[..., dict[str, Any]]
Rows = Callable[..., dict[str, list[Any]]]


@pytest.fixture
def filled(store: Store, say: Say) -> Store:
    """alice, s1: 1 ok, 2 apple, 3 ok, 4 pear in place of apple, 5 ok; s2: 6 apple."""
    for text, name in (("ok", "1"), ("apple", "2"), ("ok", "3"), ("pear", "2"), ("ok", "4")):
        store.append("alice", [say(text, id=name)], "s1")
    store.append("alice", [say("apple", id="2")], "s2")
    return store


def said(store: Store, *texts: str, session: str = "s1", agent: str = "alice", **more: Any) -> list[Said]:
    messages = check_messages([{"role": "user", "content": text, **more} for text in texts])
    return store.messages.ever_said(agent, session, messages)


def erased(store: Store, *texts: str, **more: Any) -> list[int]:
    return [each.place for each in said(store, *texts, **more) if each.erased]


def test_all_that_a_session_held_in_the_order_of_the_conversation(filled: Store) -> None:
    filled.rollback("alice", 4)
    found = said(filled)
    assert [(each.place, each.position, each.id, each.live) for each in found] == [
        (1, 1, "1", True),
        (2, 2, "2", False),  # replaced by 4
        (2, 4, "2", True),
        (3, 3, "3", True),
        (5, 5, "4", False),  # rolled back
    ]
    assert [each.wording for each in found] == [wording("user", text, None) for text in "ok apple pear ok ok".split()]
    assert said(filled, session="s3") == said(filled, agent="nobody") == []


def test_each_erased_message_leaves_one(filled: Store) -> None:
    plan = filled.erase("alice", Selection(ids=["3", ("s1", "2")]))
    assert plan.remaining == {"alice": [("s1", "2"), ("s1", "3")]}
    assert erased(filled, "ok", "apple", "pear", "plum") == [2, 2, 3]  # both versions in their place
    assert erased(filled, " o\nk\t") == [3]
    assert erased(filled, "plum", "okay") == erased(filled, "ok", role="assistant") == []
    assert erased(filled, "apple", session="s2") == erased(filled, "ok", session="s2") == []
    assert [each.id for each in said(filled, "ok", id="3") if each.erased] == ["3"]
    assert [each.id for each in said(filled, "ok", id="9") if each.erased] == [""]
    filled.erase("alice", Selection(ids=["1"]))
    assert erased(filled, "ok", "ok") == [1, 3]


def test_no_erased_word_is_in_the_tables(filled: Store, rows: Rows) -> None:
    filled.erase("alice", Selection(session="s1"))
    left = repr(rows(filled, "alice"))
    assert "pear" not in left and "s1" not in left and len(rows(filled, "alice")["deltamem_tombstones"]) == 5
    hashes = [row[3:] for row in rows(filled, "alice")["deltamem_tombstones"]]
    assert len(set(hashes)) == 5 and all(len(each) == 16 for row in hashes for each in row)


def test_agents_hashes_are_under_keys_of_their_own(filled: Store, say: Say, rows: Rows) -> None:
    filled.append("bob", [say("ok", id="1")], "s1")
    for agent in ("alice", "bob"):
        filled.erase(agent, Selection(ids=["1"]))
    (alices,), (bobs,) = (rows(filled, agent)["deltamem_tombstones"] for agent in ("alice", "bob"))
    assert not {*alices[3:]} & {*bobs[3:]}
    assert rows(filled, "alice")["deltamem_agents"][0][-1] != filled.secret("alice")


def test_nothing_is_left_where_that_is_asked_for(filled: Store, rows: Rows) -> None:
    plan = filled.erase("alice", Selection(ids=["3"]), tombstone=False)
    assert plan.remaining == {} and plan.erased[0].messages == 1
    assert rows(filled, "alice")["deltamem_tombstones"] == [] and erased(filled, "ok") == []
    assert rows(filled, "alice")["deltamem_agents"][0][-1] is None  # nor a key


@pytest.mark.parametrize(
    "chosen, left",
    [
        (Selection(ids=["3"]), 4),
        (Selection(ids=[("s1", "3"), ("s2", "1")]), 4),
        (Selection(ids=["2"], session="s1"), 3),
        (Selection(session="s1"), 1),
        (Selection(ids=["5"]), 5),
    ],
)
def test_what_was_left_earlier_can_be_taken_away(filled: Store, rows: Rows, chosen: Selection, left: int) -> None:
    filled.erase("alice", Selection(ids=["2"], session="s2"))
    filled.erase("alice", Selection(ids=["1", "2", "3"], session="s1"))
    filled.append("alice", [{"role": "user", "content": "there"}], "s3")
    before = rows(filled)
    dry = filled.erase("alice", chosen, tombstone=False, dry_run=True)
    assert rows(filled) == before and len(before["deltamem_tombstones"]) == 5
    done = filled.erase("alice", chosen, tombstone=False)
    assert done.erased[0].tombstones == dry.erased[0].tombstones == 5 - left
    assert len(rows(filled)["deltamem_tombstones"]) == left and [e.text for e in filled.live("alice")] == (
        ["there"] if chosen.session == "s1" and chosen.ids is None else ["ok", "there"]
    )
    assert filled.purge() is None and rows(filled)["deltamem_purges"] == []


def test_a_dry_run_says_what_would_be_left(filled: Store, rows: Rows) -> None:
    before = rows(filled)
    assert filled.erase("alice", Selection(ids=["3"]), dry_run=True).remaining == {"alice": [("s1", "3")]}
    assert filled.erase("alice", Selection(ids=["9"])).remaining == {}
    assert rows(filled) == before


def test_a_deleted_agent_leaves_neither_hashes_nor_their_key(filled: Store, say: Say, rows: Rows) -> None:
    filled.erase("alice", Selection(ids=["3"]))
    assert filled.erase("alice", Selection(whole=True)).remaining == {}
    assert rows(filled)["deltamem_tombstones"] == []
    filled.append("alice", [say("ok")], "s1")
    assert erased(filled, "ok") == []


def test_a_fork_has_those_of_its_past(filled: Store, rows: Rows) -> None:
    filled.erase("alice", Selection(ids=["3"]))
    filled.fork("alice", "twin")
    assert erased(filled, "ok", agent="twin") == [3]
    filled.erase("alice", Selection(ids=["1"]))
    filled.erase("twin", Selection(ids=["4"]))
    assert (erased(filled, "ok"), erased(filled, "ok", agent="twin")) == ([1, 3], [3, 5])
    plan = filled.erase("alice", Selection(ids=["4", "2"], session="s1"), forks=True)
    assert plan.remaining == {"alice": [("s1", "2"), ("s1", "4")], "twin": [("s1", "2")]}
    assert filled.erase("alice", Selection(whole=True)).remaining == {}
    assert erased(filled, "ok", "pear", agent="twin") == [2, 3, 5]  # the fork's key is its own now
    filled.fork("twin", "third")
    plan = filled.erase("twin", Selection(session="s1"), forks=True, tombstone=False)
    assert [(each.agent, each.tombstones) for each in plan.erased] == [("twin", 4), ("third", 4)]
    assert rows(filled)["deltamem_tombstones"] == []


def test_an_archive_has_none(filled: Store, tmp_path: Any, rows: Rows) -> None:
    filled.erase("alice", Selection(ids=["3"]))
    filled.export("alice", tmp_path / "alice.zip")
    filled.import_(tmp_path / "alice.zip", "again")
    assert erased(filled, "ok", agent="again") == [] and rows(filled, "again")["deltamem_tombstones"] == []


def test_what_is_written_on_purpose_is_kept(filled: Store, say: Say) -> None:
    filled.erase("alice", Selection(ids=["3"]))
    filled.append("alice", [say("ok", id="3"), say("ok")], "s1")
    assert [entry.text for entry in filled.live("alice", session="s1")] == ["ok", "pear", "ok", "ok", "ok"]
    assert erased(filled, "ok") == [3]


def test_tombstone_is_true_or_false(filled: Store) -> None:
    with pytest.raises(ConfigError, match="tombstone"):
        filled.erase("alice", Selection(ids=["3"]), tombstone=np.ones(2))  # type: ignore[arg-type]
    assert len(filled.live("alice")) == 5


def test_wordings() -> None:
    call = {"type": "tool_call", "id": "c1", "name": "look", "args": {"where": "here"}}
    same = [
        [("user", "I like tea.", None), ("user", " I like\r\n tea.\u3000", [{"type": "text", "text": "I like tea."}])],
        [("assistant", "", [call]), ("assistant", "", [call | {"id": "c2"}])],
        [("assistant", "Wait.", [call]), ("assistant", "Wait.", None)],
    ]
    others = [
        ("user", "I like Tea.", None),
        ("assistant", "I like tea.", None),
        ("assistant", "", [call | {"args": {}}]),
        ("user", "I like tea.", [{"type": "version", "id": "2"}]),
        ("user", "", [{"type": "image"}]),
    ]
    found = [{wording(*each) for each in group} for group in same] + [{wording(*each)} for each in others]
    assert all(len(each) == 1 for each in found) and len(set.union(*found)) == len(found)
