"""The bundled model against its card: the figures hold, and they hold for users, through the database."""

from __future__ import annotations

import json
import random

import pytest
import torch

from deltamem_agents import DeltaMem, tiny
from deltamem_agents.training import evaluate
from deltamem_agents.training.conversations import Shape, converse

CARD = json.loads((tiny.FOLDER / "training.json").read_text(encoding="utf-8"))
RATES = {(score["measure"], score["facts"]): score["right"] for score in CARD["scores"]}
SLACK = 0.07  # three standard errors of the smallest sample here


def told_and_asked(mem: DeltaMem, facts: int, conversations: int, mode: str) -> float:
    """Share of held-out facts that come back as ``answer``; each conversation is an agent of its own."""
    rng = random.Random(f"{facts}")
    right = total = 0
    for number in range(conversations):
        conversation = converse(rng, Shape(facts=facts, held_out=True))
        agent = mem.agent(f"{mode}-{facts}-{number}")
        for session, messages in enumerate(conversation.sessions):
            agent.write([{"role": role, "content": text} for role, text in messages], f"s{session}")
        for question in conversation.questions:
            right += agent.recall(question.text, mode=mode).answer == question.answer
            total += 1
    return right / total


def test_the_files_are_small_and_whole() -> None:
    assert sum(file.stat().st_size for file in tiny.FOLDER.rglob("*.safetensors")) <= 16 * 2**20
    card = (tiny.FOLDER / "MODEL_CARD.md").read_text(encoding="utf-8")
    for measure, _ in RATES:
        assert f"| {measure} |" in card


@pytest.mark.slow  # some hundred conversations are written and asked
def test_the_cards_figures_are_measured_again() -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from deltamem_agents.core import load_adapter

    model = AutoModelForCausalLM.from_pretrained(tiny.FOLDER, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(tiny.FOLDER)
    adapter = load_adapter(tiny.FOLDER / "adapter")
    for score in evaluate(model, tokenizer, adapter, conversations=64, facts=(2, 4), seed=77):
        assert abs(score.right - RATES[score.measure, score.facts]) <= SLACK + 0.03, score


@pytest.mark.slow  # writes and asks through the database
@pytest.mark.parametrize("facts", [1, 4])
def test_the_cards_rates_hold_through_the_database_and_hybrid_is_no_worse(tmp_path, facts) -> None:
    with DeltaMem.open("tiny", url=f"sqlite:///{tmp_path / 'm.db'}") as mem:
        by_state = told_and_asked(mem, facts, 60 // facts, "state")
        by_both = told_and_asked(mem, facts, 60 // facts, "hybrid")
    assert by_state >= RATES["state only", facts] - SLACK
    assert by_both >= by_state


@pytest.mark.slow  # forty conversations
def test_a_zero_state_and_anothers_know_nothing(tmp_path) -> None:
    from deltamem_agents.memory.answering import ask
    from deltamem_agents.memory.async_methods import run

    rng = random.Random(3)
    with DeltaMem.open("tiny", url=f"sqlite:///{tmp_path / 'm.db'}", embedder=False) as mem:
        mem.agent("other").write([{"role": "user", "content": "Priya's desk number is 12."}])
        right = {"zero": 0, "other": 0}
        for _ in range(40):
            (question,) = converse(rng, Shape(facts=1, held_out=True)).questions
            right["zero"] += run(ask(mem.engine, question.text, "", None)).generation.text == question.answer
            right["other"] += mem.agent("other").recall(question.text, mode="state").answer == question.answer
    assert max(right.values()) <= 4
