"""A journal read as events, page by page, and the fork family of an agent."""

from __future__ import annotations

from collections.abc import Callable

from deltamem_agents.store import Selection, Store
from deltamem_agents.store.journal_events import SHOWN

Say = Callable[..., dict[str, object]]


def test_events_tell_edits_rollbacks_and_erasures(store: Store, say: Say) -> None:
    store.append("a", [say(f"m{i}", id=f"m{i}") for i in range(1, 7)], "s")
    store.append("a", [say("again", id="m3")], "s")  # 7 replaces 3
    store.erase("a", Selection(ids=["m1", "m2", "m5"]))
    store.rollback("a", 6)  # 8: 3 is live again, 7 is not
    store.append("a", [say("once more", id="m3"), say([{"type": "image"}], id="picture")], "t")
    found = store.events.page("a")
    assert [(each.kind, each.first, each.position) for each in found] == [
        ("message", None, 10),
        ("message", None, 9),
        ("rollback", None, 8),
        ("message", None, 7),
        ("message", None, 6),
        ("erased", 5, 5),
        ("message", None, 4),
        ("message", None, 3),
        ("erased", 1, 2),
    ]
    by = {each.position: each for each in found}
    assert (by[7].left_at, by[7].left_by, by[3].left_at, by[8].target) == (8, "rollback", None, 6)
    assert by[9].replaces is None and by[10].has_blocks and not by[9].has_blocks  # ids are a session's own
    store.append("a", [say("edited", id="m4")], "s")
    later = {each.position: each for each in store.events.page("a")}
    assert (later[4].left_at, later[4].left_by, later[11].replaces) == (11, "edit", 4)
    store.erase("a", Selection(session="s"))
    newest = store.events.page("a")[0]
    assert (newest.kind, newest.first, newest.position) == ("erased", 11, 11)


def test_pages_join_without_gap_or_repetition_in_both_directions(store: Store, say: Say) -> None:
    store.append("a", [say(f"m{i}", id=f"m{i}") for i in range(40)], "s")
    store.erase("a", Selection(ids=[f"m{i}" for i in (0, 1, 9, 10, 11, 25, 39)]))
    store.rollback("a", 30)
    for forward in (True, False):
        at, seen = 0 if forward else None, list[int]()
        while True:
            page = store.events.page("a", limit=7, **({"after": at} if forward else {"before": at}))
            if not page:
                break
            for each in page:
                places = range(each.first or each.position, each.position + 1)
                seen += places if forward else reversed(places)
            at = page[-1].position if forward else (page[-1].first or page[-1].position)
        assert seen == sorted(range(1, 42), reverse=not forward)


def test_a_page_reads_the_beginning_of_long_texts_and_one_session(store: Store, say: Say) -> None:
    store.append("a", [say("x" * 5000, id="long")], "s")
    store.append("a", [say("other")], "t")
    (event,) = store.events.page("a", session="s")
    assert len(event.text) == SHOWN and event.length == 5000
    known = store.events.entry("a", 1)
    assert known is not None and known[1].text == "x" * 5000 and known[0].length == 5000
    assert store.events.entry("a", 3) is None and store.events.entry("nobody", 1) is None
    assert set(store.events.live_among("a", [2, 1, 9])) == {1, 2}
    assert store.events.sessions("a") == [("t", 1), ("s", 1)]
    assert store.events.page("nobody") == [] and store.events.sessions("nobody") == []


def test_a_family_of_forks_knows_its_root(store: Store, say: Say) -> None:
    store.append("a", [say("one")], "s")
    store.fork("a", "b")
    store.append("a", [say("two")], "s")
    store.fork("b", "c")
    store.append("other", [say("alone")], "s")
    assert [(each.id, each.root, each.position) for each in store.events.family("a").relatives] == [
        ("b", False, 1),
        ("c", False, 2),
    ]
    assert [(each.id, each.root) for each in store.events.family("c").relatives] == [("a", True), ("b", False)]
    assert store.events.family("c").forked and not store.events.family("a").forked
    assert not store.events.family("other").relatives and not store.events.family("nobody").relatives
