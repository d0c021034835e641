"""Transformers' Trainer for adapters: its checkpoints hold the adapter alone, its evaluation measures recall.

Everything else of a run is Transformers': optimizer, schedule, accumulation, precision, several devices, random states,
resuming. Of a checkpoint's folder, the file `COMPLETE` is written last; one without it is not used.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from torch import nn
from torch.utils.data import SequentialSampler
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from deltamem_agents.core import load_adapter, save_adapter
from deltamem_agents.errors import DivergedError, TrainingFileError
from deltamem_agents.training.adapters.collation import EpisodeCollator
from deltamem_agents.training.adapters.episode_loss import EpisodeLoss
from deltamem_agents.training.adapters.samples import EpisodeSamples

COMPLETE = "complete"
METRIC = "right"  # the evaluation's share of right answers, averaged over kinds
Evaluate = Callable[[EpisodeLoss], dict[str, float]]


class AdapterTrainer(Trainer):
    """Trains the adapter of an `EpisodeLoss`.

    Args:
        evaluate: Measures the adapter; its result has the entry `METRIC`. None to evaluate nothing.
        full_from: The first step, counted from 0, whose softmax is over the whole vocabulary.
        keep: Number of checkpoints that are kept, the best one not counted.
    """

    def __init__(
        self,
        module: EpisodeLoss,
        args: TrainingArguments,
        samples: EpisodeSamples,
        collator: EpisodeCollator,
        *,
        evaluate: Evaluate | None = None,
        full_from: int = 0,
        keep: int = 2,
        callbacks: Sequence[TrainerCallback] = (),
    ) -> None:
        args._n_gpu = min(1, args.n_gpu)  # several devices have a process each; hooks do not survive DataParallel
        super().__init__(
            model=module,
            args=args,
            data_collator=cast(Any, collator),
            train_dataset=samples,
            eval_dataset=None if evaluate is None else samples,
            callbacks=[_Flow(module, full_from), *callbacks],
        )
        for shown in (PrinterCallback, ProgressCallback):
            self.remove_callback(shown)
        self._module = module
        self._measure = evaluate
        self._keep = keep

    def evaluate(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> dict[str, float]:
        """Measure the adapter, log the result, and tell the callbacks."""
        assert self._measure is not None
        self._module.eval()
        measured = self._measure(self._module)
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in measured.items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def training_step(self, model: nn.Module, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        """One forward and backward pass.

        Raises:
            DivergedError: The loss is not a finite number. No weight has been changed by it.
        """
        loss: torch.Tensor = super().training_step(model, inputs, num_items_in_batch)
        if not bool(loss.isfinite()):
            raise _diverged(self.state.global_step + 1, "loss", float(loss))
        return loss

    def _get_train_sampler(self, *_: Any) -> torch.utils.data.Sampler[int]:
        return SequentialSampler(cast(Any, self.train_dataset))  # samples have their own order

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        if self.args.should_save:
            save_adapter(self._module.adapter, output_dir or str(self.args.output_dir))

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        folder = Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}"
        try:
            super()._save_checkpoint(model, trial)
            if self.args.should_save:
                (folder / COMPLETE).touch()
                self._drop_old()
        except (OSError, RuntimeError, SafetensorError) as error:  # torch.save raises RuntimeError on a full disk
            if not self.args.should_save:
                raise
            shutil.rmtree(folder, ignore_errors=True)
            kept = last_checkpoint(folder.parent)
            left = (
                f"{str(kept)!r} is kept; run the same command again to go on from it" if kept else "there is no other"
            )
            raise TrainingFileError(
                f"the checkpoint of step {self.state.global_step} cannot be written to {str(folder)!r}: {error}; "
                f"make room on the disk. {left}"
            ) from error

    def _drop_old(self) -> None:
        """Remove all but the newest checkpoints and the best; only now is it certain that the newest can be used."""
        best = self.state.best_model_checkpoint
        found = complete_checkpoints(Path(str(self.args.output_dir)))
        for each in found[: -self._keep]:
            if best is None or each.name != Path(best).name:
                shutil.rmtree(each, ignore_errors=True)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        _fill(self._module, Path(resume_from_checkpoint))

    def _load_best_model(self) -> None:
        assert self.state.best_model_checkpoint is not None
        _fill(self._module, Path(self.state.best_model_checkpoint))


class _Flow(TrainerCallback):
    """Decides when to log, evaluate and save beyond the usual, and when the softmax is no longer sampled."""

    def __init__(self, module: EpisodeLoss, full_from: int) -> None:
        self._module = module
        self._full_from = full_from

    def on_step_begin(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._module.sampling = state.global_step < self._full_from

    def on_pre_optimizer_step(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        norms = [each.grad.norm() for each in self._module.adapter.parameters() if each.grad is not None]
        total = torch.stack([each.to(norms[0].device) for each in norms]).norm()
        if not bool(total.isfinite()):
            raise _diverged(state.global_step + 1, "gradient", float(total))

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.global_step >= state.max_steps and args.save_strategy != "no":
            control.should_save = True
            control.should_evaluate = args.eval_strategy != "no"
        if control.should_save:
            control.should_log = True  # the sum of losses since the last report is not part of a checkpoint


def complete_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a run's folder that can be used, oldest first."""
    found = [each for each in folder.glob("checkpoint-*") if (each / COMPLETE).is_file()]
    return sorted(found, key=lambda each: int(each.name.rpartition("-")[2]))


def last_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint in a run's folder, if there is one."""
    return next(reversed(complete_checkpoints(folder)), None)


def drop_incomplete(folder: Path) -> None:
    """Remove the checkpoints that an interruption or a full disk left incomplete."""
    for each in folder.glob("checkpoint-*"):
        if not (each / COMPLETE).is_file():
            shutil.rmtree(each, ignore_errors=True)


def _fill(module: EpisodeLoss, folder: Path) -> None:
    module.adapter.load_state_dict(load_adapter(folder).state_dict())


def _diverged(step: int, what: str, value: float) -> DivergedError:
    return DivergedError(
        f"the {what} of step {step} is {value}; the last checkpoint is kept. Lower learning_rate, raise warmup, or "
        "look for damaged episodes"
    )
