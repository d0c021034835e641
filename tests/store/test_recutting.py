"""Records of messages that are there: cut by another rule, a batch at a time, and found by other words."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event, Thread

import numpy as np
import pytest

from deltamem_agents.recall import CallableEmbedder, Cutting, Measure, Reindexed, Retriever, split_text
from deltamem_agents.store import Store, recutting, versions
from deltamem_agents.store.database import open_database
from tests.databases import execute, watched


class By:
    """Cuts by so many characters, as its rule."""

    def __init__(self, size: int) -> None:
        self.rule = size

    def __call__(self, given: str) -> list[str]:
        return split_text(given, self.rule)


@pytest.fixture(params=["file", pytest.param("postgresql", marks=pytest.mark.slow)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "file":
        return f"sqlite:///{tmp_path}/m.db"
    made: str = request.getfixturevalue("postgresql_url")()
    return made


def said(*texts: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": each, "id": f"m{place}"} for place, each in enumerate(texts)]


def pieces(store: Store, agent: str = "a") -> list[tuple[int, int, str]]:
    return [(record.position, record.chunk, record.text) for record in store.records.read(agent)]


def embedder(limit: int | None = None, name: str = "n") -> CallableEmbedder:
    measure = None if limit is None else Measure(limit, len)
    return CallableEmbedder(lambda texts: [[len(each), 1.0] for each in texts], name=name, measure=measure)


def test_what_comes_out_the_same_keeps_its_embedding(url: str) -> None:
    with Store.open(url, split=By(12)) as store:
        store.append("a", said("short", "two parts. of it.", "short too"), "s")
        store.append("b", said("two parts. of it."), "s")
        keys = [record.key for record in store.records.read("a")]
        store.records.put_embeddings("a", "n", keys, np.eye(4, dtype=np.float32))
        before = store.records.version("a")
        assert store.records.cut_again("a") is None and store.records.version("a") == before
    with Store.open(url, split=By(99)) as store:
        assert store.records.cut_again("a") == recutting.Recut(position=3, changed=1, kept=2)
        assert pieces(store) == [(1, 0, "short"), (2, 0, "two parts. of it."), (3, 0, "short too")]
        assert store.records.embeddings("a", "n")[0] == [keys[0], keys[3]]
        assert store.records.version("a") != before and store.records.cut_again("a") is None
        assert [record.text for record, _ in store.records.search_text("a", ["parts"], 9)] == ["two parts. of it."]
        assert len(pieces(store, "b")) == 2  # every call is about one agent
        assert store.records.cut_again("nobody") is None


def test_batches_go_on_where_they_were(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recutting, "TOGETHER", 4)
    with Store.open(url, split=By(12)) as store:
        store.append("a", said(*["two parts. of it."] * 10), "s")
    with Store.open(url, split=By(99)) as store:
        first = store.records.cut_again("a")
        assert first == recutting.Recut(position=4, changed=4, kept=0) and len(pieces(store)) == 4 + 6 * 2
    with Store.open(url, split=By(99)) as store:
        assert Retriever(store.records, embedder()).reindex("a") == Reindexed(embedded=10, dropped=0, recut=6)
        assert len(pieces(store)) == 10
        assert Retriever(store.records, embedder()).reindex("a") == Reindexed(embedded=0, dropped=0, recut=0)


def test_messages_that_are_not_live_get_no_records(url: str) -> None:
    with Store.open(url, split=By(12)) as store:
        store.append("a", said("two parts. of it.", "left. behind by it."), "s")
        store.append("a", [{"role": "user", "content": "another. one of them.", "id": "m1"}], "s")
        store.fork("a", "twin")
    with Store.open(url, split=By(99)) as store:
        for agent in ("a", "twin"):
            assert store.records.cut_again(agent) == recutting.Recut(position=3, changed=2, kept=0)
            assert pieces(store, agent) == [(1, 0, "two parts. of it."), (3, 0, "another. one of them.")]
        assert store.rollback("a", 2) == 4 and pieces(store)[1] == (2, 0, "left. behind by it.")


def test_a_search_under_way_sees_the_new_records(url: str) -> None:
    with Store.open(url, split=By(30)) as old, Store.open(url, split=By(99)) as new:
        old.append("a", said("The cat is grey and sleeps well. The dog is brown and barks.", "Something else."), "s")
        retriever = Retriever(old.records, embedder())
        assert "The cat is grey and sleeps" in [record.text for record in retriever.search("a", "cat")]
        Retriever(new.records, embedder()).reindex("a")
        assert any(record.text.endswith("barks.") for record in retriever.search("a", "cat"))


@pytest.fixture
def writing(url: str) -> Iterator[Callable[[], None]]:
    """Somebody who writes and replaces meanwhile; what is given ends that."""
    stop = Event()

    def write() -> None:
        with Store.open(url, split=By(12)) as store:
            number = 0
            while not stop.is_set():
                number += 1
                store.append(
                    "a", [{"role": "user", "content": f"two parts. of {number}.", "id": f"w{number % 7}"}], "t"
                )

    def end() -> None:
        stop.set()
        thread.join()

    thread = Thread(target=write)
    thread.start()
    yield end
    end()


def test_others_write_meanwhile(url: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    monkeypatch.setattr(recutting, "TOGETHER", 8)
    with Store.open(url, split=By(12)) as store:
        store.append("a", said(*["two parts. of it."] * 100), "s")
    end = request.getfixturevalue("writing")
    with Store.open(url, split=By(99)) as store:
        at = 0
        while (done := store.records.cut_again("a", after=at)) is not None and at < 100:
            at = done.position
        end()
        assert {text for position, _, text in pieces(store) if position <= 100} == {"two parts. of it."}
        assert [position for position, chunk, _ in pieces(store) if position <= 100] == list(range(1, 101))
        live = {entry.position for entry in store.live("a")}
        assert {position for position, _, _ in pieces(store)} == live


def test_old_words_are_renewed_by_the_upgrade(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one of before version 0007 has them; interrupted, the next upgrade goes on."""
    monkeypatch.setattr(recutting, "TOGETHER", 3)
    texts = [f"ＡＢ{number} ﾃﾞｰﾀ" for number in range(8)]
    with Store.open(url) as store:
        store.append("a", said("ascii alone", "naïve", *texts), "s")
        good = [record for record, _ in store.records.search_text("a", ["データ"], 99)]
        assert len(good) == 8
        execute(store, "UPDATE deltamem_records SET terms = NULL, cut = NULL")
        assert store.records.search_text("a", ["データ"], 99) == []
    database = open_database(url, None)
    try:
        database.enable_retries()
        renewed: list[str] = []

        def interrupted(_connection: object, _cursor: object, statement: str, *_: object) -> None:
            if statement.startswith("UPDATE deltamem_records") and "cut=" in statement:
                renewed.append(statement)
                if len(renewed) == 3:  # inside the third batch
                    raise KeyboardInterrupt

        engine = database.read(lambda connection: connection.engine)
        with watched(engine, "after_cursor_execute", interrupted), pytest.raises(KeyboardInterrupt):
            versions.upgrade(database)
        assert versions.upgrade(database) == (versions.LATEST, versions.LATEST)
        assert versions.differences(database) == []
    finally:
        database.close()
    with Store.open(url) as store:
        assert [record for record, _ in store.records.search_text("a", ["データ"], 99)] == good
        assert (
            len(store.records.search_text("a", ["ab5"], 99)) == 1
            and len(store.records.search_text("a", ["naive"], 99)) == 1
        )


def test_records_are_cut_by_the_embedders_limit(url: str) -> None:
    """Written for another embedder, they are cut anew by `reindex` and found until then."""
    long = "The harbour opens at nine and closes at five. " * 8 + "The kitten sleeps."
    with Store.open(url, split=Cutting(embedder())) as store:
        store.append("a", said(long), "s")
        assert len(pieces(store)) == 1
        assert store.records.embeddings("a", "n")[0] == []
        retriever = Retriever(store.records, embedder(60))
        assert retriever.search("a", "kitten")[0].text == long
    with Store.open(url, split=Cutting(embedder(60))) as store:
        assert Retriever(store.records, embedder(60)).reindex("a").recut == 1
        assert all(len(piece) <= 60 for _, _, piece in pieces(store)) and len(pieces(store)) > 7
        assert Retriever(store.records, embedder(60)).search("a", "kitten", 1)[0].text.endswith("The kitten sleeps.")
