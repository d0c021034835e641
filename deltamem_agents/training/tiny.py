"""Trains the bundled model from scratch: tokenizer, backbone, adapter, and a card with its figures.

A run is repeatable: the same recipes, seed, number of threads and versions give the same files.
"""

from __future__ import annotations

import copy
import json
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
import transformers
from transformers import PreTrainedModel, PreTrainedTokenizerBase, SmolLM3ForCausalLM

from deltamem_agents.core import Adapter, new_adapter, save_adapter
from deltamem_agents.errors import ConfigError
from deltamem_agents.memory import DeltaMem
from deltamem_agents.training.adapter import AdapterRecipe, start_as_linear_attention, train_adapter
from deltamem_agents.training.backbone import BackboneRecipe, new_backbone, train_backbone
from deltamem_agents.training.calibrate import SIZES, calibrate
from deltamem_agents.training.card import model_card
from deltamem_agents.training.evaluate import Score, evaluate
from deltamem_agents.training.everyday import EverydayScore, measure_everyday
from deltamem_agents.training.optimization import Progress
from deltamem_agents.training.tokenizer import train_tokenizer


@dataclass(frozen=True, slots=True)
class StageProgress:
    """Progress of a stage: "backbone", "adapter" or "evaluation" (whose loss and share right are 0)."""

    stage: str
    step: int
    steps: int
    loss: float
    right: float


@dataclass(frozen=True, slots=True)
class Trained:
    """Result of a run: the folder of its files, seconds per stage, and the scores."""

    folder: Path
    seconds: dict[str, float]
    scores: list[Score]


def train_tiny(
    out: str | Path,
    *,
    backbone_steps: int | None = None,
    adapter_steps: int | None = None,
    seed: int = 0,
    conversations: int = 256,
    on_progress: Callable[[StageProgress], None] = lambda _: None,
) -> Trained:
    """Train a model like the bundled one into a new or empty folder.

    Args:
        out: Folder for the backbone, the tokenizer, ``adapter/`` and ``MODEL_CARD.md``.
        backbone_steps: By default, those of `BackboneRecipe`.
        adapter_steps: By default, those of `AdapterRecipe`.
        conversations: Held-out conversations per figure of the table; 0 measures and calibrates nothing.

    Raises:
        ConfigError: The folder is not empty, or a number of steps is not positive.
    """
    folder = Path(out)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{str(folder)!r} exists and is not an empty folder; name a new one")
    for name, steps in (("backbone_steps", backbone_steps), ("adapter_steps", adapter_steps)):
        if steps is not None and steps < 1:
            raise ConfigError(f"{name} is {steps}; train for at least 1")
    backbone_recipe, adapter_recipe = BackboneRecipe(seed=seed), AdapterRecipe(seed=seed)
    if backbone_steps is not None:
        backbone_recipe = replace(backbone_recipe, steps=backbone_steps)
    if adapter_steps is not None:
        adapter_recipe = replace(adapter_recipe, steps=adapter_steps)
    seconds: dict[str, float] = {}

    def report(stage: str, progress: Progress) -> None:
        on_progress(StageProgress(stage, progress.step, progress.steps, progress.loss, progress.right))

    tokenizer = train_tokenizer(seed=seed)
    started = time.perf_counter()
    model = new_backbone(backbone_recipe, tokenizer)
    for progress in train_backbone(backbone_recipe, model, tokenizer):
        report("backbone", progress)
    seconds["backbone"] = time.perf_counter() - started
    folder.mkdir(parents=True, exist_ok=True)
    model = save_rounded(model, tokenizer, folder)
    started = time.perf_counter()
    adapter = new_adapter(model, adapter_recipe.config(), seed=seed)
    start_as_linear_attention(adapter, model)
    for progress in train_adapter(adapter_recipe, adapter, model, tokenizer):
        report("adapter", progress)
    seconds["adapter"] = time.perf_counter() - started
    save_adapter(adapter, folder / "adapter")
    if conversations:
        started = time.perf_counter()
        share = conversations / 256
        sizes = {facts: round(count * share) for facts, count in SIZES.items() if round(count * share)}
        adapter.calibration = calibrate(folder, sizes=sizes or {1: 1, 2: 1})
        seconds["calibration"] = time.perf_counter() - started
        save_adapter(adapter, folder / "adapter")
    scores = measure(model, tokenizer, adapter, conversations, on_progress)
    everyday = measure_on_everyday_facts(folder, conversations)
    write_card(folder, backbone_recipe, adapter_recipe, seconds, scores, everyday, model, adapter)
    return Trained(folder, seconds, scores)


def save_rounded(model: SmolLM3ForCausalLM, tokenizer: PreTrainedTokenizerBase, folder: Path) -> SmolLM3ForCausalLM:
    """Store a backbone in bfloat16 and return it with the rounded weights, which the adapter must fit."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.to(torch.bfloat16))
    copy.deepcopy(model).bfloat16().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model


def measure(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    adapter: Adapter,
    conversations: int,
    on_progress: Callable[[StageProgress], None] = lambda _: None,
) -> list[Score]:
    """Measure the figures of the card."""
    scores: list[Score] = []
    if conversations:
        for score in evaluate(model, tokenizer, adapter, conversations=conversations):
            scores.append(score)
            on_progress(StageProgress("evaluation", len(scores), 39, 0.0, 0.0))
    return scores


def measure_on_everyday_facts(folder: Path, conversations: int) -> list[EverydayScore]:
    """Measure the card's figures for everyday English, with an agent for about four held-out conversations."""
    if not conversations:
        return []
    with DeltaMem.open(str(folder), url="sqlite://", embedder=False) as mem:
        return list(measure_everyday(mem, episodes=max(1, conversations * 60 // 256)))


def write_card(
    folder: Path,
    backbone_recipe: BackboneRecipe,
    adapter_recipe: AdapterRecipe,
    seconds: dict[str, float],
    scores: list[Score],
    everyday: list[EverydayScore],
    model: PreTrainedModel,
    adapter: Adapter,
) -> None:
    """Write MODEL_CARD.md, and training.json with the same facts as data."""
    facts = {
        "backbone": asdict(backbone_recipe),
        "adapter": asdict(adapter_recipe),
        "calibration": adapter.calibration.as_dict(),
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
        "parameters": {
            "backbone": sum(p.numel() for p in model.parameters()),
            "adapter": sum(p.numel() for p in adapter.parameters()),
        },
        "machine": {
            "processor": platform.machine(),
            "threads": torch.get_num_threads(),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "scores": [asdict(score) for score in scores],
        "everyday": [asdict(score) for score in everyday],
    }
    (folder / "training.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    (folder / "MODEL_CARD.md").write_text(model_card(facts), encoding="utf-8")
