"""What has nothing in common with a question takes no place: not for a long text that stands beside an answer."""

from __future__ import annotations

import random

import numpy as np
import pytest

from deltamem_agents import DeltaMem

WORDS = ("alpha beta gamma delta epsilon zeta eta theta iota kappa lambda omicron sigma tau upsilon").split()
ANSWER = "My ferry to Narvik leaves at nine."


def page(seed: int, count: int = 60) -> str:
    chance = random.Random(seed)
    return " ".join(f"{' '.join(chance.choices(WORDS, k=12)).capitalize()}." for _ in range(count))


def by_words(texts):
    """A small embedder: the words of the ferry along one axis, all else along another."""
    ferry = ("ferry", "narvik", "sail")
    found = [[any(word in text.casefold() for word in ferry), 0.1, "row" in text.casefold()] for text in texts]
    vectors = np.array(found, np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture(scope="module", params=["words", "meaning"])
def mem(request):
    embedder = {"embedder": False} if request.param == "words" else {"embedder": by_words, "name": "ferry"}
    with DeltaMem.open(backbone=None, url="sqlite://", **embedder) as opened:
        yield opened


def told(mem, name, *messages):
    agent = mem.agent(name)
    agent.write([{"role": role, "content": content} for role, content in messages])
    agent.write([{"role": "user", "content": "I like cellos."}], "other")
    return agent


@pytest.mark.parametrize("k", [5, 20])
def test_tool_output_that_does_not_match_takes_no_place(mem, k):
    agent = told(
        mem,
        f"tool {k}",
        ("user", ANSWER),
        ("assistant", "Let me look at the ferry."),
        ("tool", page(1)),
        ("tool", "Rien."),
        ("assistant", "Noted."),
    )
    found = agent.recall("When does my ferry leave?", k=k).records
    assert found and found[0].text == ANSWER and "tool" not in {record.role for record in found}


@pytest.mark.parametrize("k", [5, 20])
def test_of_tool_output_the_pieces_that_match_are_given(mem, k):
    text = f"{page(2, 30)} The ferry sails from pier four. {page(3, 30)}"
    agent = told(mem, f"piece {k}", ("user", "Find out about it."), ("tool", text), ("assistant", "Noted."))
    found = agent.recall("Where does the ferry sail from?", k=k).records
    assert ["pier four" in record.text for record in found if record.role == "tool"] == [True]


@pytest.mark.parametrize("role", ["user", "assistant"])
def test_a_long_message_beside_an_answer_has_one_place(mem, role):
    agent = told(mem, f"beside {role}", ("user", ANSWER), (role, page(4)))
    found = agent.recall("When does my ferry leave?", k=20).records
    assert found[0].text == ANSWER and sum(record.role == role and record.text != ANSWER for record in found) <= 1


@pytest.mark.parametrize("role", ["user", "assistant"])
def test_of_a_long_message_that_matches_the_pieces_that_do_are_given(mem, role):
    text = f"{page(5, 30)} The ferry sails from pier four. {page(6, 30)}"
    agent = told(mem, f"within {role}", (role, text))
    found = agent.recall("Where does the ferry sail from?", k=20).records
    assert ["pier four" in record.text for record in found] == [True]


def test_an_answer_beside_its_question_is_still_found(mem):
    agent = told(mem, "exchange", ("user", "How often do you take the ferry?"), ("assistant", "Three times a week."))
    assert "Three times a week." in [record.text for record in agent.recall("How often the ferry?", k=5).records]
