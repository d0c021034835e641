"""Signals into scores: each against a plain loop, and what each is there for."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deltamem_agents.recall.fusion import DECAY, REACH, Messages, Sessions, Signals, fuse, standardised, varied
from deltamem_agents.recall.questions import Question
from deltamem_agents.recall.statements import RULE

Lists = list[int]


@settings(max_examples=60, deadline=None)
@given(numbers=st.lists(st.integers(0, 3), min_size=1, max_size=30), data=st.data())
def test_neighbours_are_those_of_the_same_session(numbers: Lists, data: st.DataObject) -> None:
    values = np.array(data.draw(st.lists(st.integers(-9, 9), min_size=len(numbers), max_size=len(numbers))), np.float32)
    sessions = Sessions.from_numbers(np.array(numbers))
    for place, session in enumerate(numbers):
        own = [i for i, each in enumerate(numbers) if each == session]
        at = own.index(place)
        assert sessions.around(values)[place] == sum(values[i] for i in own[max(0, at - REACH) : at + REACH + 1])
        assert sessions.before(values)[place] == (values[own[at - 1]] if at else 0)
        assert sessions.best(values)[place] == max(values[i] for i in own)
    rows = np.stack([values, -values], axis=1)
    assert np.array_equal(sessions.around(rows)[:, 1], -sessions.around(values))


@settings(max_examples=60, deadline=None)
@given(numbers=st.lists(st.integers(0, 3), min_size=1, max_size=20), data=st.data())
def test_what_is_covered_is_the_best_near_of_each_term(numbers: Lists, data: st.DataObject) -> None:
    count = len(numbers)
    term = st.dictionaries(st.integers(0, count - 1), st.floats(0.5, 9, width=32), max_size=count)
    terms = data.draw(st.lists(term, max_size=3))
    order = Sessions.from_numbers(np.array(numbers))
    found = [(np.array(sorted(t), np.int64), np.array([t[i] for i in sorted(t)], np.float32)) for t in terms]
    covered = order.covered(found)
    for place, session in enumerate(numbers):
        own = [i for i, each in enumerate(numbers) if each == session]
        near = {i: abs(own.index(i) - own.index(place)) for i in own}
        expected = sum(
            max((t[i] * DECAY**d for i, d in near.items() if d <= REACH and i in t), default=0) for t in terms
        )
        assert covered[place] == pytest.approx(expected, rel=1e-5)


def test_a_message_of_many_pieces_stands_beside_its_neighbours() -> None:
    """A question's answer in six pieces reaches back to the question with each of them."""
    scores = fused([4.0, 0, 0, 0, 0, 0, 0, 0, 0, 0], of=[0, 1, 1, 1, 1, 1, 1, 2, 3, 4])
    assert scores[6] == scores[1] > scores[9]


def test_a_model_comes_after_the_user_unless_asked_for() -> None:
    assert best(fused([0, 0, 5, 5.5, 0, 0, 0, 0], by_model=[3])) == 2
    asked = Question("x", of_model=True)
    assert best(fused([0, 0, 5, 5.5, 0, 0, 0, 0], by_model=[3], question=asked)) == 3


def test_a_tool_comes_after_a_person_and_a_model_whatever_is_asked() -> None:
    words = [0, 0, 5, 6.5, 0, 0, 0, 0]
    for question in (None, Question("x", of_model=True), Question("x", summary=True)):
        assert best(fused(words, by_model=[3], by_tool=[3], question=question)) == 2
    of_both = fused(words, by_model=[2, 3], by_tool=[3])
    assert of_both[2] > of_both[3]
    alone = [0.0] * 40
    alone[7] = 6.5
    scores = fused(alone, by_model=[7], by_tool=[7])  # where nobody else said it, it comes after what stands around it
    assert sorted(np.argsort(-scores)[:5].tolist()) == [5, 6, 7, 8, 9]


def test_a_rule_stands_without_a_shared_word() -> None:
    assert best(fused([0, 1, 0, 1, 0, 0, 0, 1], rules=[4])) == 4


def test_pieces_of_one_message_do_not_take_all_places() -> None:
    scores = np.array([5.0, 4.9, 4.8, 4.7], np.float32)
    of_one, sessions = np.array([0, 0, 0, 1]), np.zeros(4, np.int64)
    assert np.argsort(-varied(scores, of_one, sessions)).tolist() == [0, 3, 1, 2]
    alone = varied(scores, np.arange(4), np.arange(4))
    assert alone.tolist() == scores.tolist()


def test_standardised() -> None:
    assert standardised(np.array([1, 2, 3], np.float32)) == pytest.approx([-1.2247449, 0, 1.2247449])
    assert standardised(np.full(4, 7, np.float32)).tolist() == [0] * 4
    assert standardised(np.zeros(0, np.float32)).tolist() == []


def fused(
    words: list[float],
    *,
    meaning: list[float] | None = None,
    sessions: Lists | None = None,
    question=None,
    **given: Lists,
):  # type: ignore[no-untyped-def]
    count = len(words)
    numbers = np.array(sessions or [0] * count)
    order = Sessions.from_numbers(numbers)
    cosines = None if meaning is None else np.array(meaning, np.float32)
    kinds = ("named", "own", "asks", "by_model", "by_tool")
    flags = {name: np.isin(np.arange(count), given.get(name, [])) for name in kinds}
    around = None if cosines is None else order.around(cosines)
    messages = Messages.from_positions(np.array(given.get("of", range(count))), numbers, flags["by_model"])
    scores = np.array(words, np.float32)
    places = np.flatnonzero(scores)
    signals = Signals(
        words=scores,
        covered=messages.covered([(places.astype(np.int32), scores[places])]),
        meaning=cosines,
        around=around,
        standing=np.isin(np.arange(count), given.get("rules", [])).astype(np.int8) * RULE,
        **flags,
    )
    return fuse(signals, order, messages, question=question)


def best(scores) -> int:  # type: ignore[no-untyped-def]
    return int(scores.argmax())


def test_words_and_meaning_both_count() -> None:
    assert best(fused([0, 0, 5, 0, 0, 0, 0, 0])) == 2
    assert best(fused([0] * 8, meaning=[0, 0, 0, 0, 0, 0.9, 0, 0])) == 5
    assert best(fused([3, 0, 0, 0, 0, 0, 0, 3], meaning=[0, 0, 0, 0, 0, 0, 0, 0.5])) == 7


def test_what_stands_beside_a_hit_comes_before_what_stands_alone() -> None:
    scores = fused([0, 0, 0, 4, 0, 0, 0, 0, 0, 0])
    assert scores[2] == scores[4] > scores[7]


def test_an_answer_follows_its_question() -> None:
    scores = fused([0, 0, 0, 4, 0, 0, 0, 0, 0, 0], asks=[3])
    assert scores[4] > scores[2]


def test_who_is_named_said_it() -> None:
    assert best(fused([0, 3, 0, 0, 0, 3, 0, 0, 0], named=[5])) == 5


def test_a_session_that_is_about_it_comes_before_one_that_is_not() -> None:
    words = [1.0, 0, 0, 0, 1, 0, 0, 9]
    scores = fused(words, sessions=[0, 0, 0, 0, 1, 1, 1, 1])
    assert best(scores) == 7 and scores[4] > scores[0]


def test_one_record_alone() -> None:
    assert np.isfinite(fused([3.0], meaning=[0.4])).all()
