"""Everyday facts: kept out of training, judged fairly, and measured without leaving anything behind."""

from __future__ import annotations

import pytest

from deltamem_agents import DeltaMem
from deltamem_agents.recall import says_every_word
from deltamem_agents.training import measure_everyday
from deltamem_agents.training.everyday import everyday_facts

pytestmark = pytest.mark.usefixtures("small_instead_of_tiny")


def test_each_answer_stands_in_what_is_said_and_no_fact_answers_two_questions() -> None:
    facts = everyday_facts()
    assert len(facts) >= 60
    for number, fact in enumerate(facts):
        assert says_every_word([fact.said], fact.answers[0]), fact
        assert fact.accepts(fact.answers[0])
        assert not any(other.accepts(fact.answers[0]) for place, other in enumerate(facts) if place != number), fact
    assert len({fact.asked for fact in facts}) == len({fact.said for fact in facts}) == len(facts)


def test_an_article_and_letter_case_do_not_count_but_more_words_do() -> None:
    fact = next(each for each in everyday_facts() if each.answers == ("kayak",))
    assert fact.accepts("a Kayak.") and fact.accepts("kayak")
    assert not fact.accepts("kayak I am saving up for") and not fact.accepts("") and not fact.accepts("ladder")


@pytest.mark.parametrize("size", [2])
def test_shares_add_up_and_the_agents_are_gone(size) -> None:
    with DeltaMem.open("tiny", url="sqlite://", embedder=False) as mem:
        (state, both) = measure_everyday(mem, sizes=(size,), episodes=2, modes=("state", "hybrid"))
        assert list(mem.agents()) == []
    assert (state.mode, both.mode, both.facts, both.questions) == ("state", "hybrid", size, 2 * size)
    for score in (state, both):
        assert 0 <= score.right + score.wrong <= 1 and 0 <= score.invented <= 1
