"""Which records a search gives: of a session, a time, some metadata; and that it sees what was written since."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import numpy as np
import pytest

from deltamem_agents.recall import CallableEmbedder, Retriever
from deltamem_agents.recall.filling import Filling
from deltamem_agents.recall.snapshot import Room, Scope, Snapshot
from deltamem_agents.store import Selection, Store

DAY = datetime(2026, 3, 1, tzinfo=UTC)


def letters(texts: list[str]) -> list[list[float]]:
    return [[text.lower().count(letter) + 0.01 for letter in "abcdefghijklmnopqrstuvwxyz"] for text in texts]


EMBEDDERS = [None, CallableEmbedder(letters, name="letters")]


@pytest.fixture(params=EMBEDDERS, ids=["words", "words and meaning"])
def retriever(request: pytest.FixtureRequest, store: Store) -> Retriever:
    return Retriever(store.records, request.param)


def tell(store: Store, text: str, days: int = 0, session: str = "s", **metadata: Any) -> None:
    said = {"role": "user", "content": text, "created_at": DAY + timedelta(days=days), "metadata": metadata}
    store.append("alice", [said], session)


def texts(found: list[Any]) -> set[str]:
    return {record.text for record in found}


def test_times(store: Store, retriever: Retriever) -> None:
    for days in range(5):
        tell(store, f"apple number {days}", days)
    search = retriever.search
    assert texts(search("alice", "apple", 9, since=DAY + timedelta(days=3))) == {"apple number 3", "apple number 4"}
    assert texts(search("alice", "apple", 9, until=DAY + timedelta(days=1))) == {"apple number 0"}
    naive, east = datetime(2026, 3, 3), datetime(2026, 3, 3, 2, tzinfo=timezone(timedelta(hours=2)))
    for since in (naive, east):
        assert texts(search("alice", "apple", 9, since=since, until=since + timedelta(days=1))) == {"apple number 2"}
    assert search("alice", "apple", 9, since=DAY, until=DAY) == []


def test_metadata_and_sessions(store: Store, retriever: Retriever) -> None:
    tell(store, "apple of the team", team="blue", year=2026)
    tell(store, "apple of the others", team="red", year=2026)
    tell(store, "apple of nobody", session="t")
    search = retriever.search
    assert texts(search("alice", "apple", metadata={"team": "blue"})) == {"apple of the team"}
    assert len(search("alice", "apple", metadata={"year": 2026})) == 2
    assert search("alice", "apple", metadata={"team": "blue", "year": 2025}) == []
    assert search("alice", "apple", metadata={"team": None}) == []
    assert texts(search("alice", "apple", session="t", metadata={})) == {"apple of nobody"}
    assert search("alice", "apple", session="t", metadata={"year": 2026}) == []


def test_whoever_is_named_comes_first(store: Store, retriever: Retriever) -> None:
    for name in ("Mara Lind", "Tomás"):
        tell(store, f"I like to sail, says {name[0]}", name=name)
        for number in range(6):
            tell(store, f"small talk {number}")
    for query, first in (("Does mara lind like to sail?", "M"), ("Does Tomás like to sail?", "T")):
        assert retriever.search("alice", query)[0].text == f"I like to sail, says {first}"


def test_what_was_written_superseded_rolled_back_or_erased_is_seen(store: Store, retriever: Retriever) -> None:
    def found() -> set[str]:
        return texts(retriever.search("alice", "apple", 9))

    assert found() == set()
    store.append("alice", [{"role": "user", "content": "apple one", "id": "a"}], "s")
    assert found() == {"apple one"}
    with_two = store.append("alice", [{"role": "user", "content": "apple two"}], "t")
    assert found() == {"apple one", "apple two"}
    store.append("alice", [{"role": "user", "content": "apple three", "id": "a"}], "s")
    assert found() == {"apple two", "apple three"}
    store.rollback("alice", 2)
    assert found() == {"apple one", "apple two"}
    store.erase("alice", Selection(ids=with_two))
    assert found() == {"apple one"}


def test_a_record_that_nobody_has_embedded_is_not_lost(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process writes between the embedding of what is new and the reading of it."""
    retriever = Retriever(store.records, CallableEmbedder(letters, name="letters"))
    tell(store, "apple one")
    fill = Filling.fill

    def late(filling: Filling, agent: str) -> int:
        done = fill(filling, agent)
        if len(store.live("alice")) == 1:
            tell(store, "apple two")
        return done

    monkeypatch.setattr(Filling, "fill", late)
    assert texts(retriever.search("alice", "apple")) == {"apple one", "apple two"}  # the new one by its words
    assert len(store.records.missing_embeddings("alice", "letters", 9)) == 1
    assert texts(retriever.search("alice", "apple")) == {"apple one", "apple two"}
    assert not store.records.missing_embeddings("alice", "letters", 9)


def test_threads_search_while_others_write(store: Store, retriever: Retriever) -> None:
    errors: list[BaseException] = []

    def search() -> None:
        try:
            for _ in range(15):
                found = retriever.search("alice", "apple", 100)
                assert len({record.message_id for record in found}) == len(found)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=search) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in range(30):
        tell(store, f"apple {number}")
    for thread in threads:
        thread.join(60)
    assert errors == []
    assert len(retriever.search("alice", "apple", 100)) == 30


def records_of(retriever: Retriever) -> Snapshot | None:
    found = retriever.candidates.find("alice", "apple", Scope(), 1, print)
    return None if found is None else found.snapshot


def test_the_vectors_in_memory_are_those_of_the_store(store: Store) -> None:
    retriever = Retriever(store.records, CallableEmbedder(letters, name="letters"))
    for number in range(3):
        tell(store, f"apple {number}\n" + "sentence after sentence. " * 100, session=f"s{number % 2}")
        retriever.search("alice", "apple")
    snapshot = records_of(retriever)
    keys, vectors = store.records.embeddings("alice", "letters")
    assert snapshot is not None and snapshot.vectors is not None and len(snapshot) > 3
    assert snapshot.keys.tolist() == keys and np.array_equal(snapshot.vectors, vectors)
    # A memory that has grown knows of each record's neighbourhood what one that was read at once does.
    whole = records_of(Retriever(store.records, CallableEmbedder(letters, name="letters")))
    assert whole is not None and np.allclose(snapshot.lengths, whole.lengths, rtol=1e-6)


def test_a_predicate_on_session_and_metadata(store: Store, retriever: Retriever) -> None:
    tell(store, "apple one", session="users.ann", size=1)
    tell(store, "apple two", session="users.ann", size=2)
    tell(store, "apple three", session="teams", size=3)
    holds = lambda session, metadata: session.startswith("users") and metadata["size"] > 1  # noqa: E731
    assert texts(retriever.similar("alice", "apple", 5, holds=holds)) == {"apple two"}
    assert retriever.similar("alice", "apple", 5, holds=lambda *_: False) == []


def test_nothing_is_held_back_where_nothing_is_to_be_weeded(store: Store, retriever: Retriever) -> None:
    for session in ("a", "b", "c"):
        tell(store, "Which apple?", session=session)
    assert len(retriever.search("alice", "Which apple?", 9)) == 1


def test_vectors_grow_in_place_and_older_snapshots_stay_as_they_are() -> None:
    rows = np.arange(40, dtype=np.float32).reshape(10, 4)
    first, room = Room(rows).with_more(rows, np.ones((2, 4), np.float32))
    second, same = room.with_more(first, np.full((2, 4), 2, np.float32))
    assert same is room and np.shares_memory(first, second) and len(first) == 12 and len(second) == 14
    other, elsewhere = room.with_more(first, np.full((3, 4), 3, np.float32))  # as another thread does with the same
    assert elsewhere is not room and (second[12:] == 2).all() and (other[12:] == 3).all()
    large, _ = room.with_more(second, np.full((100, 4), 4, np.float32))
    for grown in (first, second, other, large):
        assert (grown[:10] == rows).all() and (grown[10:12] == 1).all()
    assert (large[14:] == 4).all() and len(large) == 114
