"""Messages by the caller's ids: found, listed by session, described anew; on every database."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from deltamem_agents.store import MessageRef, Selection, Store
from tests.databases import engine_of, statements


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    with Store.open(database_url) as opened:
        yield opened


def put(store: Store, message_id: str, text: str = "Hi", session: str = "s", agent: str = "alice", **more: Any) -> None:
    store.append(agent, [{"role": "user", "content": text, "id": message_id, **more}], session)


def test_found_are_live_messages_of_the_agent_in_order(store: Store) -> None:
    for message_id in ("a", "b", "c"):
        put(store, message_id)
    put(store, "b", "Hello")  # stands at the end now
    put(store, "a", "Not Alice's", agent="bob")
    put(store, "a", "In another session", session="t")
    assert [
        (each.ref, each.text)
        for each in store.messages.find("alice", [("s", each) for each in ("b", "a", "none", "a")])
    ] == [
        (("s", "a"), "Hi"),
        (("s", "b"), "Hello"),
    ]
    assert [each.text for each in store.messages.find("alice", [("t", "a"), ("t", "b"), ("u", "a")])] == [
        "In another session"
    ]
    assert len(store.messages.find("alice", [MessageRef("t", "a"), ("s", "a")])) == 2
    assert store.messages.find("alice", []) == store.messages.find("nobody", [("s", "a")]) == []
    store.erase("alice", Selection(ids=[("s", "a")]))
    assert store.messages.find("alice", [("s", "a")]) == [] != store.messages.find("alice", [("t", "a")])


def test_more_ids_than_one_statement_takes(store: Store) -> None:
    ids = [f"m{i}" for i in range(1100)]
    store.append("alice", [{"role": "user", "content": "Hi", "id": each} for each in ids], "s")
    assert [each.id for each in store.messages.find("alice", [("s", each) for each in ids[::-1]])] == ids
    for session in range(9):
        put(store, "1", session=str(session))
    refs = [(str(session), "1") for session in range(9)]
    assert [each.ref for each in store.messages.find("alice", refs)] == refs


def test_looking_up_goes_by_the_index_of_session_and_id(store: Store) -> None:
    """On SQLite, which says what it does; PostgreSQL decides by statistics, and reads the agent once at most."""
    engine = engine_of(store)
    if engine.dialect.name != "sqlite":
        return
    put(store, "a")
    with statements(store) as sent:
        store.messages.find("alice", [("s", "a"), ("t", "b")])
        put(store, "a", "Hello")
        put(store, "a", session="t")
    seen = [each for each in sent if "deltamem_messages.id" in each[0] and each[0].startswith("SELECT")]
    with engine.connect() as connection:
        plans = [connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {said}", given).fetchall() for said, given in seen]
    assert len(plans) == 4
    assert all("deltamem_messages_live_id (agent_key=? AND session=? AND id=?)" in plan[0][-1] for plan in plans)


def test_sessions_below_one(store: Store) -> None:
    sessions = (
        "users",
        "users.ann",
        "users.bob",
        "Users.ann",
        "users%x",
        "users-x",
        "users/x",
        "us",
        "üsers.ann",
        "users.",
    )
    for number, session in enumerate(sessions):
        put(store, f"item:{number}", session=session)
    put(store, "other", session="users.ann")
    put(store, "item:0", "Newer", session="users")
    put(store, "item:0", session="users", agent="bob")

    def found(**given: Any) -> list[tuple[str, str]]:
        return [(each.session, each.id) for each in store.messages.newest("alice", 100, **given)]

    below = [("users", "item:0"), ("users.ann", "other"), ("users.", "item:9"), ("users.bob", "item:2")]
    assert found(below="users") == [*below, ("users.ann", "item:1")]
    assert found(below="users", id_prefix="item:") == [each for each in below if each[1] != "other"] + [
        ("users.ann", "item:1")
    ]
    assert found(below="users%") == found(below="user") == found(below="users.ann.x") == []
    assert found(below="users%x") == [("users%x", "item:4")]
    assert found(below="üsers") == [("üsers.ann", "item:8")]
    assert len(found()) == 11 and found()[0] == ("users", "item:0")
    assert store.messages.newest("nobody", 100) == []


def test_pages_of_the_newest(store: Store) -> None:
    for number in range(7):
        put(store, f"m{number}", session=f"s.{number % 2}", metadata={"n": number, "text": "ünï"})
    for below in ("", "s"):
        pages: list[list[Any]] = [[]]
        while page := store.messages.newest(
            "alice", 3, below=below, before=pages[-1][-1].position if pages[-1] else None
        ):
            pages.append(page)
        assert [len(page) for page in pages] == [0, 3, 3, 1]
        assert [each.metadata for page in pages for each in page] == [{"n": n, "text": "ünï"} for n in range(6, -1, -1)]
    put(store, "bare", session="t")
    assert store.messages.newest("alice", 1)[0].metadata == {}


def test_described_by_two_ids(store: Store) -> None:
    put(store, "a", metadata={"n": 1})
    put(store, "b", metadata={"n": 2})
    put(store, "b", "Newer", metadata={"n": 3})
    put(store, "a", session="t", metadata={"n": 4})
    assert [(each.ref, each.metadata) for each in store.messages.described("alice", "s", ("b", "a"))] == [
        (("s", "a"), {"n": 1}),
        (("s", "b"), {"n": 3}),
    ]
    assert [each.metadata for each in store.messages.described("alice", "t", ("a", "none"))] == [{"n": 4}]
    assert (
        store.messages.described("alice", "u", ("a", "b")) == store.messages.described("nobody", "s", ("a", "b")) == []
    )


def test_ranges_of_ids(store: Store) -> None:
    for session, ids in {
        "a": ("item:1", "item-ttl:2", "other"),
        "a.b": ("item:9", "Item:1"),
        "c": ("item-ttl:1",),
    }.items():
        for each in ids:
            put(store, each, session=session)
    assert sorted(store.messages.id_ranges("alice", id_prefix="item")) == [
        ("a", "item-ttl:2", "item:1"),
        ("a.b", "item:9", "item:9"),
        ("c", "item-ttl:1", "item-ttl:1"),
    ]
    assert sorted(store.messages.id_ranges("alice", below="a")) == [
        ("a", "item-ttl:2", "other"),
        ("a.b", "Item:1", "item:9"),
    ]
    assert store.messages.id_ranges("nobody") == []


def test_described_anew_in_place(store: Store) -> None:
    put(store, "a", metadata={"seen": 1})
    put(store, "b")
    before = store.records.version("alice")
    first, second = store.live("alice")
    store.describe("alice", {first.position: {"seen": 2, "by": ["ann"]}, second.position: {}, 99: {"no": "such"}})
    assert [each.metadata for each in store.live("alice")] == [{"seen": 2, "by": ["ann"]}, {}]
    assert store.records.version("alice") == before
    store.describe("nobody", {1: {"a": 1}})
    assert store.agent("nobody") is None


def test_what_was_replaced_is_not_described(store: Store) -> None:
    put(store, "a", metadata={"value": "old"})
    (old,) = store.live("alice")
    put(store, "a", "Hello", metadata={"value": "new"})
    store.describe("alice", {old.position: {"value": "late"}})
    assert [each.metadata for each in store.live("alice")] == [{"value": "new"}]
    assert [each.metadata for each in store.at("alice", old.position)] == [{"value": "old"}]


def test_a_version_tells_apart_what_reads_the_same(store: Store) -> None:
    def content(*others: Any) -> list[Any]:
        return [{"type": "text", "text": "Tea"}, *others]

    for others in ([], [{"type": "image", "url": "x"}], [{"type": "version", "of": 1}], [{"type": "version", "of": 1}]):
        store.append("alice", [{"role": "user", "content": content(*others), "id": "a"}], "s")
    (entry,) = store.live("alice")
    assert entry.position == 2 and entry.content == content({"type": "version", "of": 1})
    store.append("alice", [{"role": "user", "content": content({"type": "version", "of": 2}), "id": "a"}], "s")
    assert [each.position for each in store.live("alice")] == [3]
