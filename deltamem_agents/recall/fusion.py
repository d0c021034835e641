"""Several signals about an agent's records into one score each. Arrays only: knows no record, no database, no model.

    score = WORDS z(words) + COVERED z(words covered around) + z(meaning) + AROUND z(meaning around)
            + NAMED [speaker named in the query] + OWN [query and record speak of their speaker]
            - MODEL [said by a model; for a summary and for what the model said, a bonus] - TOOL [said by a tool]
            + EXCHANGE best score of the other message of the exchange, for these two
    fused = score + SESSION z(best score of the session) + ANSWERING max(score of the question before, 0)
            + RULE [standing rule] + PREFERENCE [standing preference, where something is to be done]

z subtracts the mean over the agent's records and divides by their standard deviation, so that signals of different
units add up. What stands around a record is often what it is about: "Three times a week" answers the message before
it. Of words around, each of the query's counts once, where it stands nearest and tells most. The weights are the same
for every agent and every kind of conversation.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from deltamem_agents.recall.questions import Question
from deltamem_agents.recall.standing import PREFERENCE, RULE

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from deltamem_agents.recall.words import Hits

    Floats = NDArray[np.float32]
    Flags = NDArray[np.bool_]

REACH = 2  # records, or messages, on either side, of the same session
DECAY = 0.8  # of a word's score, a message away
WORDS = 0.35
COVERED = 0.5
AROUND = 0.25
NAMED = 2.0
OWN = 2.0
MODEL, MODEL_IN_SUMMARY, MODEL_ASKED_FOR = -1.5, 0.5, 1.0
TOOL = -3.0  # it says much, about everything
EXCHANGE = 0.6
SESSION = 0.3
ANSWERING = 0.3
OF_RULE, OF_PREFERENCE = 3.0, 1.0
SAME_MESSAGE = 3.0  # what each better piece of a message costs a piece
SAME_SESSION, SAME_SESSION_IN_ORDER = 0.05, 0.6  # and each better record of the session


@dataclass(frozen=True, slots=True)
class Sessions:
    """How N records, or messages, follow one another.

    Args:
        order: [N] records by session, and in the journal's order within one.
        of: [N] number of the session of each place in ``order``.
    """

    order: NDArray[np.int64]
    of: NDArray[np.int64]

    @classmethod
    def from_numbers(cls, sessions: NDArray[np.int64]) -> Sessions:
        """From each record's session, records being in the journal's order."""
        order = np.argsort(sessions, kind="stable")
        return cls(order, sessions[order])

    def around(self, values: Floats, reach: int = REACH) -> Floats:
        """Sums over each record and its neighbours; ``values`` is [N] or [N, D]."""
        sorted_values = values[self.order]
        sums = sorted_values.copy()
        for distance in range(1, min(reach, len(values) - 1) + 1):
            same = self.of[distance:] == self.of[:-distance]
            same = same.reshape(-1, *[1] * (values.ndim - 1))
            sums[distance:] += np.where(same, sorted_values[:-distance], 0)
            sums[:-distance] += np.where(same, sorted_values[distance:], 0)
        return self._back(sums)

    def before(self, values: Floats) -> Floats:
        """The value of the record before each, 0 where it is the session's first."""
        shifted = np.zeros_like(values)
        sorted_values = values[self.order]
        shifted[1:] = np.where(self.of[1:] == self.of[:-1], sorted_values[:-1], 0)
        return self._back(shifted)

    def after(self, values: Floats) -> Floats:
        """The value of the record after each, 0 where it is the session's last."""
        shifted = np.zeros_like(values)
        sorted_values = values[self.order]
        shifted[:-1] = np.where(self.of[1:] == self.of[:-1], sorted_values[1:], 0)
        return self._back(shifted)

    def best(self, values: Floats) -> Floats:
        """The greatest value of each record's session."""
        starts = np.flatnonzero(np.diff(self.of, prepend=-1))
        highest = np.maximum.reduceat(values[self.order], starts)
        return self._back(np.repeat(highest, np.diff([*starts, len(values)])))

    def covered(self, found: Iterable[tuple[NDArray[np.int64], Floats]]) -> Floats:
        """Of each term the greatest score among a record and its neighbours, less with distance; the sums over terms.

        Args:
            found: Places, each once, and scores there, of each term.
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
    """Which messages N records are pieces of; M of them.

    Args:
        of: [N] number of each record's message, rising.
        starts: [M] first record of each.
        sessions: How the messages follow one another.
        answers: [M] whether a model's message stands right behind a user's.
    """

    of: NDArray[np.int64]
    starts: NDArray[np.int64]
    sessions: Sessions
    answers: Flags

    @classmethod
    def from_positions(cls, positions: NDArray[np.int64], session: NDArray[np.int64], by_model: Flags) -> Messages:
        """From each record's place in the journal, its session, and whether a model or a tool said it."""
        new = np.diff(positions, prepend=-1) != 0
        starts = np.flatnonzero(new)
        sessions = Sessions.from_numbers(session[starts])
        of_model = by_model[starts].astype(np.float32)
        answers = (of_model > 0) & (sessions.before(1 - of_model) > 0)
        return cls(np.cumsum(new) - 1, starts, sessions, answers)

    def best(self, values: Floats) -> Floats:
        """The greatest value [M] of each message's records."""
        return np.maximum.reduceat(values, self.starts)

    def one_each(self, values: Floats) -> Flags:
        """Whether a record [N] has the greatest value of its message; the first of those that have it."""
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
        """For each record [N] the best of the other message of its exchange: a user's question, the model's answer."""
        best = np.maximum(self.best(values), 0)
        of_question = np.where(self.answers, self.sessions.before(best), 0)
        of_answer = self.sessions.after(np.where(self.answers, best, 0))
        return (of_question + of_answer).astype(np.float32)[self.of]


@dataclass(frozen=True, slots=True, kw_only=True)
class Signals:
    """What is known of N records and a query.

    Args:
        words: BM25 scores [N], 0 where no word is shared.
        covered: Scores [N] of the words in each message and around it; see `Messages.covered`.
        meaning: Cosines [N] with the query; None without an embedder.
        around: Cosines [N] of the query with the mean of each record's neighbourhood.
        named: [N] whether the query names who said it, and nobody else who spoke.
        own: [N] whether record and query both speak of their speaker ("my dog").
        asks: [N] whether a record is a question.
        by_model: [N] whether a model or a tool said it.
        by_tool: [N] whether a tool did.
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
    """One score [N] a record, higher for better; comparable within one query and agent only.

    Args:
        weights: How many of the agent's records each [N] stands for; None where these are all there are.
        question: What kind of query it is.
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
    """Scores [n] of records, less what those cost that stand behind better ones of their message and their session.

    Args:
        message, session: [n] numbers of each record's.
    """
    kind = question or Question("")
    cost = 0.0 if kind.summary else SAME_SESSION_IN_ORDER if kind.order else SAME_SESSION
    less = scores - SAME_MESSAGE * _better(scores, message)
    result: Floats = (less - cost * _better(less, session)).astype(np.float32)
    return result


def _better(scores: Floats, group: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many of a record's group stand before it by score."""
    order = np.lexsort((-np.arange(len(scores)), -scores, group))
    sorted_group = group[order]
    firsts = np.flatnonzero(np.diff(sorted_group, prepend=sorted_group[:1] - 1))
    sizes = np.diff([*firsts, len(scores)])
    result = np.empty(len(scores), np.int64)
    result[order] = np.arange(len(scores)) - np.repeat(firsts, sizes)
    return result


def standardised(values: Floats, weights: Floats | None = None) -> Floats:
    """With mean 0 and standard deviation 1, of as many as each stands for; zeros where all are the same."""
    if weights is None:
        mean, deviation = (values.mean(), values.std()) if len(values) else (0.0, 0.0)
    else:
        mean = np.average(values, weights=weights)
        deviation = np.sqrt(np.average((values - mean) ** 2, weights=weights))
    if deviation < 1e-9:
        return np.zeros_like(values)
    result: Floats = ((values - mean) / deviation).astype(values.dtype)
    return result
