"""Trains an adapter for a backbone, from data to a folder with the adapter and its card.

The folder holds ``run.json``, which says what is trained on what, and ``checkpoints/`` until the run has ended. Where it
holds an interrupted run of the same settings, that run goes on from its last checkpoint, to the same losses.
"""

from __future__ import annotations

import json
import platform
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import (
    EarlyStoppingCallback,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerCallback,
    TrainingArguments,
)

from deltamem_agents.core import Adapter, attach, backbone_fingerprint, load_adapter, new_adapter, save_adapter
from deltamem_agents.core.files import CONFIG_FILE
from deltamem_agents.engine import Rendering, load_backbone
from deltamem_agents.errors import ConfigError, TrainingFileError, shown
from deltamem_agents.training.adapter import start_as_linear_attention
from deltamem_agents.training.adapters.card import facts_of, write_card
from deltamem_agents.training.adapters.collation import EpisodeCollator
from deltamem_agents.training.adapters.config import AdapterTrainingConfig
from deltamem_agents.training.adapters.data import Data
from deltamem_agents.training.adapters.episode_loss import EpisodeLoss, checkpointed
from deltamem_agents.training.adapters.measuring import HeldOut, Measured, summary
from deltamem_agents.training.adapters.memory_plan import MemoryPlan, plan_memory
from deltamem_agents.training.adapters.rendered import EpisodeRenderer
from deltamem_agents.training.adapters.samples import EpisodeSamples
from deltamem_agents.training.adapters.trainer import METRIC, AdapterTrainer, drop_incomplete, last_checkpoint

RUN_FILE, SECONDS_FILE, CHECKPOINTS = "run.json", "seconds.json", "checkpoints"
SAMPLED = 16  # batches from which the peak memory is estimated


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterProgress:
    """State of a run after a report.

    Args:
        loss: Mean loss of the steps since the last report; None when an evaluation is reported.
        seconds_left: Estimate from the steps of this process; None before there is one.
        right: Share of right answers in the last evaluation, averaged over kinds; None before there was one.
    """

    step: int
    steps: int
    loss: float | None
    learning_rate: float
    seconds_left: float | None
    right: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedAdapter:
    """Result of a run.

    Args:
        folder: Holds the adapter.
        steps: Steps that the run took; fewer than configured if it stopped early.
        best_step: The step whose weights were kept.
        seconds: Of training, over all processes that took part one after another.
        losses: Reported losses by step.
        measured: The kept adapter on held-out episodes; empty if nothing was evaluated.
        plan: Memory, as estimated.
    """

    folder: Path
    steps: int
    best_step: int
    seconds: float
    losses: Mapping[int, float]
    measured: tuple[Measured, ...]
    plan: MemoryPlan


def train_adapter_for(
    backbone: str | Path | tuple[PreTrainedModel, PreTrainedTokenizerBase],
    data: Data,
    out: str | Path,
    config: AdapterTrainingConfig,
    *,
    begin_from: str | Path | None = None,
    device: str = "auto",
    attention: str | None = None,
    tensorboard: bool = False,
    on_plan: Callable[[MemoryPlan], None] = lambda _: None,
    on_progress: Callable[[AdapterProgress], None] = lambda _: None,
) -> TrainedAdapter:
    """Train an adapter into a new or empty folder, or go on with the interrupted run that is in it.

    Args:
        backbone: A folder, a hub id, or a loaded model with its tokenizer.
        begin_from: An adapter for this backbone, to begin from its weights with a new warm-up; its shape is taken over.
        device: "auto" (a GPU if there is one), "cpu" or "cuda".
        attention: Transformers' ``attn_implementation``; its own by default.
        tensorboard: Write losses and evaluations for TensorBoard into ``out/logs``.
        on_plan: Called with the estimate of memory before the first step.

    Raises:
        ConfigError: The folder holds something else or a run of other settings, the backbone has no chat template, or
            a question is longer than the write length.
        DivergedError: A loss or gradient is not a finite number; the last checkpoint is kept.
        TrainingFileError: A checkpoint cannot be written; the one before is kept.
        BackboneFileError, UnsupportedModelError, AdapterFileError, AdapterMismatchError: See `load_adapter`, `attach`.
    """
    folder = Path(out)
    check_out(folder)
    model, tokenizer = _backbone(backbone, device, attention, config)
    rendering = Rendering(_templated(tokenizer, config.chat_template, backbone))
    adapter = _adapter(model, config, begin_from)
    adapter.chat_template = config.chat_template or adapter.chat_template
    record = {
        "config": config.as_dict(),
        "data": data.identity,
        "backbone": backbone_fingerprint(model, tokenizer),
        "begins": adapter.fingerprint(),
    }
    resumed = _begin(folder, json.loads(json.dumps(record)))
    attached = attach(model, adapter)
    with ExitStack() as used:
        used.callback(attached.detach)
        if config.checkpointing:
            used.enter_context(checkpointed(model))
        module = EpisodeLoss(attached, negatives=config.negatives, unchanged_weight=config.unchanged_weight)
        render = EpisodeRenderer(rendering, adapter.config.write_length)
        collator = EpisodeCollator(tokenizer.pad_token_id or 0, adapter.config.write)
        arguments = _arguments(config, folder, attached.device)
        samples = EpisodeSamples(
            data.source,
            render,
            count=config.steps * config.accumulation * config.episodes * arguments.world_size,
            questions=config.questions,
            seed=config.seed,
        )
        plan = plan_memory(
            module, [collator([samples[i] for i in batch]) for batch in _first(config)], negatives=config.negatives
        )
        on_plan(plan)
        held_out = HeldOut([render(each) for each in data.held_out[: config.evaluation]], collator, size=config.episodes)
        report = _Report(on_progress, folder)
        trainer = AdapterTrainer(
            module,
            arguments,
            samples,
            collator,
            evaluate=(lambda each: summary(held_out.measure(each))) if config.evaluation else None,
            full_from=config.full_from,
            keep=config.keep,
            callbacks=[report, *_callbacks(config, folder, tensorboard)],
        )
        trainer.train(resume_from_checkpoint=None if resumed is None else str(resumed))
        module.eval()
        measured = tuple(held_out.measure(module)) if config.evaluation else ()
    result = TrainedAdapter(
        folder=folder,
        steps=trainer.state.global_step,
        best_step=trainer.state.best_global_step or trainer.state.global_step,
        seconds=report.seconds,
        losses=report.losses(trainer.state.log_history),
        measured=measured,
        plan=plan,
    )
    if arguments.should_save:
        name = str(backbone) if isinstance(backbone, str | Path) else str(model.config.name_or_path)
        _finish(folder, adapter.eval(), record, result, name)
    return result


def check_out(folder: Path) -> None:
    """Check that a run can begin in a folder, or go on in it.

    Raises:
        ConfigError: The folder holds something that is not an interrupted run.
    """
    if not folder.exists():
        return
    if not folder.is_dir() or (any(folder.iterdir()) and not (folder / RUN_FILE).is_file()):
        raise ConfigError(f"{str(folder)!r} exists and is not an empty folder; name a new one")
    if (folder / CONFIG_FILE).is_file():
        raise ConfigError(
            f"{str(folder)!r} holds a trained adapter; name a new folder, and begin from this adapter with "
            f"begin_from={str(folder)!r}"
        )


def _backbone(
    backbone: str | Path | tuple[PreTrainedModel, PreTrainedTokenizerBase],
    device: str,
    attention: str | None,
    config: AdapterTrainingConfig,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    if isinstance(backbone, tuple):
        model, tokenizer = backbone
    else:
        dtype = "float32" if config.precision == "float32" else "auto"
        model, tokenizer = load_backbone(str(backbone), device, dtype, attention=attention)
    return model.eval(), tokenizer  # type: ignore[no-untyped-call]


def _templated(tokenizer: PreTrainedTokenizerBase, template: str | None, backbone: object) -> PreTrainedTokenizerBase:
    """The tokenizer with the given chat template, if there is one.

    Raises:
        ConfigError: It has none of its own either.
    """
    if template is not None:
        tokenizer.chat_template = template
    elif not tokenizer.chat_template:
        name = shown(str(backbone)) if isinstance(backbone, str | Path) else "the model"
        raise ConfigError(
            f"{name} has no chat template, as base models have none; give chat_template, a template of a known family, "
            "such as recipes/gemma.jinja in this package"
        )
    return tokenizer


def _adapter(model: PreTrainedModel, config: AdapterTrainingConfig, begin_from: str | Path | None) -> Adapter:
    if begin_from is not None:
        return load_adapter(begin_from)
    adapter = new_adapter(model, config.adapter, seed=config.seed)
    if config.start == "linear-attention":
        start_as_linear_attention(adapter, model)
    return adapter


def _begin(folder: Path, record: dict[str, Any]) -> Path | None:
    """Write down what is trained; return the checkpoint to go on from, if the folder holds one of the same run.

    Raises:
        ConfigError: It holds a run of other settings.
        TrainingFileError: The folder cannot be written.
    """
    path = folder / RUN_FILE
    try:
        if not path.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            partial = path.with_suffix(".partial")
            partial.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
            partial.replace(path)
            return None
        earlier = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TrainingFileError(f"{str(path)!r} cannot be written or read: {error}; name another folder") from error
    changed = list(_changes(earlier, record))
    if changed:
        raise ConfigError(
            f"{str(folder)!r} holds an interrupted run with another {changed[0]}; give the same settings to go on with "
            "it, or name a new folder"
        )
    drop_incomplete(folder / CHECKPOINTS)
    return last_checkpoint(folder / CHECKPOINTS)


def _changes(earlier: Any, now: Any, name: str = "") -> list[str]:
    """What differs between two records, with both values."""
    if isinstance(earlier, Mapping) and isinstance(now, Mapping):
        keys = dict.fromkeys([*earlier, *now])
        return [one for key in keys for one in _changes(earlier.get(key), now.get(key), f"{name} {key}".strip())]
    return [] if earlier == now else [f"{name}: {shown(earlier)} then, {shown(now)} now"]


def _arguments(config: AdapterTrainingConfig, folder: Path, device: torch.device) -> TrainingArguments:
    bfloat16 = config.precision == "bfloat16" or (
        config.precision == "auto" and device.type == "cuda" and torch.cuda.is_bf16_supported()
    )
    steps = "steps" if config.evaluation else "no"
    return TrainingArguments(
        output_dir=str(folder / CHECKPOINTS),
        per_device_train_batch_size=config.episodes,
        gradient_accumulation_steps=config.accumulation,
        max_steps=config.steps,
        learning_rate=config.learning_rate,
        lr_scheduler_type="constant_with_warmup" if config.schedule == "constant" else config.schedule,
        warmup_steps=min(config.warmup, config.steps // 2),
        weight_decay=config.weight_decay,
        optim="adamw_torch",
        adam_beta2=0.98,
        max_grad_norm=config.clip,
        bf16=bfloat16,
        use_cpu=device.type == "cpu",
        logging_strategy="steps",
        logging_steps=config.log_every,
        logging_nan_inf_filter=False,
        eval_strategy=steps,
        eval_steps=config.checkpoint_every,
        save_strategy="steps",
        save_steps=config.checkpoint_every,
        load_best_model_at_end=bool(config.evaluation),
        metric_for_best_model=METRIC if config.evaluation else None,
        greater_is_better=True if config.evaluation else None,
        restore_callback_states_from_checkpoint=True,
        remove_unused_columns=False,
        dataloader_num_workers=config.workers,
        dataloader_pin_memory=device.type == "cuda",
        ddp_find_unused_parameters=False,
        seed=config.seed,
        data_seed=config.seed,
        disable_tqdm=True,
        log_level="error",
        report_to="none",
    )


def _callbacks(config: AdapterTrainingConfig, folder: Path, tensorboard: bool) -> list[TrainerCallback]:
    found: list[TrainerCallback] = []
    if config.patience and config.evaluation:
        found.append(EarlyStoppingCallback(early_stopping_patience=config.patience))
    if tensorboard:
        from torch.utils.tensorboard import SummaryWriter
        from transformers.integrations import TensorBoardCallback

        found.append(TensorBoardCallback(SummaryWriter(str(folder / "logs"))))  # type: ignore[no-untyped-call]
    return found


def _first(config: AdapterTrainingConfig) -> list[range]:
    """The numbers of the episodes of batches spread over the run."""
    batches = config.steps * config.accumulation
    chosen = sorted({round(index * (batches - 1) / max(1, SAMPLED - 1)) for index in range(SAMPLED)})
    return [range(batch * config.episodes, (batch + 1) * config.episodes) for batch in chosen]


class _Report(TrainerCallback):
    """Reports progress, and counts the seconds of all processes that took part in a run."""

    def __init__(self, on_progress: Callable[[AdapterProgress], None], folder: Path) -> None:
        self._on_progress = on_progress
        self._file = folder / SECONDS_FILE
        self._earlier = 0.0
        self._started = time.perf_counter()
        self._first_step = 0
        self._right: float | None = None

    @property
    def seconds(self) -> float:
        """Seconds of training so far."""
        return self._earlier + time.perf_counter() - self._started

    def losses(self, history: list[dict[str, float]]) -> dict[int, float]:
        """Reported losses by step."""
        return {int(each["step"]): each["loss"] for each in history if "loss" in each}

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._first_step = state.global_step
        if state.global_step and self._file.is_file():
            self._earlier = float(json.loads(self._file.read_text(encoding="utf-8")))
        self._started = time.perf_counter()

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if not args.should_save:
            return
        with suppress(OSError):  # only the card's minutes depend on it
            self._file.write_text(json.dumps(round(self.seconds, 1)), encoding="utf-8")

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        logs = logs or {}
        self._right = logs.get(f"eval_{METRIC}", self._right)
        if "loss" not in logs and f"eval_{METRIC}" not in logs:
            return
        done = state.global_step - self._first_step
        left = state.max_steps - state.global_step
        self._on_progress(
            AdapterProgress(
                step=state.global_step,
                steps=state.max_steps,
                loss=logs.get("loss"),
                learning_rate=logs.get("learning_rate", 0.0),
                seconds_left=(time.perf_counter() - self._started) / done * left if done else None,
                right=self._right,
            )
        )


def _finish(
    folder: Path, adapter: Adapter, record: Mapping[str, Any], result: TrainedAdapter, backbone: str
) -> None:
    """Write the adapter and its card, and remove what only an interrupted run needs.

    Raises:
        AdapterFileError, TrainingFileError: They cannot be written; the checkpoints are kept.
    """
    versions = {"python": platform.python_version(), "torch": torch.__version__, "transformers": transformers.__version__}
    try:
        write_card(folder, facts_of(adapter, record, result, backbone, versions))
    except OSError as error:
        raise TrainingFileError(
            f"the card cannot be written to {str(folder)!r}: {error}; make room and run the same command again"
        ) from error
    save_adapter(adapter, folder)
    shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
    for name in (RUN_FILE, SECONDS_FILE):
        (folder / name).unlink(missing_ok=True)
