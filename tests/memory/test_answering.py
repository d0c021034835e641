"""What is answered from the state, from records, from both or not at all, with the bundled model."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import replace

import pytest
import torch

from deltamem_agents import DeltaMem
from deltamem_agents.core import Calibration, Logistic, state_norm
from deltamem_agents.engine.generation import Generation
from deltamem_agents.errors import ConfigError
from deltamem_agents.memory.answering import ask, draw, preload
from deltamem_agents.memory.async_methods import run
from deltamem_agents.recall import HEADER, recall_text

pytestmark = pytest.mark.bundled

FACTS = ("My favourite colour is teal.", "Mara plays the cello.", "Thanks for the report.")
COLOUR, INSTRUMENT, DRINK = "What is my favourite colour?", "Which instrument does Mara play?", "What is Mara's job?"


@pytest.fixture(scope="module")
def mem() -> Iterator[DeltaMem]:
    with DeltaMem.open("tiny", url="sqlite://", embedder=False) as opened:
        opened.agent("a").write([{"role": "user", "content": text} for text in FACTS])
        yield opened


def lines(*texts: str) -> str:
    return "\n".join([HEADER, *(f"- user: {text}" for text in texts)])


def done(generation: Generation) -> Future[Generation]:
    future = Future[Generation]()
    future.set_result(generation)
    return future


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
    folded = mem.runtime.folder.current("a")
    assert run(ask(mem.engine, COLOUR, "", folded)).text == "teal"
    found = run(ask(mem.engine, COLOUR, lines("My favourite colour is crimson."), folded))
    assert found.text == "crimson" and found.source == "records"


def test_what_no_record_says_the_state_still_does_where_it_is_sure(
    mem: DeltaMem, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mem.engine, "calibration", Calibration())
    folded = mem.runtime.folder.current("a")
    found = run(ask(mem.engine, COLOUR, lines("Hugo has a dog called Biscuit."), folded))
    assert found.text == "teal" and found.source == "state"


def test_a_doubtful_state_keeps_silent_where_records_do(mem: DeltaMem, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mem.engine, "calibration", Calibration(state=Logistic(bias=1.0, slope=0.0)))  # 0.73 always
    folded = mem.runtime.folder.current("a")
    assert run(ask(mem.engine, COLOUR, "", folded)).text == "teal"
    found = run(ask(mem.engine, COLOUR, lines("Hugo has a dog called Biscuit."), folded))
    assert found.text is None and found.source == "neither"
    assert found.confidence == pytest.approx(0.214, abs=1e-3)  # odds of 2.718, of which a tenth
    assert found.generation.text == "teal"  # what was withheld


def test_words_that_no_record_holds_are_doubted(mem: DeltaMem, monkeypatch: pytest.MonkeyPatch) -> None:
    (read,) = run(draw(mem.engine, COLOUR, lines("My favourite colour is crimson."), None))
    assert read.quoted
    spoken = replace(read.generation, text="crim")  # as if the value had been cut short
    for generation, answered in ((read.generation, "crimson"), (spoken, None)):
        monkeypatch.setattr(mem.engine, "generate", lambda *_, said=generation, **__: done(said))
        found = run(ask(mem.engine, COLOUR, lines("My favourite colour is crimson."), None))
        assert found.text == answered and found.generation.text == generation.text
        assert (found.confidence > 0.9) == (answered is not None)
    (guessed,) = run(draw(mem.engine, COLOUR, lines("My favourite colour is crimson."), None))
    assert not guessed.quoted and guessed.by_records > 0.9


def test_both_answers_are_drawn_with_what_raises_them(mem: DeltaMem) -> None:
    read, remembered = run(
        draw(mem.engine, COLOUR, lines("My favourite colour is crimson."), mem.runtime.folder.current("a"))
    )
    assert read.generation.text == "crimson" and read.by_records > 0.9 > 0.1 > read.by_state
    assert remembered.generation.text == "teal" and remembered.by_state > 0.9 > 0.1 > remembered.by_records


def test_with_neither_the_backbone_is_heard_and_not_believed(mem: DeltaMem) -> None:
    (only,) = run(draw(mem.engine, COLOUR, "", None))
    assert only.by_state == only.by_records == 0
    assert run(ask(mem.engine, COLOUR, "", None)).text is None


def test_the_states_hint_is_text_for_a_prompt_within_the_budget(mem: DeltaMem) -> None:
    agent = mem.agent("a")
    hinted = agent.recall(COLOUR, mode="state")
    assert "\nMemory suggests: teal\n" in hinted.text and hinted.usage.context_tokens > 0
    assert agent.recall(COLOUR, mode="state", budget=hinted.usage.context_tokens).text == hinted.text
    assert agent.recall(COLOUR, mode="state", budget=10).text == "Memory suggests: teal"
    assert agent.recall(COLOUR, mode="state", budget=1).text == ""
    hinted = agent.recall(COLOUR, budget=0)  # no record fits, so the state answers alone
    assert hinted.answer == "teal" and hinted.source == "state" and hinted.text == ""


def test_where_both_agree_a_lean_recall_gives_only_what_says_it(mem: DeltaMem) -> None:
    agent = mem.agent("a")
    full, lean = agent.recall(COLOUR), agent.recall(COLOUR, lean=True)
    assert full.source == lean.source == "both" and lean.answer == "teal"
    assert [record.text for record in lean.records] == [FACTS[0]] and len(full.records) > 1
    assert lean.text == recall_text(lean.records) and lean.usage.context_tokens < full.usage.context_tokens
    for question, mode in ((COLOUR, "vector"), (DRINK, "hybrid")):  # nothing agrees
        assert agent.recall(question, mode=mode, lean=True).records == agent.recall(question, mode=mode).records


@pytest.mark.parametrize("handover", ["preload", "both"])
def test_records_are_handed_over_through_a_scratch_state(mem: DeltaMem, handover: str) -> None:
    agent = mem.agent("a")
    before = agent.state()
    for mode in ("vector", "hybrid"):
        found = agent.recall(COLOUR, mode=mode, handover=handover)
        assert found.answer == "teal" and found.source == ("both" if mode == "hybrid" else "records")
        assert found.records and (found.usage.context_tokens == 0) == (found.text == "") == (handover == "preload")
    assert agent.recall(DRINK, mode="vector", handover=handover).answer is None
    assert all(torch.equal(before[name], matrix) for name, matrix in agent.state().items())  # only a copy was written


def test_a_scratch_state_is_that_of_the_records_alone(mem: DeltaMem) -> None:
    record = mem.agent("a").recall(INSTRUMENT, k=1, generate=False).records
    mem.agent("b").write([{"role": "user", "content": record[0].text}])
    alone, empty = mem.agent("b").state(), run(preload(mem.engine, None, []))
    assert all(torch.allclose(alone[n], matrix) for n, matrix in run(preload(mem.engine, None, record)).items())
    assert all(not matrix.any() for matrix in empty.values())


def test_a_reply_is_generated_under_the_preloaded_state(mem: DeltaMem) -> None:
    question = [{"role": "user", "content": COLOUR}]
    agent = mem.agent("a")
    by_text = agent.generate(question, mode="vector")
    by_state = agent.generate(question, mode="vector", handover="preload")
    assert by_text.text == by_state.text == "teal"
    assert by_state.usage.prompt_tokens < by_text.usage.prompt_tokens and by_state.usage.context_tokens == 0
    assert by_state.recall.records and by_state.recall.text == ""
    assert str([*agent.stream(question, mode="vector", handover="preload")][-1]) == "teal"


def test_an_unknown_way_of_handing_over_is_refused(mem: DeltaMem) -> None:
    for call in (
        mem.agent("a").recall,
        lambda text, **rest: mem.agent("a").generate([{"role": "user", "content": text}], **rest),
    ):
        with pytest.raises(ConfigError, match="handover 'post' is not one of context, preload, both"):
            call(COLOUR, handover="post")


def test_a_state_that_is_too_full_is_left_out_of_a_prompt_with_records(
    mem: DeltaMem, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent, question = mem.agent("a"), [{"role": "user", "content": COLOUR}]
    norm = state_norm(agent.state())
    for full, read in ((None, True), (norm + 1, True), (norm - 1, False)):
        monkeypatch.setattr(mem.engine, "calibration", Calibration(full=full))
        reply = agent.generate(question)
        assert (reply.usage.state_bytes > 0) == (reply.position is not None) == read
        assert agent.generate(question, mode="state").usage.state_bytes > 0  # there is nothing else
        assert agent.generate([{"role": "user", "content": "xyzzy?"}]).usage.state_bytes > 0
