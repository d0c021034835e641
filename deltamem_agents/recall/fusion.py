"""Combine several signals about an agent's records into one score for each. Works on arrays only.

    score = WORDS z(words) + COVERED z(words covered around) + z(meaning) + AROUND z(meaning around)
            + NAMED [speaker named in the query] + OWN [query and record speak of their speaker]
            - MODEL [by a model; a bonus if the query asks for a summary or for what the model said] - TOOL [by a tool]
            + EXCHANGE best score of the other message of the exchange, for these two kinds of query
    fused = score + SESSION z(best score of the session) + ANSWERING max(score of the question before, 0)
            + RULE [standing rule] + PREFERENCE [standing preference, if the query asks to do something]

z subtracts the mean over the agent's records and divides by their standard deviation, so that signals of different
units can be added. The messages around a record often tell what it is about: "Three times a week" answers the message
before it. Of the words around, each word of the query counts once, where its score, reduced by distance, is highest.
The weights are the same for every agent and every kind of conversation.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from deltamem_agents.recall.questions import Question
from deltamem_agents.recall.statements import PREFERENCE, RULE

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from deltamem_agents.recall.words import Hits

    Floats = NDArray[np.float32]
    Flags = NDArray[np.bool_]

REACH = 2  # neighbouring records, or messages, on each side, in the same session
DECAY = 0.8  # factor of a word's score for each message of distance
WORDS = 0.35
COVERED = 0.5
AROUND = 0.25
NAMED = 2.0
OWN = 2.0
MODEL, MODEL_IN_SUMMARY, MODEL_ASKED_FOR = -1.5, 0.5, 1.0
TOOL = -3.0  # tool output is long and matches many queries
EXCHANGE = 0.6
SESSION = 0.3
ANSWERING = 0.3
OF_RULE, OF_PREFERENCE = 3.0, 1.0
SAME_MESSAGE = 3.0  # subtracted from a record for each better record of its message
SAME_SESSION, SAME_SESSION_IN_ORDER = 0.05, 0.6  # and for each better record of its session


@dataclass(frozen=True, slots=True)
class Sessions:
    """The order of N records, or messages, within their sessions.

    Args:
        order: [N] indices of records, sorted by session and then in the journal's order.
        of: [N] session number of each entry of ``order``.
    """

    order: NDArray[np.int64]
    of: NDArray[np.int64]

    @classmethod
    def from_numbers(cls, sessions: NDArray[np.int64]) -> Sessions:
        """Make it from the session number of each record [N], in the journal's order."""
        order = np.argsort(sessions, kind="stable")
        return cls(order, sessions[order])

    def around(self, values: Floats, reach: int = REACH) -> Floats:
        """Sums of ``values`` ([N] or [N, D]) over each record and its neighbours."""
        sorted_values = values[self.order]
        sums = sorted_values.copy()
        for distance in range(1, min(reach, len(values) - 1) + 1):
            same = self.of[distance:] == self.of[:-distance]
            same = same.reshape(-1, *[1] * (values.ndim - 1))
            sums[distance:] += np.where(same, sorted_values[:-distance], 0)
            sums[:-distance] += np.where(same, sorted_values[distance:], 0)
        return self._back(sums)

    def before(self, values: Floats) -> Floats:
        """For each record the value of the one before it; 0 for the first of a session."""
        shifted = np.zeros_like(values)
        sorted_values = values[self.order]
        shifted[1:] = np.where(self.of[1:] == self.of[:-1], sorted_values[:-1], 0)
        return self._back(shifted)

    def after(self, values: Floats) -> Floats:
        """For each record the value of the one after it; 0 for the last of a session."""
        shifted = np.zeros_like(values)
        sorted_values = values[self.order]
        shifted[:-1] = np.where(self.of[1:] == self.of[:-1], sorted_values[1:], 0)
        return self._back(shifted)

    def best(self, values: Floats) -> Floats:
        """For each record the greatest value in its session."""
        starts = np.flatnonzero(np.diff(self.of, prepend=-1))
        highest = np.maximum.reduceat(values[self.order], starts)
        return self._back(np.repeat(highest, np.diff([*starts, len(values)])))

    def covered(self, found: Iterable[tuple[NDArray[np.int64], Floats]]) -> Floats:
        """For each record the sum over terms of the greatest score at it or a neighbour, reduced with distance.

        Args:
            found: For each term, the indices of records, without repeats, and the scores there.
        """
        count = len(self.order)
        rank = np.empty(count, np.int64)
        rank[self.order] = np.arange(count)
        total = np.zeros(count, np.float32)
        for places, scores in found:
            at = rank[places]
            nearest = np.zeros(count, np.float32)
            for distance in range(-REACH, REACH + 1):
                near = at + distance
                inside = (near >= 0) & (near < count)
                inside[inside] = self.of[near[inside]] == self.of[at[inside]]
                near = near[inside]
                nearest[near] = np.maximum(nearest[near], scores[inside] * np.float32(DECAY ** abs(distance)))
            total += nearest
        return self._back(total)

    def _back(self, sorted_values: Floats) -> Floats:
        result = np.empty_like(sorted_values)
        result[self.order] = sorted_values
        return result


@dataclass(frozen=True, slots=True)
class Messages:
    """The M messages that N records are pieces of.

    Args:
        of: [N] number of each record's message, ascending.
        starts: [M] first record of each message.
        sessions: The order of the messages within their sessions.
        answers: [M] whether a message is a model's and directly follows a user's.
    """

    of: NDArray[np.int64]
    starts: NDArray[np.int64]
    sessions: Sessions
    answers: Flags

    @classmethod
    def from_positions(cls, positions: NDArray[np.int64], session: NDArray[np.int64], by_model: Flags) -> Messages:
        """Make it from each record's journal position, its session, and whether a model or a tool wrote it."""
        new = np.diff(positions, prepend=-1) != 0
        starts = np.flatnonzero(new)
        sessions = Sessions.from_numbers(session[starts])
        of_model = by_model[starts].astype(np.float32)
        answers = (of_model > 0) & (sessions.before(1 - of_model) > 0)
        return cls(np.cumsum(new) - 1, starts, sessions, answers)

    def best(self, values: Floats) -> Floats:
        """For each message [M] the greatest value of its records."""
        return np.maximum.reduceat(values, self.starts)

    def one_each(self, values: Floats) -> Flags:
        """Whether each record [N] has the greatest value in its message; of equals, only the first."""
        highest = np.flatnonzero(values >= self.best(values)[self.of])
        firsts = highest[np.flatnonzero(np.diff(self.of[highest], prepend=-1))]
        result = np.zeros(len(values), bool)
        result[firsts] = True
        return result

    def covered(self, found: Iterable[Hits]) -> Floats:
        """`Sessions.covered` by messages, for each record [N]."""

        def by_message(places: NDArray[np.int32], scores: Floats) -> tuple[NDArray[np.int64], Floats]:
            numbers = self.of[places]
            firsts = np.flatnonzero(np.diff(numbers, prepend=-1))
            return numbers[firsts], np.maximum.reduceat(scores, firsts)

        return self.sessions.covered(by_message(places, scores) for places, scores in found)[self.of]

    def other(self, values: Floats) -> Floats:
        """For each record [N] the best value of the other message of its exchange (question or answer); else 0."""
        best = np.maximum(self.best(values), 0)
        of_question = np.where(self.answers, self.sessions.before(best), 0)
        of_answer = self.sessions.after(np.where(self.answers, best, 0))
        return (of_question + of_answer).astype(np.float32)[self.of]


@dataclass(frozen=True, slots=True, kw_only=True)
class Signals:
    """Signals about N records and a query.

    Args:
        words: BM25 scores [N]; 0 for a record that shares no word with the query.
        covered: Scores [N] of the words in each message and around it; see `Messages.covered`.
        meaning: Cosines [N] with the query; None without an embedder.
        around: Cosines [N] of the query with the mean of each record's neighbourhood.
        named: [N] whether the query names the record's speaker, and no other speaker.
        own: [N] whether record and query both speak of their own writer ("my dog").
        asks: [N] whether the record is a question.
        by_model: [N] whether a model or a tool wrote it.
        by_tool: [N] whether a tool wrote it.
        standing: [N] whether it is a rule or a preference; see `standing`.
    """

    words: Floats
    covered: Floats
    meaning: Floats | None
    around: Floats | None
    named: Flags
    own: Flags
    asks: Flags
    by_model: Flags
    by_tool: Flags
    standing: NDArray[np.int8]


def fuse(
    signals: Signals,
    sessions: Sessions,
    messages: Messages,
    weights: Floats | None = None,
    question: Question | None = None,
) -> Floats:
    """One score for each record [N], higher for better; comparable within one query and agent only.

    Args:
        weights: How many of the agent's records each record stands for [N]; None if these are all of them.
        question: The kind of the query.
    """
    z = partial(standardised, weights=weights)
    kind = question or Question("")
    score = WORDS * z(signals.words) + COVERED * z(signals.covered)
    if signals.meaning is not None and signals.around is not None:
        score = score + z(signals.meaning) + AROUND * z(signals.around)
    model = MODEL_IN_SUMMARY if kind.summary else MODEL_ASKED_FOR if kind.of_model else MODEL
    said_by = np.where(signals.by_tool, TOOL, np.where(signals.by_model, model, 0.0))
    score = score + NAMED * signals.named + OWN * signals.own + said_by
    if kind.summary or kind.of_model:
        score = score + EXCHANGE * messages.other(score.astype(np.float32))
    score = score.astype(np.float32)
    asked = sessions.before(np.where(signals.asks, np.maximum(score, 0), 0))
    result: Floats = score + SESSION * z(sessions.best(score)) + ANSWERING * asked
    if not (kind.summary or kind.order):
        result = result + OF_RULE * (signals.standing == RULE)
        result = result + OF_PREFERENCE * ((signals.standing == PREFERENCE) & kind.doing)
    return result.astype(np.float32)


def varied(
    scores: Floats, message: NDArray[np.int64], session: NDArray[np.int64], question: Question | None = None
) -> Floats:
    """Scores [n], reduced for each better record of the same message and of the same session.

    Args:
        message, session: [n] numbers of each record's message and session.
    """
    kind = question or Question("")
    cost = 0.0 if kind.summary else SAME_SESSION_IN_ORDER if kind.order else SAME_SESSION
    less = scores - SAME_MESSAGE * _better(scores, message)
    result: Floats = (less - cost * _better(less, session)).astype(np.float32)
    return result


def _better(scores: Floats, group: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each record the number of better ones in its group; of equals, the earlier is better."""
    order = np.lexsort((-np.arange(len(scores)), -scores, group))
    sorted_group = group[order]
    firsts = np.flatnonzero(np.diff(sorted_group, prepend=sorted_group[:1] - 1))
    sizes = np.diff([*firsts, len(scores)])
    result = np.empty(len(scores), np.int64)
    result[order] = np.arange(len(scores)) - np.repeat(firsts, sizes)
    return result


def standardised(values: Floats, weights: Floats | None = None) -> Floats:
    """``values`` with weighted mean 0 and standard deviation 1; zeros if all are equal."""
    if weights is None:
        mean, deviation = (values.mean(), values.std()) if len(values) else (0.0, 0.0)
    else:
        mean = np.average(values, weights=weights)
        deviation = np.sqrt(np.average((values - mean) ** 2, weights=weights))
    if deviation < 1e-9:
        return np.zeros_like(values)
    result: Floats = ((values - mean) / deviation).astype(values.dtype)
    return result
