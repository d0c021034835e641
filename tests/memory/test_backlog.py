"""A backlog of records without an embedding: recall goes on with what there is, and the background does the rest."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from deltamem_agents import DeltaMem
from deltamem_agents.memory import Recall
from deltamem_agents.recall import CallableEmbedder, Retriever
from deltamem_agents.store import Selection, Store

COUNT = 400


class Slow:
    """An embedder that takes its time for each text, and remembers what it was given."""

    def __init__(self, seconds: float = 0.005) -> None:
        self.seconds = seconds
        self.texts: Counter[str] = Counter()
        self.embedded: Callable[[list[str]], Any] = lambda texts: None

    def __call__(self, texts: list[str]) -> list[list[float]]:
        time.sleep(self.seconds * len(texts))
        self.texts.update(texts)
        self.embedded(texts)
        return [[1.0 + len(text) % 5, len(text) % 3, 1.0] for text in texts]

    def query(self, text: str) -> list[float]:
        return [1.0, 1.0, 1.0]


@pytest.fixture
def slow() -> Slow:
    return Slow()


@pytest.fixture
def mem(open_mem: Callable[..., DeltaMem], slow: Slow) -> DeltaMem:
    return open_mem(backbone=None, embedder=CallableEmbedder(slow, name="slow", query=slow.query))


def told(mem: DeltaMem, count: int = COUNT, agent: str = "alice") -> list[str]:
    """Journal messages as an import does: nothing is embedded."""
    said = [{"role": "user", "content": f"Shelf {i} holds crate {i * 7}."} for i in range(count)]
    return mem.store.append(agent, said, "s")


def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.01)


def words_alone(found: Recall) -> list[str]:
    return [note for note in found.notes if note.startswith("by words")]


def embedded(mem: DeltaMem, agent: str = "alice") -> int:
    return mem.store.records.embedding_models(agent).get("slow", 0)


def test_recall_finds_a_backlog_by_words_at_once_and_the_background_embeds_it(mem, slow) -> None:
    slow.seconds = 0.02
    told(mem)
    alice = mem.agent("alice")
    began = time.monotonic()
    found = alice.recall("What is on shelf 17?", generate=False)
    assert time.monotonic() - began < 4  # of 8 s that all would take
    slow.seconds = 0
    assert found.records[0].text == "Shelf 17 holds crate 119."
    (note,) = words_alone(found)
    assert "of 400 records are not embedded yet" in note
    assert 0 < embedded(mem) < COUNT
    newest = set(mem.store.records.embeddings("alice", "slow")[0])
    assert max(record.key for record in mem.store.records.read("alice")) in newest  # what was said last comes first
    until(lambda: not words_alone(alice.recall("What is on shelf 17?", generate=False)))
    assert embedded(mem) == COUNT and max(slow.texts.values()) == 1


def test_an_ordinary_turn_is_embedded_at_once_whatever_waits(mem, slow) -> None:
    told(mem)
    alice = mem.agent("alice")
    alice.recall("crate", generate=False)
    alice.write(
        [{"role": "user", "content": "I moved to Oslo."}, {"role": "assistant", "content": "Noted!"}], wait=False
    )
    alice.recall("Where do I live?", generate=False)
    assert slow.texts["I moved to Oslo."] == 1
    slow.seconds = 0
    until(lambda: embedded(mem) == COUNT + 2)
    assert max(slow.texts.values()) == 1


@pytest.mark.parametrize("way", ["write", "reindex", "no limit"])
def test_who_wants_to_wait_can(way, open_mem, url) -> None:
    slow = Slow(0.001)
    mem = open_mem(
        backbone=None,
        embedder=CallableEmbedder(slow, name="slow", query=slow.query),
        embed_seconds=None if way == "no limit" else 0,
    )
    told(mem)
    alice = mem.agent("alice")
    if way == "write":
        alice.write([{"role": "user", "content": "I moved to Oslo."}])
    elif way == "reindex":
        assert mem.reindex()["alice"].embedded == COUNT
    assert not words_alone(alice.recall("crate", generate=False))
    assert embedded(mem) == COUNT + (way == "write")


def test_a_store_item_that_is_not_embedded_is_found_by_its_words(mem) -> None:
    told(mem)
    best = mem.retriever.similar("alice", "crate 119 shelf 17", 2)[0]
    assert best.text == "Shelf 17 holds crate 119." and 0 < best.score <= 1


def test_what_is_erased_while_others_are_embedded_is_not_embedded_afterwards(mem, slow) -> None:
    ids = told(mem)
    alice = mem.agent("alice")
    alice.recall("crate", generate=False)
    gone = [
        f"Shelf {i} holds crate {i * 7}." for i in range(COUNT) if f"Shelf {i} holds crate {i * 7}." not in slow.texts
    ]
    chosen = [
        each for each, i in zip(ids, range(COUNT), strict=True) if f"Shelf {i} holds crate {i * 7}." in gone[100:]
    ]
    alice.erase(ids=chosen, wait=False)
    time.sleep(0.4)  # what was under way
    before = slow.texts.copy()
    mem.reindex("alice")
    assert not any(slow.texts[text] > before[text] for text in gone[100:])
    assert embedded(mem) == COUNT - len(chosen)
    assert set(mem.store.records.embeddings("alice", "slow")[0]) == {
        each.key for each in mem.store.records.read("alice")
    }


def test_a_vector_of_what_is_erased_while_it_is_embedded_is_not_stored(mem, slow) -> None:
    ids = told(mem, 20)
    done: list[object] = []

    def erase(texts: list[str]) -> None:
        if not done:
            done.append(mem.store.erase("alice", Selection(ids=ids[:15])))

    slow.embedded = erase
    mem.agent("alice").recall("crate", generate=False)
    until(lambda: embedded(mem) == 5)
    assert set(mem.store.records.embeddings("alice", "slow")[0]) == {
        each.key for each in mem.store.records.read("alice")
    }


def test_closing_while_the_background_embeds_keeps_what_is_done(mem, open_mem, slow, url) -> None:
    slow.seconds = 0.02
    told(mem)
    mem.agent("alice").recall("crate", generate=False)
    time.sleep(0.3)
    began = time.monotonic()
    mem.close()
    assert time.monotonic() - began < 3
    assert not any(thread.name == "deltamem-background" for thread in threading.enumerate())
    with Store.open(url) as store:
        assert 8 <= store.records.embedding_models("alice")["slow"] < COUNT
    again = open_mem(backbone=None, embedder=CallableEmbedder(Slow(0), name="slow", query=slow.query))
    assert again.reindex()["alice"].embedded + 8 <= COUNT and embedded(again) == COUNT


def test_an_embedder_that_goes_away_in_the_background_is_noted_and_made_up_for(mem, slow) -> None:
    told(mem)
    alice = mem.agent("alice")

    def away(texts: list[str]) -> None:
        if threading.current_thread().name == "deltamem-background":
            raise ConnectionError("503")

    slow.embedded = away
    alice.recall("crate", generate=False)
    until(lambda: mem.stats().embedding.count > 0)
    assert mem.stats().embedding.last == "EmbedderError by ConnectionError"
    slow.embedded, slow.seconds = (lambda texts: None), 0
    until(lambda: not words_alone(alice.recall("crate", generate=False)))
    assert embedded(mem) == COUNT


def test_a_large_agent_and_one_that_is_read_only_wait_no_longer(mem, slow, url) -> None:
    told(mem)
    notes: list[str] = []
    asked = Retriever(
        mem.store.records, CallableEmbedder(slow, name="slow", query=slow.query), in_memory=0, embed_seconds=0.1
    )
    began = time.monotonic()
    assert asked.search("alice", "What is on shelf 17?", tell=notes.append)[0].text == "Shelf 17 holds crate 119."
    assert time.monotonic() - began < 1.5 and "not embedded yet" in notes[0]
    mem.close()
    with Store.open(url.replace("///", "///file:") + "?mode=ro&uri=true") as store:
        held = Retriever(store.records, CallableEmbedder(slow, name="slow", query=slow.query), embed_seconds=0.1)
        before = slow.texts.copy()
        for _ in range(3):
            began = time.monotonic()
            assert (
                held.search("alice", "What is on shelf 17?", tell=notes.append)[0].text == "Shelf 17 holds crate 119."
            )
            assert time.monotonic() - began < 1.5 and "not embedded yet" in notes[-1]
        again = (slow.texts - before).values()  # each goes on where the one before it stopped
        assert max(again) <= 2 and sum(again) > 30


WORKER = """
import sys, time
from deltamem_agents.recall import CallableEmbedder, Retriever, split_text
from deltamem_agents.store import Store
def embed(texts):
    time.sleep(0.004 * len(texts))
    counts.append(len(texts))
    return [[1.0, 2.0] for _ in texts]
counts = []
with Store.open(sys.argv[1], split=split_text) as store:
    retriever = Retriever(store.records, CallableEmbedder(embed, name="slow"))
    print("ready", flush=True)
    sys.stdin.readline()
    retriever.catch_up("alice")
print(sum(counts))
"""


@pytest.mark.slow
def test_processes_that_embed_one_agent_at_once_share_the_work(url) -> None:
    count = 1_000
    with Store.open(url) as store:
        store.append("alice", [{"role": "user", "content": f"Shelf {i}."} for i in range(count)], "s")
    command = [sys.executable, "-c", WORKER, url]
    workers = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    try:
        for each in workers:
            assert each.stdout.readline() == "ready\n"
        for each in workers:
            each.stdin.write("go\n")
            each.stdin.flush()
        done = [int(each.communicate(timeout=60)[0]) for each in workers]
    finally:
        for each in workers:
            each.kill()
    with Store.open(url) as store:
        assert store.records.embedding_models("alice") == {"slow": count}
    assert sum(done) <= 1.3 * count and min(done) > 0, done
