"""An adapter that knows what it was told is measured as knowing it, by the right state alone."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM

from deltamem_agents import tiny
from deltamem_agents.core import attach, load_adapter
from deltamem_agents.engine import Rendering
from deltamem_agents.training.adapters import calibration
from deltamem_agents.training.adapters.collation import EpisodeCollator
from deltamem_agents.training.adapters.episode_loss import EpisodeLoss
from deltamem_agents.training.adapters.measuring import HeldOut, summary
from deltamem_agents.training.adapters.rendered import EpisodeRenderer
from deltamem_agents.training.episodes import Episode, Question
from deltamem_agents.training.episodes.checkers import Exactly

DOGS = ["Rex", "Bruno", "Max", "Luna"]


def user(content: str) -> dict[str, str]:
    return {"role": "user", "content": content}


def asked(text: str, answer: str, **options) -> Question:
    return Question(messages=(user(text),), answer=answer, **options)


def test_confidences_are_fitted_to_held_out_episodes(tokenizer, monkeypatch) -> None:
    monkeypatch.setattr(calibration, "LEAST", 20)  # saves time

    model = AutoModelForCausalLM.from_pretrained(tiny.FOLDER, dtype=torch.float32).eval()
    adapter = load_adapter(tiny.FOLDER / "adapter")
    episodes = [
        Episode(
            sessions=((user(f"My dog is called {dog}."), user(f"Mara's cat is called {other}.")),),
            questions=(
                asked("What is my dog called?", dog),
                asked("What is my favourite colour?", "I don't know.", kind="unknown"),
                asked("Say something.", "", kind="unrelated", reference="backbone"),  # has no right answer
            ),
        )
        for dog in DOGS
        for other in DOGS
    ]
    found = calibration.calibrated(model, tokenizer, adapter, episodes, seed=0)
    assert found is not None and found.records(0.99) > 0.5 > found.records(0.01)
    assert calibration.calibrated(model, tokenizer, adapter, episodes[:3], seed=0) is None
    assert not any(module._forward_hooks for module in model.modules())


@pytest.fixture(scope="module")
def measured(tokenizer):
    """What the bundled model knows of a dog, with an answer to copy, one to check, and one to leave as it is."""
    episodes = [
        Episode(
            sessions=((user(f"My dog is called {dog}."),),),
            questions=(
                asked("What is my dog called?", dog),
                asked("What is my dog called?", "Another", kind="checked", checker=Exactly(text=dog)),
                asked("Where does Mara live?", "", kind="unrelated", reference="backbone"),
            ),
        )
        for dog in DOGS
    ]
    model = AutoModelForCausalLM.from_pretrained(tiny.FOLDER, dtype=torch.float32).eval()
    rendering = Rendering(tokenizer)
    render = EpisodeRenderer(rendering, 256)
    attached = attach(model, load_adapter(tiny.FOLDER / "adapter"))
    held_out = HeldOut([render(each) for each in episodes], EpisodeCollator(0, "token"), rendering, size=3)
    found = held_out.measure(EpisodeLoss(attached).eval())
    return {(each.kind, each.arm): each for each in found}, summary(found)


@pytest.mark.parametrize("kind", ["stated", "checked"])
def test_what_was_told_is_known_by_the_right_state_alone(measured, kind) -> None:
    figures, summed = measured
    assert all(each.questions == len(DOGS) for each in figures.values())
    assert figures[kind, "state"].right >= 0.75
    assert figures[kind, "zero"].right == figures[kind, "donor"].right == 0
    assert summed[f"{kind}_state"] == figures[kind, "state"].right


def test_the_zero_state_changes_nothing(measured) -> None:
    figures, summed = measured
    assert figures["unrelated", "zero"].right == 1 and figures["unrelated", "zero"].loss < 1e-5
    assert figures["unrelated", "state"].loss > 1e-3
    own = [each.right for (_, arm), each in figures.items() if arm == "state"]
    assert summed["right"] == pytest.approx(sum(own) / 3)
