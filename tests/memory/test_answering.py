"""What is answered from the state, from records, from both or not at all, with the bundled model."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from deltamem_agents import DeltaMem
from deltamem_agents.core import Calibration, Logistic
from deltamem_agents.memory.answering import ask, draw
from deltamem_agents.recall import HEADER

FACTS = ("My favourite colour is teal.", "Mara plays the cello.", "Thanks for the report.")
COLOUR, INSTRUMENT, DRINK = "What is my favourite colour?", "Which instrument does Mara play?", "What is Mara's job?"


@pytest.fixture(scope="module")
def mem() -> Iterator[DeltaMem]:
    with DeltaMem.open("tiny", url="sqlite://", embedder=False) as opened:
        opened.agent("a").write([{"role": "user", "content": text} for text in FACTS])
        yield opened


def lines(*texts: str) -> str:
    return "\n".join([HEADER, *(f"- user: {text}" for text in texts)])


@pytest.mark.parametrize(("mode", "source"), [("state", "state"), ("vector", "records"), ("hybrid", "both")])
def test_what_was_said_is_answered_and_attributed(mem: DeltaMem, mode: str, source: str) -> None:
    for question, answer in ((COLOUR, "teal"), (INSTRUMENT, "cello")):
        found = mem.agent("a").recall(question, mode=mode)
        assert (found.answer, found.source) == (answer, source) and found.confidence > 0.9
    assert found.usage.prompt_tokens > 0 and found.usage.answer_tokens > 0


@pytest.mark.parametrize("mode", ["state", "vector", "hybrid"])
@pytest.mark.parametrize("question", [DRINK, "Who are you?", "🙂", "'; DROP TABLE messages; --"])
def test_what_was_not_said_is_not_answered(mem: DeltaMem, mode: str, question: str) -> None:
    found = mem.agent("a").recall(question, mode=mode)
    assert found.answer is None and found.source == "neither" and found.confidence < 0.5
    assert mode != "state" or found.text == ""


def test_where_they_disagree_the_records_win(mem: DeltaMem) -> None:
    folded = mem.folder.current("a")
    assert ask(mem.engine, COLOUR, "", folded).text == "teal"
    found = ask(mem.engine, COLOUR, lines("My favourite colour is crimson."), folded)
    assert found.text == "crimson" and found.source == "records"


def test_what_no_record_says_the_state_still_does_where_it_is_sure(mem: DeltaMem) -> None:
    folded = mem.folder.current("a")
    found = ask(mem.engine, COLOUR, lines("Hugo has a dog called Biscuit."), folded)
    assert found.text == "teal" and found.source == "state"


def test_a_doubtful_state_keeps_silent_where_records_do(mem: DeltaMem, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mem.engine, "calibration", Calibration(state=Logistic(bias=1.0, slope=0.0)))  # 0.73 always
    folded = mem.folder.current("a")
    assert ask(mem.engine, COLOUR, "", folded).text == "teal"
    found = ask(mem.engine, COLOUR, lines("Hugo has a dog called Biscuit."), folded)
    assert found.text is None and found.source == "neither" and found.confidence == pytest.approx(0.731, abs=1e-3)
    assert found.generation.text == "teal" or found.generation.text  # what was withheld is still told


def test_both_answers_are_drawn_with_what_raises_them(mem: DeltaMem) -> None:
    read, remembered = draw(mem.engine, COLOUR, lines("My favourite colour is crimson."), mem.folder.current("a"))
    assert read.generation.text == "crimson" and read.by_records > 0.9 > 0.1 > read.by_state
    assert remembered.generation.text == "teal" and remembered.by_state > 0.9 > 0.1 > remembered.by_records


def test_with_neither_the_backbone_is_heard_and_not_believed(mem: DeltaMem) -> None:
    (only,) = draw(mem.engine, COLOUR, "", None)
    assert only.by_state == only.by_records == 0
    assert ask(mem.engine, COLOUR, "", None).text is None


def test_the_states_hint_is_text_for_a_prompt_within_the_budget(mem: DeltaMem) -> None:
    agent = mem.agent("a")
    assert agent.recall(COLOUR, mode="state").text == "Memory suggests: teal"
    assert agent.recall(COLOUR, mode="state", budget=1).text == ""
    hinted = agent.recall(COLOUR, budget=0)  # no record fits, so the state answers alone
    assert hinted.answer == "teal" and hinted.source == "state" and hinted.text == ""
