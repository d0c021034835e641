"""Cost of memory for a turn of an agent with a long journal: a recall before the turn, a write after it.

    python -m deltamem_agents.bench.recall.turn --out docs/benchmarks/turn-cpu.csv

It uses the bundled backbone and the local embedder, on SQLite. The recall is the one that the integrations make, in
mode "hybrid" and without an answer from the backbone; the write is a question and an answer. ``--placeholders`` gives
the long journal random vectors instead of its texts' embeddings: that takes seconds, not minutes, and the timed work is
the same.
"""

from __future__ import annotations

import argparse
import sqlite3
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from deltamem_agents import DeltaMem
from deltamem_agents.bench.figures import Figure, figure, machine, table, write_csv
from deltamem_agents.bench.outputs import add_output, parsed
from deltamem_agents.memory import AgentMemory
from deltamem_agents.recall import default_embedder

MESSAGES = 10_000
ROUNDS = 60
WARM = 5
SESSION = 40  # messages
BACKLOG = 1_000  # messages without embeddings
NAMES = ("Ana", "Bo", "Cleo", "Dev", "Emil", "Fay", "Gus", "Hana", "Ines", "Jo")
THINGS = ("the ladder", "a spare key", "two lamps", "the blue paint", "her old bicycle", "a box of screws", "the tent")
PLACES = ("the cellar", "hall seven", "the attic", "the shed behind the house", "the garage", "a locker at the station")
BAR = "≤ 60"


def said(number: int) -> list[dict[str, str]]:
    """One turn of the journal."""
    name, thing, place = (each[number // 3 % len(each)] for each in (NAMES, THINGS, PLACES))
    text = f"{name} put {thing} into {place} and wrote shelf {number} on it, after we talked about the move in May."
    return [
        {"role": "user", "content": text},
        {"role": "assistant", "content": f"Noted. Shelf {number} it is; tell me when it is to be fetched again."},
    ]


def asked(number: int) -> str:
    """A question that only one turn answers."""
    return f"What did we put on shelf {number}?"


def tell(agent: AgentMemory, mem: DeltaMem, count: int) -> None:
    """Append ``count`` messages to a journal."""
    for start in range(0, count // 2, SESSION // 2):
        turns = [each for number in range(start, start + SESSION // 2) for each in said(number)]
        mem.store.append(agent.id, turns, f"s{start}")


def give_placeholders(mem: DeltaMem, agent: AgentMemory, dim: int) -> None:
    """Store random vectors for all records."""
    model, source = mem.retriever.model or "", np.random.default_rng(7)
    while missing := mem.store.records.missing_embeddings(agent.id, model, 2_000):
        vectors = source.standard_normal((len(missing), dim), np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        mem.store.records.put_embeddings(agent.id, model, [key for key, _ in missing], vectors)


def check(agent: AgentMemory, count: int) -> None:
    """Check that recall finds what was said before anything is timed."""
    numbers = np.random.default_rng(1).integers(0, count // 2, 20).tolist()
    found = [agent.recall(asked(number), generate=False).records for number in numbers]
    right = sum(
        any(f"shelf {n} " in each.text.lower() for each in those) for those, n in zip(found, numbers, strict=True)
    )
    if right < 18:
        raise SystemExit(f"{right} of 20 found: only correct results are timed")


def turns(agent: AgentMemory, count: int, *, wait: bool, pause: Callable[[], None]) -> list[Figure]:
    """Time turns one after another: the time that the agent waits, and the time of all processors."""
    numbers = np.random.default_rng(2).integers(0, count // 2, ROUNDS + WARM).tolist()
    recalls, writes, both, processor = [], [], [], []
    for place, number in enumerate(numbers):
        used, began = time.process_time(), time.perf_counter()
        agent.recall(asked(number), generate=False)
        between = time.perf_counter()
        agent.write(said(count + place), "now", wait=wait)
        ended = time.perf_counter()
        pause()
        if place >= WARM:
            recalls.append(1e3 * (between - began))
            writes.append(1e3 * (ended - between))
            both.append(1e3 * (ended - began))
            processor.append(1e3 * (time.process_time() - used))
    how = "write waits" if wait else "write does not wait"
    on = f"{count:,} messages"
    return [
        figure(f"turn, {how}", on, both, "ms", BAR),
        figure(f"its recall, {how}", on, recalls, "ms"),
        figure(f"its write, {how}", on, writes, "ms"),
        figure(f"its processor time, {how}", on, processor, "ms"),
    ]


def backlog(mem: DeltaMem) -> list[Figure]:
    """Time the first recall after many messages without embeddings, and the time until all have one."""
    agent = mem.agent("backlog")
    tell(agent, mem, BACKLOG)
    began = time.perf_counter()
    found = agent.recall(asked(17), mode="vector", generate=False)
    first = time.perf_counter() - began
    if not any("shelf 17 " in each.text.lower() for each in found.records):
        raise SystemExit("shelf 17 is not found: only correct results are timed")
    while mem.store.records.missing_embeddings(agent.id, mem.retriever.model or "", 1):
        time.sleep(0.05)
    whole = time.perf_counter() - began
    on = f"{BACKLOG:,} messages"
    return [
        figure("first recall after them, none embedded", on, [first], "s", "≤ 1"),
        figure("until the background has embedded all", on, [whole], "s"),
    ]


def main() -> None:
    """Measure, print the table, write the CSV."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n", 1)[0])
    parser.add_argument("--messages", type=int, default=MESSAGES)
    parser.add_argument("--placeholders", action="store_true", help="random vectors for the long journal")
    add_output(parser)
    chosen = parsed(parser)
    embedder, note = default_embedder()
    if embedder is None:
        raise SystemExit(note)
    with (
        tempfile.TemporaryDirectory() as folder,
        DeltaMem.open(url=f"sqlite:///{Path(folder) / 'memory.db'}", embedder=embedder) as mem,
    ):
        agent = mem.agent("long")
        tell(agent, mem, chosen.messages)
        if chosen.placeholders:
            give_placeholders(mem, agent, embedder.dim)
        began = time.perf_counter()
        mem.reindex(agent.id)
        agent.state()
        print(f"{chosen.messages:,} messages embedded and folded in {time.perf_counter() - began:.0f} s", flush=True)
        check(agent, chosen.messages)

        def pause() -> None:
            while mem.runtime.background.busy:
                time.sleep(0.002)

        figures = turns(agent, chosen.messages, wait=True, pause=lambda: None)
        figures += turns(agent, chosen.messages, wait=False, pause=pause)
        figures += backlog(mem)
    facts = machine(torch=torch.__version__, SQLite=sqlite3.sqlite_version, threads=str(torch.get_num_threads()))
    print(table(figures, facts))
    if chosen.out is not None:
        write_csv(chosen.out, figures, facts)


if __name__ == "__main__":
    main()
