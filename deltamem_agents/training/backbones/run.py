"""Trains one stage of a backbone into a folder, from fresh weights or from those of the stage before; resumes."""

from __future__ import annotations

import copy
import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from transformers import PreTrainedTokenizerFast, SmolLM3ForCausalLM

from deltamem_agents.engine import load_backbone
from deltamem_agents.errors import ConfigError, DivergedError, TrainingFileError
from deltamem_agents.training.backbones.config import BackboneTrainingConfig
from deltamem_agents.training.backbones.measuring import Reading, measure_reading
from deltamem_agents.training.backbones.rows import Batches, Place
from deltamem_agents.training.backbones.shape import fresh_backbone
from deltamem_agents.training.backbones.vocabulary import train_open_tokenizer
from deltamem_agents.training.batches import Batch
from deltamem_agents.training.optimization import Muon, mixed_precision
from deltamem_agents.training.tokenizer import END

STATE = "training-state.pt"  # weights, optimizers and place of an unfinished stage
SETTINGS = "stage.json"
TEXT_SHARE = 0.25  # share of the tokens outside answers that are predicted in a step, each with four times the weight


@dataclass(frozen=True, slots=True)
class BackboneProgress:
    """State after ``step`` of ``steps``: smoothed loss and share of answer tokens right, tokens read, seconds.

    Args:
        measured: What was measured after this step, if anything was.
    """

    step: int
    steps: int
    loss: float
    right: float
    tokens: int
    seconds: float
    measured: tuple[Reading, ...] = ()


@dataclass(slots=True)
class _State:
    """What a stage has come to."""

    step: int = 0
    place: Place = field(default_factory=Place)
    tokens: int = 0
    seconds: float = 0.0
    loss: float = 0.0
    right: float = 0.0
    curve: list[dict[str, Any]] = field(default_factory=list)


def train_backbone_stage(
    out: str | Path,
    config: BackboneTrainingConfig,
    *,
    begin_from: str | Path | None = None,
    on_progress: Callable[[BackboneProgress], None] = lambda _: None,
) -> Path:
    """Train one stage into a new or empty folder, or go on with the interrupted one that is in it.

    Args:
        begin_from: Folder of the backbone that the stage before left; its shape and tokenizer are taken over.

    Raises:
        ConfigError: The folder holds something else, or a stage with other settings.
        DivergedError: A loss is not a finite number; the last checkpoint is kept.
        TrainingFileError: A checkpoint cannot be written; the one before is kept.
        BackboneFileError: The backbone to begin from cannot be loaded.
    """
    folder = Path(out)
    settings = config.as_dict() | {"from": None if begin_from is None else str(begin_from)}
    resumed = _begin(folder, settings)
    model, tokenizer = _started(config, begin_from, folder, resumed)
    optimizers = _optimizers(model, config)
    state = _restored(folder, model, optimizers) if resumed else _State()
    model.train()
    batches = Batches(tokenizer, config).begin(state.place, state.step)
    sampling = torch.Generator()
    while state.step < config.steps:
        began = time.perf_counter()
        state.place, batch = next(batches)
        rate = config.rate(state.step)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
        loss, right = _loss(model, batch, sampling.manual_seed(config.seed * 1_000_003 + state.step))
        if not bool(loss.isfinite()):
            raise DivergedError(
                f"the loss of step {state.step + 1} is {float(loss.detach())}; the last checkpoint is kept. Lower peak"
            )
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        state.step += 1
        state.tokens += batch.ids.numel()
        mixing = max(0.03, 1 / state.step)
        state.loss += mixing * (float(loss.detach()) - state.loss)
        state.right += mixing * (right - state.right)
        last = state.step == config.steps
        measured: tuple[Reading, ...] = ()
        state.seconds += time.perf_counter() - began
        if config.evaluation and (last or state.step % config.evaluate_every == 0):
            measured = tuple(measure_reading(model, tokenizer, config))
            state.curve.append(_point(state, measured))
            _publish(folder, state, model, tokenizer, settings)
        if state.step % config.checkpoint_every == 0 or last:
            _save(folder, state, model, optimizers)
        on_progress(
            BackboneProgress(state.step, config.steps, state.loss, state.right, state.tokens, state.seconds, measured)
        )
    _publish(folder, state, model, tokenizer, settings)
    return folder


def _save_half(model: SmolLM3ForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Store a backbone in bfloat16 with its tokenizer."""
    copy.deepcopy(model).bfloat16().save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _publish(
    folder: Path,
    state: _State,
    model: SmolLM3ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    settings: Mapping[str, Any],
) -> None:
    """Store weights that can be used, or begun from, with the curve that led to them."""
    _save_half(model, tokenizer, folder)
    facts = {**settings, "reached": state.step, "read": state.tokens, "seconds": round(state.seconds)}
    (folder / "training.json").write_text(json.dumps(facts | {"curve": state.curve}, indent=1) + "\n", "utf-8")


def _begin(folder: Path, settings: Mapping[str, Any]) -> bool:
    """Claim the folder, and say whether there is a stage to go on with."""
    path = folder / SETTINGS
    if path.is_file():
        if json.loads(path.read_text(encoding="utf-8")) != json.loads(json.dumps(settings)):
            raise ConfigError(f"{str(folder)!r} holds a stage with other settings; name a new folder")
        return (folder / STATE).is_file()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{str(folder)!r} exists and is not an empty folder; name a new one")
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
    return False


def _started(
    config: BackboneTrainingConfig, begin_from: str | Path | None, folder: Path, resumed: bool
) -> tuple[SmolLM3ForCausalLM, PreTrainedTokenizerFast]:
    if begin_from is not None:
        model, tokenizer = load_backbone(str(begin_from), "cpu", "float32", attention="sdpa")
        if not isinstance(model, SmolLM3ForCausalLM) or tokenizer.convert_tokens_to_ids(END) is None:
            raise ConfigError(f"{str(begin_from)!r} is no backbone that a stage left; name the folder of one")
        return model.requires_grad_(True), cast(PreTrainedTokenizerFast, tokenizer)
    if resumed or (folder / "tokenizer.json").is_file():
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    else:
        tokenizer = train_open_tokenizer(vocabulary=config.shape.vocabulary, episodes=config.corpus, seed=config.seed)
        tokenizer.save_pretrained(folder)
    return fresh_backbone(config.shape, tokenizer, seed=config.seed), tokenizer


def _optimizers(model: SmolLM3ForCausalLM, config: BackboneTrainingConfig) -> list[torch.optim.Optimizer]:
    named = list(model.named_parameters())
    matrices = [each for name, each in named if each.ndim == 2 and "embed" not in name]
    others = [each for name, each in named if each.ndim != 2 or "embed" in name]
    return [
        Muon(matrices, lr=config.peak),
        torch.optim.AdamW(others, lr=config.peak, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def _loss(model: SmolLM3ForCausalLM, batch: Batch, sampling: torch.Generator) -> tuple[torch.Tensor, float]:
    # Right padding after a causal mask changes nothing before it, so no mask is passed (the fast attention path).
    with mixed_precision():
        hidden = model.model(input_ids=batch.ids, use_cache=False).last_hidden_state[:, :-1]
        targets, weights = batch.ids[:, 1:], batch.weights[:, 1:].clone()
        text = (weights > 0) & (weights <= 0.1)
        drawn = torch.rand(weights.shape, generator=sampling) < TEXT_SHARE
        weights[text] = torch.where(drawn[text], weights[text] / TEXT_SHARE, 0.0)
        counted = weights > 0
        logits = model.lm_head(hidden[counted]).float()
    losses = torch.nn.functional.cross_entropy(logits, targets[counted], reduction="none")
    weight = weights[counted]
    answers = ~text[counted]
    right = (logits.detach().argmax(-1) == targets[counted])[answers].float().mean()
    return (losses * weight).sum() / weight.sum(), float(right)


def _point(state: _State, measured: tuple[Reading, ...]) -> dict[str, Any]:
    return {
        "step": state.step,
        "tokens": state.tokens,
        "loss": round(state.loss, 4),
        "right": {each.kind: round(each.right, 4) for each in measured},
    }


def _save(folder: Path, state: _State, model: SmolLM3ForCausalLM, optimizers: list[torch.optim.Optimizer]) -> None:
    whole = {
        "model": model.state_dict(),
        "optimizers": [each.state_dict() for each in optimizers],
        "state": {
            "step": state.step,
            "place": [state.place.pool, state.place.batch],
            "tokens": state.tokens,
            "seconds": state.seconds,
            "loss": state.loss,
            "right": state.right,
            "curve": json.dumps(state.curve),
        },
    }
    partial = folder / f"{STATE}.part"
    try:
        torch.save(whole, partial)
        os.replace(partial, folder / STATE)
    except (OSError, RuntimeError) as error:  # torch.save raises RuntimeError on a full disk
        partial.unlink(missing_ok=True)
        raise TrainingFileError(
            f"the checkpoint of step {state.step} cannot be written to {str(folder)!r}: {error}; make room on the "
            "disk. The one before is kept; run the same command again to go on from it"
        ) from error


def _restored(folder: Path, model: SmolLM3ForCausalLM, optimizers: list[torch.optim.Optimizer]) -> _State:
    whole = torch.load(folder / STATE, weights_only=True)
    model.load_state_dict(whole["model"])
    for optimizer, saved in zip(optimizers, whole["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    kept = whole["state"]
    return _State(**{**kept, "place": Place(*kept["place"]), "curve": json.loads(kept["curve"])})
