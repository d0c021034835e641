"""Ranks the records of a snapshot for a query: what speaks for each, which of them fit, and the best in order."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from deltamem_agents.recall.fusion import Signals, varied
from deltamem_agents.recall.questions import Question
from deltamem_agents.recall.snapshot import Snapshot
from deltamem_agents.recall.statements import RULE
from deltamem_agents.recall.words import looked_for, speaks_of_self

if TYPE_CHECKING:
    from numpy.typing import NDArray

WIDER = 4  # records considered per candidate, so that candidates come from several messages and sessions
BEFORE = 0.25  # weight of a word from the turns before the query, relative to the query's own words
RESEMBLING = 0.25  # cosine from which a record resembles the query; on LoCoMo even 0.4 loses no evidence of the top 10


def signals_of(query: str, snapshot: Snapshot, vector: NDArray[np.float32] | None, question: Question) -> Signals:
    """What speaks for each of the N records of a snapshot.

    Args:
        vector: The query's vector [dim]; None if there is no embedder.
    """
    meaning = around = None
    if snapshot.vectors is not None and vector is not None and not snapshot.blank.all():
        # Rounded, so that equal texts tie regardless of the order in which a BLAS adds.
        meaning = np.round(snapshot.vectors @ vector, 6)
        around = snapshot.sessions.around(meaning) / snapshot.lengths
        if snapshot.blank.any():  # no vector: neither near nor far
            meaning[snapshot.blank] = meaning[~snapshot.blank].mean()
            around[snapshot.blank] = around[~snapshot.blank].mean()
    found = snapshot.words.found(question.topic, snapshot.weights)
    if question.context:
        known = looked_for(question.topic)
        before = snapshot.words.found(question.context, snapshot.weights, without=known)
        found += [(places, np.float32(BEFORE) * scores) for places, scores in before]
    return Signals(
        words=snapshot.words.total(found),
        covered=snapshot.messages.covered(found),
        meaning=meaning,
        around=around,
        named=snapshot.named(query),
        own=snapshot.own & speaks_of_self(query),
        asks=snapshot.asks,
        by_model=snapshot.by_model,
        by_tool=snapshot.by_tool,
        standing=snapshot.standing,
    )


def spoken_for(
    signals: Signals, snapshot: Snapshot, question: Question, fused: NDArray[np.float32]
) -> NDArray[np.bool_]:
    """Which records share a word with the query or resemble it, or are neighbours of one that does.

    Of a neighbouring message only the best piece counts, unless the query asks for a summary. Tool output does not
    count as a neighbour. Of a message with pieces that share a word with the query or resemble it, only these pieces
    count. If the query asks to do something, rules always count, because they apply to queries that do not resemble
    them.
    """
    itself, beside = signals.words > 0, signals.covered > 0
    if signals.meaning is not None and signals.around is not None:
        itself |= (signals.meaning >= RESEMBLING) & ~snapshot.blank
        beside |= (signals.around >= RESEMBLING) & ~snapshot.blank
    if not question.summary:
        beside &= snapshot.messages.one_each(np.where(itself, np.float32(np.inf), fused))
    found = itself | (beside & ~signals.by_tool)
    if question.doing:
        found |= signals.standing == RULE
    return found


def ranked(
    fused: NDArray[np.float32], allowed: NDArray[np.bool_], count: int, snapshot: Snapshot, question: Question
) -> dict[int, float]:
    """Keys and scores of the best allowed records, best first, spread over several messages and sessions."""
    places = np.array(best(fused, allowed, WIDER * count), np.int64)
    scores = varied(fused[places], snapshot.messages.of[places], snapshot.session[places], question)
    order = np.argsort(-scores, kind="stable")[:count]
    return {int(snapshot.keys[places[i]]): float(scores[i]) for i in order}


def best(scores: NDArray[np.float32], allowed: NDArray[np.bool_], count: int) -> list[int]:
    """Indices of the highest allowed scores, best first; of equals, the newer first."""
    places = np.flatnonzero(allowed)
    if len(places) > count:
        least = np.partition(scores[places], len(places) - count)[len(places) - count]
        places = places[scores[places] >= least]
    order = np.lexsort((-places, -scores[places]))[:count]
    return [int(place) for place in places[order]]


def relevance(score: float) -> float:
    """A fused score, mapped to 0..1."""
    return float(1 / (1 + np.exp(-score / 4)))
