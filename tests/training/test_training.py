"""A few steps of training: the loss falls, the backbone stays frozen, and what comes out is a model users can open."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from deltamem_agents import DeltaMem, tiny
from deltamem_agents.core import new_adapter
from deltamem_agents.errors import ConfigError
from deltamem_agents.training import (
    AdapterRecipe,
    BackboneRecipe,
    evaluate,
    train_adapter,
    train_backbone,
    train_tiny,
    train_tokenizer,
)
from deltamem_agents.training.adapter import start_as_linear_attention
from deltamem_agents.training.backbone import new_backbone

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def bundled():
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(tiny.FOLDER, dtype=torch.float32)
    return model.eval(), AutoTokenizer.from_pretrained(tiny.FOLDER)


@pytest.mark.slow  # trains
def test_a_backbones_loss_falls() -> None:
    tokenizer = train_tokenizer(vocabulary=1024, conversations=200)
    recipe = BackboneRecipe(width=96, steps=30, tokens=1024, most_facts=3)
    losses = [progress.loss for progress in train_backbone(recipe, new_backbone(recipe, tokenizer), tokenizer)]
    assert len(losses) == 30
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


@pytest.mark.slow  # trains
def test_an_adapters_loss_falls_and_its_backbone_stays(bundled) -> None:
    model, tokenizer = bundled
    before = {name: value.clone() for name, value in model.state_dict().items()}
    recipe = AdapterRecipe(rank=32, steps=30, tokens=1024, most_facts=1)
    adapter = new_adapter(model, recipe.config(), seed=0)
    start_as_linear_attention(adapter, model)
    losses = [progress.loss for progress in train_adapter(recipe, adapter, model, tokenizer)]
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_the_same_seed_trains_the_same_adapter(bundled) -> None:
    model, tokenizer = bundled
    recipe = AdapterRecipe(rank=8, steps=2, tokens=512)
    twice = [new_adapter(model, recipe.config(), seed=0) for _ in range(2)]
    for adapter in twice:
        for _ in train_adapter(recipe, adapter, model, tokenizer):
            pass
    assert twice[0].fingerprint() == twice[1].fingerprint()


@pytest.mark.slow
def test_an_untrained_adapter_knows_nothing(bundled) -> None:
    model, tokenizer = bundled
    adapter = new_adapter(model, AdapterRecipe(rank=8).config(), seed=0)
    scores = {
        (score.measure, score.facts): score.right
        for score in evaluate(model, tokenizer, adapter, conversations=24, facts=(2,))
    }
    assert scores["state only", 2] <= 0.1
    assert scores["untouched backbone, nothing in context", 2] <= 0.1
    assert 0 < scores["chance", 2] < 0.1


@pytest.mark.slow  # trains, saves, opens and measures: a minute
def test_the_example_makes_a_model_that_opens(tmp_path) -> None:
    out = tmp_path / "my-tiny"
    command = [sys.executable, str(ROOT / "examples" / "train_tiny.py"), str(out)]
    command += ["--backbone-steps", "3", "--adapter-steps", "3", "--conversations", "4"]
    ran = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert ran.returncode == 0, ran.stderr
    assert "loss" in ran.stdout and "state only" in ran.stdout
    card = (out / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert "| facts | 1 | 2 | 4 | 8 |" in card and "seed 0" in card
    assert sum(file.stat().st_size for file in out.rglob("*.safetensors")) < 16e6
    with DeltaMem.open(out, url=f"sqlite:///{tmp_path / 'm.db'}", embedder=False) as mem:
        mem.agent("a").write([{"role": "user", "content": "My dog is Rex."}])
        assert "My dog is Rex." in mem.agent("a").recall("What is my dog?").text


def test_a_folder_that_holds_something_is_refused(tmp_path) -> None:
    (tmp_path / "precious").write_text("x")
    with pytest.raises(ConfigError, match="not an empty folder"):
        train_tiny(tmp_path)
    with pytest.raises(ConfigError, match="backbone_steps is 0"):
        train_tiny(tmp_path / "new", backbone_steps=0)
    assert not (tmp_path / "new").exists()
