"""The journal's part of the conformance suite."""

import itertools
import sqlite3
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deltamem_agents.errors import ClosedError, InvalidAgentError, InvalidMessageError
from deltamem_agents.store import Store

Say = Callable[..., dict[str, Any]]
FRESH = itertools.count()


def test_append_gives_ids_and_positions_in_order(store: Store, say: Say) -> None:
    ids = store.append("alice", [say("one"), say("two", "assistant", id="b")], "s1")
    ids += store.append("alice", [say("three", "tool")], "s2")

    entries = store.live("alice")

    assert [entry.id for entry in entries] == ids and ids[1] == "b" and len(set(ids)) == 3
    assert [entry.position for entry in entries] == [1, 2, 3]
    assert [(entry.session, entry.role, entry.content) for entry in entries] == [
        ("s1", "user", "one"),
        ("s1", "assistant", "two"),
        ("s2", "tool", "three"),
    ]
    assert store.sessions("alice") == ["s1", "s2"]
    assert [entry.position for entry in store.live("alice", after=1)] == [2, 3]
    assert [entry.position for entry in store.live("alice", session="s2")] == [3]


def test_agents_are_apart(store: Store, say: Say) -> None:
    store.append("alice", [say("mine", id="m")], "s")
    store.append("bob", [say("his", id="m"), say("more")], "s")

    assert [entry.text for entry in store.live("alice")] == ["mine"]
    assert [(info.id, info.messages, info.position) for info in store.agents()] == [("alice", 1, 1), ("bob", 2, 2)]
    assert len({info.epoch for info in store.agents()}) == 2 and all(0 <= info.epoch < 2**48 for info in store.agents())
    info = store.agent("bob")
    assert info is not None and abs(info.created_at - datetime.now(UTC)) < timedelta(minutes=1)


def test_unknown_agents_are_empty(store: Store) -> None:
    assert store.live("nobody") == [] and store.sessions("nobody") == [] and store.agents() == []
    assert store.agent("nobody") is None and store.states.newest("nobody", "f") is None
    assert store.records.search_text("nobody", ["word"], 5) == [] and store.records.read("nobody") == []
    assert store.append("nobody", [], "s") == [] and store.agent("nobody") is None


def test_same_id_and_text_is_a_no_op(store: Store, say: Say) -> None:
    store.append("alice", [say("hello", id="m1")], "s1")
    before = store.agent("alice")

    assert store.append("alice", [say("hello", id="m1"), say("hello", id="m1")], "s1") == ["m1", "m1"]

    assert before is not None and (before.messages, before.position) == (1, 1)
    assert store.agent("alice") == before


def test_same_id_with_other_text_supersedes(store: Store, say: Say) -> None:
    store.append("alice", [say("I live in Oslo", id="m1"), say("And I ski")], "s")
    before = store.agent("alice")

    store.append("alice", [say("I live in Bergen", id="m1")], "s")

    assert [(entry.position, entry.text) for entry in store.live("alice")] == [
        (2, "And I ski"),
        (3, "I live in Bergen"),
    ]
    info = store.agent("alice")
    assert before is not None and info is not None
    assert (info.messages, info.position, info.epoch) == (2, 3, before.epoch + 1)
    assert [record.text for record in store.records.read("alice")] == ["And I ski", "I live in Bergen"]
    assert store.records.search_text("alice", ["Oslo"], 5) == []
    store.append("alice", [say("I live in Oslo", id="m1")], "s")  # and back again
    assert [entry.position for entry in store.live("alice")] == [2, 4]


def test_ids_are_those_of_their_session(store: Store, say: Say) -> None:
    texts = {"a": ["My locker is 4417.", "Noted."], "b": ["I like tea.", "Noted."], "c": ["My locker is 4417."]}
    for session, said in texts.items():
        store.append("alice", [say(each, id=str(number)) for number, each in enumerate(said, 1)], session)
    for session, said in texts.items():  # again: nothing
        store.append("alice", [say(each, id=str(number)) for number, each in enumerate(said, 1)], session)

    assert {name: [entry.text for entry in store.live("alice", session=name)] for name in texts} == texts
    assert [entry.ref for entry in store.live("alice")] == [
        ("a", "1"), ("a", "2"), ("b", "1"), ("b", "2"), ("c", "1"),
    ]  # fmt: skip
    store.append("alice", [say("I like coffee.", id="1")], "b")
    assert [entry.text for entry in store.live("alice", session="b")] == ["Noted.", "I like coffee."]
    assert len(store.live("alice")) == len(store.records.read("alice")) == 5
    assert [record.text for record, _ in store.records.search_text("alice", ["locker"], 5)] == [
        "My locker is 4417."
    ] * 2


def test_supersession_within_one_append(store: Store, say: Say) -> None:
    store.append("alice", [say("a", id="m"), say("b", id="m"), say("c", id="m")], "s")

    assert [(entry.position, entry.text) for entry in store.live("alice")] == [(3, "c")]
    assert [record.text for record in store.records.read("alice")] == ["c"]
    assert store.records.search_text("alice", ["a", "b"], 5) == []


def test_another_role_supersedes_too(store: Store, say: Say) -> None:
    store.append("alice", [say("yes", id="m")], "s")
    store.append("alice", [say("yes", "assistant", id="m")], "s")
    assert [(entry.position, entry.role) for entry in store.live("alice")] == [(2, "assistant")]


def test_blocks_are_kept_whole_and_their_text_is_joined(store: Store, say: Say) -> None:
    blocks = [
        {"type": "text", "text": "Look at this:"},
        {"type": "image", "url": "https://example.org/a.png", "size": [3, 4]},
        "and that",
    ]
    image = [{"type": "image", "url": "x"}]
    store.append("alice", [say(blocks), say(image, id="i")], "s")
    store.append("alice", [say(image, id="i")], "s")
    store.append("alice", [say([{"type": "image", "url": "y"}], id="i")], "s")

    first, second = store.live("alice")
    assert first.content == blocks and first.text == "Look at this:\nand that"
    assert second.content == [{"type": "image", "url": "y"}] and second.text == ""
    assert [record.text for record in store.records.read("alice")] == ["Look at this:", "and that"]


def test_results_of_tools_are_not_folded_unless_that_is_asked_for(store: Store, say: Say) -> None:
    asked: list[tuple[str, bool | None, bool]] = [  # role, what is given, what is stored
        ("user", None, True), ("assistant", None, True), ("system", None, True), ("tool", None, False),
        ("tool", True, True), ("user", False, False), ("assistant", True, True),
    ]  # fmt: skip
    for named in (False, True):  # the two ways of appending
        given = [say("x", role, folded=value) for role, value, _ in asked]
        store.append("alice", [each | {"id": str(i)} if named else each for i, each in enumerate(given)], "s")
    assert [entry.folded for entry in store.live("alice")] == [stored for *_, stored in asked] * 2
    assert len(store.records.read("alice")) == 2 * len(asked)  # all are found

    store.append("alice", [say("x", "tool", id="3", folded=True)], "s")  # known, with the same text
    assert store.live("alice")[len(asked) + 3].folded is False and len(store.live("alice")) == 2 * len(asked)
    store.append("alice", [say("y", "tool", id="3", folded=True)], "s")
    assert store.live("alice")[-1].folded is True


def test_metadata_and_times_come_back(store: Store, say: Say) -> None:
    local = datetime(2026, 3, 1, 12, 30, 0, 125, tzinfo=timezone(timedelta(hours=2)))
    given_times = [local, datetime(2026, 3, 1, 10), "2026-03-01T10:00:00+01:00"]
    messages = [say("x", metadata={"tags": ["a", 1, None], "ü": {"b": True}}, created_at=time) for time in given_times]
    store.append("alice", messages, "s")

    entries = store.live("alice")

    assert entries[0].metadata == {"tags": ["a", 1, None], "ü": {"b": True}}
    assert [entry.created_at for entry in entries] == [
        local,
        datetime(2026, 3, 1, 10, tzinfo=UTC),
        datetime(2026, 3, 1, 9, tzinfo=UTC),
    ]
    assert all(entry.created_at.utcoffset() == timedelta(0) for entry in entries)


BAD_MESSAGES = [
    ("text", "not a mapping"),
    ({"role": "user"}, "content None"),
    ({"role": "user", "content": " \n"}, "empty content"),
    ({"role": "user", "content": 5}, "content 5"),
    ({"role": "user", "content": []}, "empty blocks"),
    ({"role": "user", "content": [{"type": "text", "text": " "}]}, "empty blocks"),
    ({"role": "user", "content": [{"type": "text", "text": 3}]}, "text is 3"),
    ({"role": "user", "content": [7]}, "block 7"),
    ({"role": "user", "content": [{"type": "image", "data": b"x"}]}, "JSON"),
    ({"role": "user", "content": "a\0b"}, "NUL"),
    ({"role": "user", "content": "a\ud800b"}, "surrogate"),
    ({"role": "human", "content": "x"}, "role 'human'"),
    ({"content": "x"}, "role None"),
    ({"role": ["user"], "content": "x"}, "role"),
    ({"role": "user", "content": "x", "id": ""}, "is empty"),
    ({"role": "user", "content": "x", "id": "i" * 256}, "256 characters"),
    ({"role": "user", "content": "x", "id": 7}, "is an int"),
    ({"role": "user", "content": "x", "metadata": 3}, "metadata 3"),
    ({"role": "user", "content": "x", "metadata": {"a": {1}}}, "JSON"),
    ({"role": "user", "content": "x", "metadata": {"a": float("nan")}}, "JSON"),
    ({"role": "user", "content": "x", "created_at": "yesterday"}, "yesterday"),
    ({"role": "user", "content": "x", "created_at": 12}, "created_at 12"),
    ({"role": "user", "content": "x", "author": "Bob"}, "unknown key 'author'"),
    ({"role": "tool", "content": "x", "folded": 1}, "folded 1; give True or False"),
    ({"role": "tool", "content": "x", "folded": "no"}, "folded 'no'; give True or False"),
]


@pytest.mark.parametrize(("bad", "named"), BAD_MESSAGES)
def test_one_bad_message_keeps_all_of_them_out(store: Store, say: Say, bad: Any, named: str) -> None:
    with pytest.raises(InvalidMessageError, match="message 1") as caught:
        store.append("alice", [say("fine"), bad, say("fine too")], "s")
    assert named in str(caught.value)
    assert store.agents() == []


@pytest.mark.parametrize("bad", ["hello", {"role": "user", "content": "x"}, None, 5, iter([])])
def test_messages_must_be_a_list(store: Store, bad: Any) -> None:
    with pytest.raises(InvalidMessageError, match="list of mappings"):
        store.append("alice", bad, "s")


@pytest.mark.parametrize("bad", ["", "  ", "a" * 256, "a\0b", "a\udc00", None, 5])
def test_bad_agent_and_session_ids(store: Store, say: Say, bad: Any) -> None:
    with pytest.raises(InvalidAgentError, match="agent id"):
        store.append(bad, [say("x")], "s")
    with pytest.raises(InvalidAgentError, match="session id"):
        store.append("alice", [say("x")], bad)
    with pytest.raises(InvalidAgentError):
        store.live(bad)
    assert store.agents() == []


def test_ids_of_any_script_at_the_limit(store: Store, say: Say) -> None:
    agent = "é" * 254 + "猫"
    store.append(agent, [say("x", id="'; DROP TABLE deltamem_agents; --")], "s/%_")
    assert store.live(agent, session="s/%_")[0].id == "'; DROP TABLE deltamem_agents; --"
    assert store.live(agent, session="s/%a") == []


def test_many_and_long_messages(store: Store, say: Say) -> None:
    ids = store.append("alice", [say(f"message {i}", id=str(i)) for i in range(3000)], "s")
    store.append("alice", [say("x" * 2_000_000)], "s")
    assert store.append("alice", [say(f"message {i}", id=str(i)) for i in range(3000)], "s") == ids
    info = store.agent("alice")
    assert info is not None and (info.messages, info.position) == (3001, 3001)


def test_threads_neither_lose_nor_double(store: Store, say: Say) -> None:
    def work(worker: int) -> None:
        for i in range(10):
            store.append("alice", [say(f"{worker}-{i}", id=f"{worker}-{i}"), say("shared", id="shared")], "s")
            store.live("alice", after=5)

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    entries = store.live("alice")
    assert [entry.position for entry in entries] == list(range(1, 42))
    assert {entry.id for entry in entries} == {f"{w}-{i}" for w in range(4) for i in range(10)} | {"shared"}


def test_closed_store_refuses(store: Store, say: Say) -> None:
    store.close()
    store.close()
    with pytest.raises(ClosedError, match="closed"):
        store.live("alice")
    with pytest.raises(ClosedError):
        store.append("alice", [say("x")], "s")


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    writes=st.lists(
        st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from(["one", "two", "zwei", "三"])), max_size=4),
        max_size=6,
    )
)
def test_live_journal_agrees_with_a_model_in_memory(store: Store, writes: list[list[tuple[str, str]]]) -> None:
    agent = f"agent {next(FRESH)}"  # the examples share a store
    model: dict[str, tuple[int, str]] = {}
    head, rises, first = 0, 0, None
    for write in writes:
        superseded = False
        before = set(model)
        for message_id, text in write:
            if message_id in model and model[message_id][1] == text:
                continue
            superseded |= message_id in before
            before.discard(message_id)
            head += 1
            model[message_id] = (head, text)
        rises += superseded
        store.append(agent, [{"role": "user", "content": text, "id": i} for i, text in write], "s")
        first = first or store.agent(agent)

    live = sorted((position, message_id, text) for message_id, (position, text) in model.items())
    assert [(entry.position, entry.id, entry.text) for entry in store.live(agent)] == live
    assert [(record.position, record.text) for record in store.records.read(agent)] == [
        (p, text) for p, _, text in live
    ]
    for word in ("one", "zwei", "三"):
        hits = {record.position for record, _ in store.records.search_text(agent, [word], 10)}
        assert hits == {position for position, _, text in live if text == word}
    info = store.agent(agent)
    if not head:
        assert info is None
    else:
        assert info is not None and first is not None
        assert (info.position, info.epoch) == (head, first.epoch + rises)


def test_text_is_cut_before_the_database_is_locked(tmp_path: Path) -> None:
    path, seen = tmp_path / "memory.db", []

    def split(text: str) -> list[str]:
        other = sqlite3.connect(path, timeout=0, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")  # fails where somebody is writing
        other.close()
        seen.append(text)
        return [text]

    with Store.open(f"sqlite:///{path}", split=split) as store:
        store.append("alice", [{"role": "user", "content": "one"}, {"role": "user", "content": "two"}], "s")
        store.append("alice", [{"role": "user", "content": "three", "id": "m3"}], "s")
        assert seen == ["one", "two", "three"] and store.records.size("alice") == 3
