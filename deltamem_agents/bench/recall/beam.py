"""Retrieval on BEAM: how many of the messages that answer a question are among the first ten, by kind of question.

    deltamem bench recall --only beam --beam beam.json

BEAM (Tavakoli et al., arXiv 2510.27246) is not part of this package: give a file of conversations, each with
``messages`` (``id``, ``role``, ``content``, ``session``, ``time`` of a session's first message) and ``questions``
(``type``, ``question``, ``evidence``: ids of messages). Questions without evidence are left out. All ranking methods
see the same records. For dense, BM25 and reciprocal rank the first ten are ten different messages, each ranked by its
best piece; for ours they are the first ten records.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deltamem_agents.bench.recall.locomo import reciprocal_rank
from deltamem_agents.errors import ConfigError
from deltamem_agents.recall import Cutting, Embedder, Retriever
from deltamem_agents.recall.fusion import Signals
from deltamem_agents.recall.questions import Question
from deltamem_agents.recall.ranking import signals_of
from deltamem_agents.recall.snapshot import Scope
from deltamem_agents.store import Store

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

FIRST = 10
OURS, OVERALL = "ours", "all"
REACH, BELOW = 0.66, 0.01
BASELINES: dict[str, Callable[[Signals], Floats]] = {
    "dense": lambda signals: _meaning(signals),
    "BM25": lambda signals: signals.words,
    "reciprocal rank": reciprocal_rank,
}
Advance = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Asked:
    """A question, the positions (from 1) of the messages that answer it, and its kind."""

    text: str
    evidence: frozenset[int]
    kind: str


@dataclass(frozen=True, slots=True)
class Row:
    """Mean share of the evidence among the first ten by ranking method, for questions of one kind."""

    kind: str
    questions: int
    shares: dict[str, float]

    @property
    def reached(self) -> bool:
        """Whether ours is at most `BELOW` worse than any other method and, over all kinds, reaches `REACH`."""
        best = max(share for way, share in self.shares.items() if way != OURS)
        return self.shares[OURS] >= best - BELOW and (self.kind != OVERALL or self.shares[OURS] >= REACH)


def conversations(path: Path) -> Iterator[tuple[list[tuple[str, dict[str, Any]]], list[Asked]]]:
    """Yield messages with their session, each with the time of its session, and the questions about them.

    Raises:
        ConfigError: The file has another form.
    """
    try:
        for each in json.loads(path.read_text(encoding="utf-8")):
            yield _conversation(each)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{str(path)!r} is not BEAM as expected ({type(error).__name__}: {error}); give a list of "
            "conversations with messages (id, role, content, session, time) and questions (type, question, evidence)"
        ) from error


def _conversation(given: dict[str, Any]) -> tuple[list[tuple[str, dict[str, Any]]], list[Asked]]:
    told: list[tuple[str, dict[str, Any]]] = []
    position_of: dict[Any, int] = {}
    now = datetime(2024, 1, 1, tzinfo=UTC)
    for each in given["messages"]:
        if each.get("time"):
            now = datetime.strptime(each["time"], "%B-%d-%Y").replace(tzinfo=UTC)
        now += timedelta(minutes=1)
        said = {"role": each["role"], "content": each["content"], "created_at": now}
        told.append((f"session {each['session']}", said))
        position_of[each["id"]] = len(told)
    questions = [
        Asked(each["question"], frozenset(position_of[e] for e in each["evidence"] if e in position_of), each["type"])
        for each in given["questions"]
    ]
    return told, [question for question in questions if question.evidence]


def measure(path: Path, embedder: Embedder, progress: Advance = lambda *_: None) -> list[Row]:
    """Measure each kind of question, and all together.

    Raises:
        ConfigError: The file has another form.
    """
    shares: dict[str, dict[str, list[float]]] = {}
    every = list(conversations(path))
    for number, (told, questions) in enumerate(every):
        progress("BEAM", number, len(every))
        with Store.open("sqlite://", split=Cutting(embedder)) as store:
            for session, messages in _by_session(told):
                store.append("a", messages, session)
            retriever = Retriever(store.records, embedder)
            retriever.embed_missing("a")
            for question in questions:
                for way, positions in _ways(retriever, question.text):
                    share = len(question.evidence & set(positions)) / len(question.evidence)
                    for kind in (question.kind, OVERALL):
                        shares.setdefault(kind, {}).setdefault(way, []).append(share)
    kinds = [*sorted(kind for kind in shares if kind != OVERALL), *([OVERALL] if shares else [])]
    return [
        Row(kind, len(shares[kind][OURS]), {way: statistics.fmean(each) for way, each in shares[kind].items()})
        for kind in kinds
    ]


def _ways(retriever: Retriever, query: str) -> Iterator[tuple[str, Sequence[int]]]:
    """Positions of the first ten messages by each ranking method."""
    yield OURS, [record.position for record in retriever.search("a", query, FIRST)]
    candidates = retriever.candidates.find("a", query, Scope(), FIRST, print)
    assert candidates is not None and candidates.vector is not None
    snapshot = candidates.snapshot
    signals = signals_of(query, snapshot, candidates.vector, Question(query))
    for way, scores in BASELINES.items():
        order = np.argsort(-scores(signals), kind="stable")
        yield way, list(dict.fromkeys(snapshot.position[order].tolist()))[:FIRST]


def _meaning(signals: Signals) -> Floats:
    assert signals.meaning is not None
    return signals.meaning


def _by_session(told: Sequence[tuple[str, dict[str, Any]]]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Group consecutive messages of one session."""
    start = 0
    for end in range(1, len(told) + 1):
        if end == len(told) or told[end][0] != told[start][0]:
            yield told[start][0], [message for _, message in told[start:end]]
            start = end
