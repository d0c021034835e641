"""Retrieval on LoCoMo: how much of the evidence is among the first records, and what each signal is worth.

    python -m deltamem_agents.bench.recall.locomo locomo10.json --out docs/benchmarks/locomo-retrieval.csv

LoCoMo (Maharana et al., arXiv 2402.17753; CC BY-NC 4.0) is not part of this package: give the file. Each turn is one
record, with its speaker's name and the caption of an image shown in it. Questions of categories 1 to 4 that have
evidence are asked.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deltamem_agents.bench.figures import Figure, figure, machine, table, write_csv
from deltamem_agents.bench.outputs import add_output, parsed
from deltamem_agents.recall import Cutting, Embedder, Retriever, default_embedder
from deltamem_agents.recall.fusion import Messages, Sessions, Signals, fuse, standardised
from deltamem_agents.recall.questions import Question as Read
from deltamem_agents.recall.ranking import signals_of
from deltamem_agents.recall.snapshot import Scope
from deltamem_agents.store import Store

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

FIRST = (5, 10)
REACH = {5: "≥ 0.70", 10: "≥ 0.79"}
CATEGORIES = {1: "several turns", 2: "time", 3: "open", 4: "one turn"}


@dataclass(frozen=True, slots=True)
class Question:
    """A question, the positions (from 1) of the turns that hold its answer, and its category."""

    text: str
    evidence: frozenset[int]
    category: int


def conversations(path: Path) -> Iterator[tuple[list[tuple[str, dict[str, Any]]], list[Question]]]:
    """Yield turns, as session and message, and the questions about them."""
    for each in json.loads(path.read_text(encoding="utf-8")):
        spoken, turns, position_of = each["conversation"], [], {}
        numbers = sorted(int(key.split("_")[1]) for key in spoken if re.fullmatch(r"session_\d+", key))
        for number in numbers:
            for turn in spoken[f"session_{number}"]:
                shown = f" [shows {turn['blip_caption']}]" if turn.get("blip_caption") else ""
                text = f"{turn['speaker']}: {turn['text']}{shown}"
                said = {"role": "user", "content": text, "metadata": {"name": turn["speaker"]}}
                turns.append((f"session {number}", said))
                position_of[turn["dia_id"]] = len(turns)
        yield turns, list(_questions(each["qa"], position_of))


def _questions(asked: Sequence[dict[str, Any]], position_of: dict[str, int]) -> Iterator[Question]:
    for each in asked:
        named = re.findall(r"D\d+:\d+", " ".join(each.get("evidence", [])))
        evidence = frozenset(position_of[turn] for turn in named if turn in position_of)
        if each["category"] in CATEGORIES and evidence:
            yield Question(each["question"], evidence, each["category"])


def reciprocal_rank(signals: Signals) -> Floats:
    """Reciprocal rank fusion (Cormack, Clarke and Büttcher, SIGIR 2009): the baseline."""
    total = np.zeros(len(signals.words), np.float32)
    for scores in (signals.words, signals.meaning):
        assert scores is not None
        ranks = np.argsort(np.argsort(-scores, kind="stable"), kind="stable")
        total += np.where(scores == 0, 0, 1 / (61 + ranks)).astype(np.float32)
    return total


class _OneSession(Sessions):
    """Ranks without the bonus for the best session."""

    def best(self, values: Floats) -> Floats:
        """Zeros."""
        return np.zeros_like(values)


class _NoNeighbours(Sessions):
    """Ranks as if every record stood alone."""

    def around(self, values: Floats, reach: int = 0) -> Floats:
        """The record's own values."""
        return values

    def before(self, values: Floats) -> Floats:
        """Zeros."""
        return np.zeros_like(values)


def forms() -> dict[str, Callable[[Signals, Sessions, Messages], Floats]]:
    """Ranking methods: single signals, baselines, and `recall`'s fusion, complete and without each of its parts."""

    def fused(signals: Signals, sessions: Sessions, messages: Messages) -> Floats:
        return fuse(signals, sessions, messages)

    def meaning(signals: Signals) -> Floats:
        assert signals.meaning is not None
        return signals.meaning

    return {
        "meaning alone (MiniLM)": lambda s, *_: meaning(s),
        "words alone (BM25)": lambda s, *_: s.words,
        "reciprocal rank of both": lambda s, *_: reciprocal_rank(s),
        "sum of both, standardised": lambda s, *_: standardised(s.words) + standardised(meaning(s)),
        "fused, without the embedder": lambda s, *order: fused(replace(s, meaning=None, around=None), *order),
        "fused, without neighbours": lambda s, order, messages: fused(
            replace(s, around=s.meaning, covered=s.words), _NoNeighbours(order.order, order.of), messages
        ),
        "fused, without words around": lambda s, *order: fused(replace(s, covered=s.words), *order),
        "fused, without who is named": lambda s, *order: fused(replace(s, named=np.zeros_like(s.named)), *order),
        "fused, without the session": lambda s, order, messages: fused(s, _OneSession(order.order, order.of), messages),
        "fused, without the question before": lambda s, *order: fused(replace(s, asks=np.zeros_like(s.asks)), *order),
    }


def measure(path: Path, embedder: Embedder) -> list[Figure]:
    """Measure all figures of one file."""
    shares: dict[tuple[str, int], list[float]] = {}
    by_category: dict[int, list[float]] = {}
    seconds: list[float] = []
    for turns, questions in conversations(path):
        with Store.open("sqlite://", split=Cutting(embedder)) as store:
            for session, said in turns:
                store.append("a", [said], session)
            retriever = Retriever(store.records, embedder)
            retriever.embed_missing("a")
            records = store.records.read("a")
            positions = np.array([record.position for record in records])
            for question in questions:
                candidates = retriever.candidates.find("a", question.text, Scope(), FIRST[-1], print)
                assert candidates is not None and candidates.vector is not None
                snapshot = candidates.snapshot
                signals = signals_of(question.text, snapshot, candidates.vector, Read.read(question.text))
                for name, form in forms().items():
                    order = np.argsort(-form(signals, snapshot.sessions, snapshot.messages), kind="stable")
                    for first in FIRST:
                        found = set(positions[order[:first]].tolist())
                        shares.setdefault((name, first), []).append(_share(question, found))
                started = time.perf_counter()
                best = [record.position for record in retriever.search("a", question.text, max(FIRST))]
                seconds.append(time.perf_counter() - started)
                for first in FIRST:
                    shares.setdefault(("recall", first), []).append(_share(question, set(best[:first])))
                by_category.setdefault(question.category, []).append(_share(question, set(best)))
    figures = [
        figure(f"{name}: evidence among the first {first}", "LoCoMo", [statistics.fmean(values)], "",
               REACH[first] if name == "recall" else "")
        for (name, first), values in shares.items()
    ]  # fmt: skip
    for category, values in sorted(by_category.items()):
        what = f"recall: evidence among the first 10, {len(values)} questions about {CATEGORIES[category]}"
        figures.append(figure(what, "LoCoMo", [statistics.fmean(values)], ""))
    figures.append(figure("recall, the query's embedding included", "LoCoMo", [1e3 * each for each in seconds], "ms"))
    return figures


def _share(question: Question, found: set[int]) -> float:
    return len(question.evidence & found) / len(question.evidence)


def main() -> None:
    """Measure, print the table, write the CSV."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n", 1)[0])
    parser.add_argument("file", type=Path, help="LoCoMo's JSON")
    add_output(parser)
    chosen = parsed(parser)
    embedder, note = default_embedder()
    if embedder is None:
        raise SystemExit(note)
    figures = measure(chosen.file, embedder)
    facts = machine(embedder=embedder.name.rsplit("/", 1)[-1])
    print(table(figures, facts))
    if chosen.out is not None:
        write_csv(chosen.out, figures, facts)


if __name__ == "__main__":
    main()
