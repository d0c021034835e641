"""Trains an adapter for a backbone, from data to a folder with the adapter and its card."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path

import torch
from transformers import (
    EarlyStoppingCallback,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerCallback,
    TrainingArguments,
)

from deltamem_agents.core import Adapter, Calibration, attach, backbone_fingerprint, load_adapter, new_adapter
from deltamem_agents.engine import Rendering, load_backbone
from deltamem_agents.engine.packaged import folder_of
from deltamem_agents.errors import ConfigError, MissingExtraError, shown
from deltamem_agents.training.adapter import start_as_linear_attention
from deltamem_agents.training.adapters.calibration import calibrated
from deltamem_agents.training.adapters.card import TrainedAdapter, facts_of
from deltamem_agents.training.adapters.collation import EpisodeCollator
from deltamem_agents.training.adapters.config import AdapterTrainingConfig
from deltamem_agents.training.adapters.data import GENERATED, Data, data_files, generated, open_data
from deltamem_agents.training.adapters.episode_loss import EpisodeLoss, checkpointed
from deltamem_agents.training.adapters.induction_heads import start_as_induction_heads
from deltamem_agents.training.adapters.measuring import HeldOut, summary
from deltamem_agents.training.adapters.memory_plan import MemoryPlan, plan_memory
from deltamem_agents.training.adapters.phases import Curriculum
from deltamem_agents.training.adapters.progress import AdapterProgress, Report
from deltamem_agents.training.adapters.rendered import EpisodeRenderer, RenderedEpisode
from deltamem_agents.training.adapters.run_folder import CHECKPOINTS, begin, check_out, finish
from deltamem_agents.training.adapters.samples import EpisodeSamples
from deltamem_agents.training.adapters.trainer import METRIC, AdapterTrainer

TEXTS = 32  # episodes that an adapter's start is fitted to
SAMPLED = 16  # batches from which the peak memory is estimated


def train_adapter_for(
    backbone: str | Path | tuple[PreTrainedModel, PreTrainedTokenizerBase],
    data: str | Path | Data,
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
        backbone: "tiny", "gemma-3-270m", a folder, a hub id, or a loaded model with its tokenizer.
        data: A file of JSON lines, a data set on the hub, "generated", or `Data`.
        begin_from: An adapter for this backbone, to begin from its weights with a new warm-up; its shape is taken over.
        device: "auto" (a GPU if there is one), "cpu" or "cuda".
        attention: Transformers' ``attn_implementation``; its own by default.
        tensorboard: Write losses and evaluations for TensorBoard into ``out/logs``.
        on_plan: Called with the estimate of memory before the first step.

    Raises:
        ConfigError: The folder holds something else or a run of other settings, there is no such data, or the backbone
            has no chat template.
        EpisodeError: A line of the data is no episode, or one of its questions is longer than the write length.
        DivergedError: A loss or gradient is not a finite number; the last checkpoint is kept.
        TrainingFileError: A checkpoint cannot be written; the one before is kept.
        MissingExtraError: ``tensorboard`` without the package of that name.
        BackboneFileError, UnsupportedModelError, AdapterFileError, AdapterMismatchError: See `load_adapter`, `attach`.
    """
    folder = Path(out)
    check_out(folder)
    if tensorboard and find_spec("tensorboard") is None:
        raise MissingExtraError(
            "logs for TensorBoard need tensorboard, which is not installed; pip install tensorboard"
        )
    if not isinstance(data, Data) and str(data) != GENERATED:
        data_files(data)  # before a model is loaded
    model, tokenizer = _backbone(backbone, device, attention, config)
    rendering = Rendering(_templated(tokenizer, config.chat_template, backbone))
    adapter = _adapter(model, config, begin_from)
    adapter.chat_template = config.chat_template or adapter.chat_template
    render = EpisodeRenderer(rendering, adapter.config.write_length)
    arguments = _arguments(config, folder, model.device)
    count = config.steps * config.accumulation * config.episodes * arguments.world_size
    opened = _opened(data, config, render, count)
    if begin_from is None and config.start == "induction":
        written = (segment for number in range(min(TEXTS, count)) for segment in render(opened.source(number)).segments)
        start_as_induction_heads(adapter, model, [segment.ids for segment in written])
    record = {
        "config": config.as_dict(),
        "data": opened.identity,
        "backbone": backbone_fingerprint(model, tokenizer),
        "begins": adapter.fingerprint(),
    }
    with arguments.main_process_first(local=False):
        resumed = begin(folder, record)
    with ExitStack() as used:
        attached = attach(model, adapter)
        used.callback(attached.detach)
        if config.checkpointing:
            used.enter_context(checkpointed(model))
        module = EpisodeLoss(attached, negatives=config.negatives, unchanged_weight=config.unchanged_weight)
        collator = EpisodeCollator(tokenizer.pad_token_id or 0, adapter.config.write)
        samples = EpisodeSamples(opened.source, render, count=count, questions=config.questions, seed=config.seed)
        plan = plan_memory(module, [collator(each) for each in _some(samples, config)], negatives=config.negatives)
        on_plan(plan)
        held_out = HeldOut(
            [render(each) for each in opened.held_out[: config.evaluation]], collator, rendering, size=config.episodes
        )
        report = Report(on_progress, folder)
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
    if config.calibration and arguments.should_save:
        episodes = opened.held_out[: config.calibration]
        found = calibrated(model, rendering.tokenizer, adapter.eval(), episodes, seed=config.seed)
        adapter.calibration = found or Calibration()
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
        finish(folder, adapter.eval(), facts_of(adapter, record, result, name))
    return result


def _opened(data: str | Path | Data, config: AdapterTrainingConfig, render: EpisodeRenderer, count: int) -> Data:
    """The data of a run of ``count`` episodes."""
    if isinstance(data, Data):
        return data
    if str(data) == GENERATED:
        held_out = max(config.evaluation, config.calibration)
        return generated(Curriculum(config.mixture), seed=config.seed, held_out=held_out, count=count, check=render)
    return open_data(data, seed=config.seed, evaluation=config.evaluation, check=render)


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
        model, tokenizer = load_backbone(str(folder_of(backbone)), device, dtype, attention=attention)
    return model.eval(), tokenizer  # type: ignore[no-untyped-call]


def _templated(tokenizer: PreTrainedTokenizerBase, template: str | None, backbone: object) -> PreTrainedTokenizerBase:
    """The tokenizer with the given chat template, or its own.

    Raises:
        ConfigError: It has none of its own either.
    """
    if template is not None:
        tokenizer = copy.deepcopy(tokenizer)  # which may be the caller's
        tokenizer.chat_template = template
    elif not tokenizer.chat_template:
        name = shown(str(backbone)) if isinstance(backbone, str | Path) else "the model"
        raise ConfigError(
            f"{name} has no chat template, as base models have none; give chat_template=…, one of a known family, "
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
        from transformers.integrations.integration_utils import TensorBoardCallback

        found.append(TensorBoardCallback(SummaryWriter(str(folder / "logs"))))  # type: ignore[no-untyped-call]
    return found


def _some(samples: EpisodeSamples, config: AdapterTrainingConfig) -> list[list[RenderedEpisode]]:
    """Some of a run's batches, spread over it."""
    batches = config.steps * config.accumulation
    chosen = sorted({round(index * (batches - 1) / max(1, SAMPLED - 1)) for index in range(SAMPLED)})
    return [[samples[batch * config.episodes + index] for index in range(config.episodes)] for batch in chosen]
