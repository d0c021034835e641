"""What is journalled is durable: whatever indexing and folding do, a write returns its ids, and recall makes up."""

from __future__ import annotations

import asyncio
import gc
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from deltamem_agents import DeltaMem
from deltamem_agents.engine import Engine
from deltamem_agents.errors import ClosedError, EmbedderError, EngineMemoryError, InvalidMessageError, StoreError
from deltamem_agents.memory import MemoryStats
from deltamem_agents.recall import CallableEmbedder
from deltamem_agents.store import RecordIndex, Store

LOCKER = {"role": "user", "content": "My locker is number 4417."}
TEA = {"role": "user", "content": "I like green tea."}


class Service:
    """An embedding service that can be away, and that holds back what its filter does not like."""

    def __init__(self) -> None:
        self.away = False
        self.calls = 0

    def __call__(self, texts: list[str]) -> list[list[float]]:
        self.calls += 1
        if self.away:
            raise ConnectionError("503: " + texts[0])
        if any("forbidden" in text for text in texts):
            raise RuntimeError("400: content filter")
        return [[1.0 + len(text) % 5, len(text) % 3, 1.0] for text in texts]


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture
def served(open_mem: Callable[..., DeltaMem], service: Service) -> DeltaMem:
    return open_mem(embedder=CallableEmbedder(service, name="service"))


def failing(monkeypatch: pytest.MonkeyPatch, target: Any, name: str, error: BaseException) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise error

    monkeypatch.setattr(target, name, fail)


WAYS: dict[str, Callable[[Any, str], Any]] = {
    "write": lambda agent, text: agent.write([{"role": "user", "content": text}]),
    "awrite": lambda agent, text: asyncio.run(agent.awrite([{"role": "user", "content": text}])),
    "chat": lambda agent, text: agent.chat([{"role": "user", "content": text}]),
    "achat": lambda agent, text: asyncio.run(agent.achat([{"role": "user", "content": text}])),
    "chat_stream": lambda agent, text: list(agent.chat_stream([{"role": "user", "content": text}])),
}


@pytest.mark.parametrize("way", WAYS)
def test_an_embedder_that_is_away_fails_no_write_and_no_recall(way, served, service, caplog) -> None:
    alice = served.agent("alice")
    service.away = True
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            assert WAYS[way](alice, "My locker is number 4417.")
        found = alice.recall("Which locker is mine?", generate=False)
    assert len([entry for entry in alice.log() if entry.role == "user"]) == 3
    assert "4417" in found.text
    assert found.notes == ("by words: EmbedderError by ConnectionError",)
    assert len(caplog.records) == 1 and "4417" not in caplog.text  # once, and no text of a message
    stats = served.stats()
    assert stats.embedding.agents == 1 and stats.embedding.last == "EmbedderError by ConnectionError"
    assert stats.backlog.unembedded >= 3 and stats.backlog.unindexed == stats.backlog.unfolded == 0
    service.away = False
    assert alice.recall("Which locker is mine?", generate=False).notes == ()
    assert served.stats().backlog.unembedded == served.stats().embedding.agents == 0


def test_one_text_that_is_refused_is_left_out_and_not_asked_again(served, service, caplog) -> None:
    alice = served.agent("alice")
    alice.write([LOCKER, {"role": "user", "content": "a forbidden word"}, TEA])
    assert served.stats().backlog.unembedded == served.stats().refused == 1
    alice.recall("tea", generate=False)
    calls = service.calls
    assert "4417" in alice.recall("Which locker is mine?", generate=False).text
    assert service.calls == calls + 1  # the query
    assert "forbidden" in alice.recall("word", generate=False).text
    alice.write([{"role": "user", "content": "And it is red."}])
    assert served.stats().backlog.unembedded == 1
    calls = service.calls
    assert served.reindex("alice")["alice"].refused == 1 and service.calls > calls


def test_records_written_while_the_embedder_is_away_are_found_among_those_that_have_vectors(served, service) -> None:
    alice = served.agent("alice")
    alice.write([{"role": "user", "content": f"Shelf {i} holds crate {i * 7}."} for i in range(40)])
    alice.recall("Which crate?", generate=False)
    service.away = True
    alice.write([LOCKER])
    assert "4417" in alice.recall("Which locker is mine?", generate=False).text
    service.away = False
    alice.write([TEA])
    assert "4417" in alice.recall("Which locker is mine?", generate=False).text
    assert served.stats().backlog.unembedded == 0


@pytest.mark.parametrize(
    "error",
    [EngineMemoryError("the device has too little memory"), OSError(28, "No space left"), MemoryError(), KeyError("x")],
    ids=lambda each: type(each).__name__,
)
def test_a_backbone_that_fails_fails_no_write(error, open_mem, monkeypatch, caplog) -> None:
    mem = open_mem()
    alice = mem.agent("alice")
    with monkeypatch.context() as broken, caplog.at_level(logging.INFO):
        failing(broken, mem.engine, "fold", error)
        ids = [alice.write([LOCKER])[0], *alice.write([TEA]), alice.write([TEA], wait=False)[0]]
        until = time.monotonic() + 10
        while mem.stats().folding.count < 3 and time.monotonic() < until:
            time.sleep(0.02)
        assert [entry.id for entry in alice.log()] == ids
        assert mem.stats().folding.count == 3 and mem.stats().backlog.unfolded == 3
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        hybrid = alice.recall("Which locker is mine?")
        assert "4417" in hybrid.text and any("could not be folded" in note for note in hybrid.notes)
        assert mem.agent("alice").generate([{"role": "user", "content": "Which locker is mine?"}]).text is not None
        with pytest.raises(type(error)):
            alice.recall("Which locker is mine?", mode="state")
        assert alice.erase(ids=[ids[1]]).status != "dry run"  # the receipt of what is erased is given
    assert alice.recall("Which locker is mine?").notes == mem.notes
    assert mem.stats().backlog.unfolded == mem.stats().folding.agents == 0


def test_embeddings_that_cannot_be_stored_fail_no_write(served, monkeypatch) -> None:
    alice = served.agent("alice")
    with monkeypatch.context() as full:
        failing(full, RecordIndex, "put_embeddings", StoreError("cannot write: disk full"))
        assert len(alice.write([LOCKER])) == 1
        assert "4417" in alice.recall("Which locker is mine?", generate=False).text
        assert served.stats().embedding.last == "StoreError: cannot write: disk full"
    alice.recall("tea", generate=False)
    assert served.stats().backlog.unembedded == 0


def test_what_raises_has_journalled_nothing(served, monkeypatch) -> None:
    alice = served.agent("alice")
    with pytest.raises(InvalidMessageError):
        alice.write([LOCKER, {"role": "user", "content": " "}])
    with monkeypatch.context() as full:
        failing(full, Store, "append", StoreError("cannot write: disk full"))
        with pytest.raises(StoreError):
            alice.write([LOCKER])
    assert alice.log() == []


def test_an_interrupt_says_what_is_durable(open_mem, monkeypatch) -> None:
    mem = open_mem()
    alice = mem.agent("alice")
    with monkeypatch.context() as interrupted:
        failing(interrupted, mem.engine, "fold", KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt) as caught:
            alice.write([LOCKER, TEA])
    assert [entry.text for entry in alice.log()] == [LOCKER["content"], TEA["content"]]
    (note,) = caught.value.__notes__
    assert "2 messages" in note and all(entry.id in note for entry in alice.log()) and "4417" not in note
    with monkeypatch.context() as interrupted:
        failing(interrupted, mem.engine, "fold", KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt) as caught:
            mem.agent("bob").write([LOCKER] * 300, "many")
    (note,) = caught.value.__notes__
    entries = mem.agent("bob").log()
    named = [entry.id for entry in entries if entry.id in note]
    assert named == [entries[0].id, entries[-1].id] and "300 messages" in note and "'many'" in note and len(note) < 400
    assert alice.health().unfolded == 2 and alice.state() and alice.health().unfolded == 0


def test_another_process_finds_what_was_just_written(served, service, url) -> None:
    service.away = True
    served.agent("alice").write([LOCKER])
    with DeltaMem.open("tiny", url=url, embedder=False) as other:
        assert "4417" in other.agent("alice").recall("Which locker is mine?", generate=False).text


def test_an_embedder_that_cannot_be_loaded_is_refused_before_a_database_is_made(tmp_path) -> None:
    with pytest.raises(EmbedderError, match="cannot be loaded"):
        DeltaMem.open("tiny", url=f"sqlite:///{tmp_path / 'none.db'}", embedder=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_stats_are_plain(open_mem) -> None:
    stats = open_mem().stats()
    assert isinstance(stats, MemoryStats) and stats.engine.waiting == 0
    assert stats.as_dict()["backlog"] == {"unfolded": 0, "unindexed": 0, "unembedded": 0}
    assert asyncio.run(open_mem().astats()).folding.last is None


# Closing


def slow_folds(monkeypatch: pytest.MonkeyPatch, seconds: float) -> list[int]:
    began: list[int] = []
    fold = Engine.fold

    def slow(self: Engine, state: Any, segments: Any, **given: Any) -> Any:
        began.append(len(segments))
        time.sleep(seconds)
        return fold(self, state, segments, **given)

    monkeypatch.setattr(Engine, "fold", slow)
    return began


def test_closing_folds_no_backlog(open_mem, url, monkeypatch) -> None:
    mem = open_mem()
    began = slow_folds(monkeypatch, 0.3)
    for number in range(40):
        mem.agent(f"a{number}").write([LOCKER], wait=False)
    started = time.monotonic()
    mem.close()
    assert time.monotonic() - started < 3 and len(began) < 10
    with DeltaMem.open("tiny", url=url, embedder=False) as again:
        assert sum(each.messages for each in again.agents()) == 40 and again.stats().backlog.unfolded > 20


def test_a_long_fold_stops_when_the_memory_is_closed_and_keeps_what_it_has(open_mem, url, monkeypatch) -> None:
    mem = open_mem()
    mem.store.append("alice", [{"role": "user", "content": "Shelf 3 holds crate 7. " * 60}] * 100, "s")
    began = slow_folds(monkeypatch, 0.2)
    folding = threading.Thread(target=lambda: mem.runtime.background.now("alice"))
    folding.start()
    until = time.monotonic() + 60
    while len(began) < 4:
        assert time.monotonic() < until
        time.sleep(0.02)
    started = time.monotonic()
    mem.close()
    folding.join()
    assert time.monotonic() - started < 8
    with DeltaMem.open("tiny", url=url, embedder=False) as again:
        health = again.agent("alice").health()
        assert 0 < health.unfolded < 100 and health.revisions > 0


def test_a_write_that_races_with_close_returns_its_ids_or_wrote_nothing(url) -> None:
    seen: set[str] = set()
    written: list[str] = []
    for _ in range(5):
        other = DeltaMem.open("tiny", url=url, embedder=False)

        def busy(mem: DeltaMem = other) -> None:
            try:
                while True:
                    written.extend(mem.agent("a").write([LOCKER], wait=False))
            except Exception as error:
                seen.add(type(error).__name__)

        thread = threading.Thread(target=busy)
        thread.start()
        time.sleep(0.05)
        other.close()
        thread.join()
    assert seen == {"ClosedError"}
    with Store.open(url) as store:
        assert [entry.id for entry in store.log("a")] == written


def test_twins_while_and_after_closing_raise_closed_error_and_write_nothing(open_mem, url) -> None:
    mem = open_mem()
    alice = mem.agent("alice")

    async def race() -> tuple[list[Any], list[Any]]:
        calls = [asyncio.create_task(alice.awrite([LOCKER])) for _ in range(40)]
        await asyncio.sleep(0)
        await mem.aclose()
        return await asyncio.gather(*calls, return_exceptions=True), await asyncio.gather(
            alice.awrite([TEA]), alice.arecall("tea"), alice.achat([TEA]), mem.aagents(), return_exceptions=True
        )

    during, after = asyncio.run(race())
    assert all(isinstance(each, list | ClosedError) for each in during)
    assert [type(each) for each in after] == [ClosedError] * 4
    with Store.open(url) as store:
        assert len(store.log("alice")) == sum(isinstance(each, list) for each in during)


AT_EXIT = """
import atexit, sys, time
from deltamem_agents import DeltaMem
mem = DeltaMem.open("tiny", url=sys.argv[1], embedder=False)
for number in range(40):
    mem.agent(f"a{number}").write([{"role": "user", "content": "Shelf 3 holds crate 7. " * 400}], wait=False)
def last():
    print(len(mem.agent("b").write([{"role": "user", "content": "Goodbye."}], wait=False)))
    print(len(mem.agent("b").write([{"role": "user", "content": "Really."}])))
    if sys.argv[2] == "close":
        mem.close()
atexit.register(last)
print("ends", flush=True)
started = time.monotonic()
atexit.register(lambda: print(f"{time.monotonic() - started:.1f}"))
"""


@pytest.mark.slow
@pytest.mark.parametrize("closed", ["close", "leave"])
def test_a_process_that_ends_writes_what_it_says_and_folds_no_backlog(closed, url) -> None:
    ran = subprocess.run([sys.executable, "-c", AT_EXIT, url, closed], capture_output=True, text=True, timeout=120)
    said = ran.stdout.split()
    assert said[0] == "ends" and said[2:] == ["1", "1"] and float(said[1]) < 5, (ran.stdout, ran.stderr[-2000:])
    with Store.open(url) as store:
        assert len(store.log("b")) == 2 and len(store.agents()) == 41
        assert store.backlog().unfolded > 20


def test_words_and_vectors_that_are_held_go_with_close(served) -> None:
    from deltamem_agents.recall.snapshot import Snapshot
    from deltamem_agents.recall.words import _known

    def snapshots() -> int:
        gc.collect()
        return sum(isinstance(each, Snapshot) for each in gc.get_objects())

    before = snapshots()
    served.agent("alice").write([LOCKER])
    served.agent("alice").recall("locker", generate=False)
    assert _known.get("locker") and snapshots() == before + 1
    served.close()
    assert _known.get("locker") is None and snapshots() == before
