"""The command group ``train``: an adapter, a small backbone, or a model like the bundled one."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deltamem_agents import terminal
from deltamem_agents.cli.app import Debug, app, interruptible
from deltamem_agents.cli.options import Device, Json

if TYPE_CHECKING:
    from deltamem_agents.training import AdapterProgress, TrainedAdapter

train = typer.Typer(
    name="train", help="Train an adapter, a small backbone, or a model like the bundled one.", no_args_is_help=True
)
app.add_typer(train)


@train.callback()
def _group() -> None:
    """Train an adapter, or a small model."""


@train.command()
def adapter(
    backbone: Annotated[str, typer.Option("--backbone", help="Folder or hub id of the model, which is not changed.")],
    out: Annotated[
        Path, typer.Option("--out", help="Folder for the adapter; if it holds an interrupted run, that run continues.")
    ],
    data: Annotated[
        str, typer.Option("--data", help="File of episodes (JSON lines), data set on the hub, or 'generated'.")
    ] = "generated",
    recipe: Annotated[
        str | None,
        typer.Option("--config", help="Recipe: a JSON file, or the name of one that comes with the package."),
    ] = None,
    begin_from: Annotated[
        Path | None, typer.Option("--from", help="Begin from this adapter's weights, with a new warm-up.")
    ] = None,
    chat_template: Annotated[
        Path | None, typer.Option("--chat-template", help="File with a chat template, for a backbone without one.")
    ] = None,
    steps: Annotated[int | None, typer.Option("--steps", help="Optimiser steps.")] = None,
    episodes: Annotated[int | None, typer.Option("--episodes", help="Episodes in a batch.")] = None,
    accumulation: Annotated[int | None, typer.Option("--accumulation", help="Batches per step.")] = None,
    learning_rate: Annotated[float | None, typer.Option("--learning-rate", help="Peak of the learning rate.")] = None,
    precision: Annotated[str | None, typer.Option("--precision", help="auto, float32 or bfloat16.")] = None,
    checkpointing: Annotated[
        bool | None,
        typer.Option("--checkpointing/--no-checkpointing", help="Save memory by computing layers twice."),
    ] = None,
    evaluation: Annotated[
        int | None, typer.Option("--evaluation", help="Held-out episodes in an evaluation; 0 evaluates nothing.")
    ] = None,
    checkpoint_every: Annotated[
        int | None, typer.Option("--checkpoint-every", help="Steps between checkpoints, and evaluations.")
    ] = None,
    patience: Annotated[
        int | None,
        typer.Option("--patience", help="Stop after so many evaluations without a better one; 0 never does."),
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Equal seeds give equal adapters.")] = None,
    device: Device = "auto",
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write logs for TensorBoard into the folder.")
    ] = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Train an adapter for a backbone, which stays frozen, on episodes of things told and asked."""
    given = {
        "steps": steps,
        "episodes": episodes,
        "accumulation": accumulation,
        "learning_rate": learning_rate,
        "precision": precision,
        "checkpointing": checkpointing,
        "evaluation": evaluation,
        "checkpoint_every": checkpoint_every,
        "patience": patience,
        "seed": seed,
    }
    with terminal.progress("Loading torch") as advance, interruptible(lambda: _going_on(out)):
        from deltamem_agents.bench.outputs import check_folder
        from deltamem_agents.training import (
            AdapterTrainingConfig,
            read_recipe,
            read_template,
            train_adapter_for,
        )

        terminal.quiet_bars()
        values: dict[str, Any] = {} if recipe is None else read_recipe(recipe)
        values |= {name: value for name, value in given.items() if value is not None}
        if chat_template is not None:
            values["chat_template"] = read_template(chat_template)
        config = AdapterTrainingConfig.from_dict(values)
        check_folder(out)
        advance(f"Loading {backbone}", 0, 0)
        trained = train_adapter_for(
            backbone,
            data,
            out,
            config,
            begin_from=begin_from,
            device=device,
            tensorboard=tensorboard,
            on_plan=lambda plan: terminal.say(str(plan), err=True) if _first_process() else None,
            on_progress=_shown(advance),
        )
    if _first_process():
        terminal.print_json(_as_dict(trained)) if json else _show(trained, backbone)


@train.command()
def backbone(
    out: Annotated[
        Path, typer.Option("--out", help="Folder for the backbone; if it holds an interrupted stage, that continues.")
    ],
    recipe: Annotated[
        str, typer.Option("--config", help="Recipe: a JSON file, or the name of one that comes with the package.")
    ] = "tiny-1",
    begin_from: Annotated[
        Path | None, typer.Option("--from", help="Begin from the backbone that the stage before left.")
    ] = None,
    steps: Annotated[int | None, typer.Option("--steps", help="Optimiser steps.")] = None,
    evaluation: Annotated[
        int | None, typer.Option("--evaluation", help="Held-out episodes in an evaluation; 0 evaluates nothing.")
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Equal seeds give equal backbones.")] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Train one stage of a small backbone that reads an open vocabulary; an adapter is trained on it afterwards."""
    going_on = f"what was reached is in {out}; run the same command again to go on from its last checkpoint"
    with terminal.progress("Loading torch") as advance, interruptible(going_on):
        from dataclasses import asdict

        from deltamem_agents.bench.outputs import check_folder
        from deltamem_agents.training import (
            BackboneProgress,
            BackboneTrainingConfig,
            Reading,
            read_stage,
            train_backbone_stage,
        )

        given = {"steps": steps, "evaluation": evaluation, "seed": seed}
        values = read_stage(recipe) | {name: value for name, value in given.items() if value is not None}
        config = BackboneTrainingConfig.from_dict(values)
        measured: tuple[Reading, ...] = ()
        loss = 0.0

        def on_progress(now: BackboneProgress) -> None:
            nonlocal measured, loss
            measured, loss = now.measured or measured, now.loss
            left = _time((now.steps - now.step) * now.seconds / now.step)
            advance(f"loss {loss:.3f}, {now.right:.0%} right, {left} left", now.step, now.steps)

        check_folder(out)  # before minutes are spent
        train_backbone_stage(out, config, begin_from=begin_from, on_progress=on_progress)
    if json:
        terminal.print_json({"out": str(out), "loss": loss, "measured": [asdict(each) for each in measured]})
        return
    if measured:
        rows = [(each.kind, f"{each.right:.3f}", str(each.questions)) for each in measured]
        terminal.stdout().print(terminal.table(("question", "right", "questions"), rows))
    terminal.say(f"saved to {out}; go on with --from {out}, or train an adapter with --backbone {out}")


@train.command()
def tiny(
    out: Annotated[Path, typer.Option("--out", help="Folder for the backbone, its tokenizer and its adapter.")],
    steps_backbone: Annotated[
        int | None, typer.Option("--steps-backbone", help="Steps of the backbone; by default the bundled model's.")
    ] = None,
    steps_adapter: Annotated[
        int | None, typer.Option("--steps-adapter", help="Steps of the adapter; by default the bundled model's.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Equal seeds give equal files.")] = 0,
    conversations: Annotated[
        int,
        typer.Option(
            "--conversations", help="Held-out conversations behind each figure of the model card; 0 measures nothing."
        ),
    ] = 256,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Train a small backbone and its adapter as the bundled ones were, from generated conversations."""
    reached: dict[str, dict[str, Any]] = {}
    with terminal.progress("Loading torch") as advance, interruptible(f"no finished model is in {out}"):
        from deltamem_agents.bench.outputs import check_folder
        from deltamem_agents.training import StageProgress, train_tiny

        def on_progress(now: StageProgress) -> None:
            if now.stage == "evaluation":
                advance(now.stage, now.step, now.steps)
                return
            reached[now.stage] = {"steps": now.step, "loss": now.loss, "right": now.right}
            advance(f"{now.stage}: loss {now.loss:.3f}, {now.right:.0%} right", now.step, now.steps)

        check_folder(out)  # before minutes are spent
        trained = train_tiny(
            out,
            backbone_steps=steps_backbone,
            adapter_steps=steps_adapter,
            seed=seed,
            conversations=conversations,
            on_progress=on_progress,
        )
    if json:
        terminal.print_json({"out": str(trained.folder), "seconds": trained.seconds, "stages": reached})
        return
    for stage, last in reached.items():
        terminal.say(f"{stage}: {last['steps']} steps, loss {last['loss']:.3f}, {last['right']:.0%} right")
    terminal.say(f"saved to {trained.folder}; use it with --backbone {trained.folder}")


def _first_process() -> bool:
    """Whether this is the only process of a run, or the first of several that torchrun or accelerate started."""
    return os.environ.get("RANK", "0") == "0"


def _shown(advance: terminal.Advance) -> Callable[[AdapterProgress], None]:
    """Show the progress of a run on the bar."""
    loss = ""

    def on_progress(now: AdapterProgress) -> None:
        nonlocal loss
        loss = loss if now.loss is None else f"loss {now.loss:.3f}"
        right = "" if now.right is None else f", {now.right:.0%} right"
        left = "" if now.seconds_left is None else f", {_time(now.seconds_left)} left"
        advance(f"{loss}{right}{left}", now.step, now.steps)

    return on_progress


def _time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def _going_on(out: Path) -> str:
    from deltamem_agents.training.adapters.run_folder import CHECKPOINTS
    from deltamem_agents.training.adapters.trainer import last_checkpoint

    last = last_checkpoint(out / CHECKPOINTS)
    if last is None:
        return f"no checkpoint is in {out} yet"
    return f"step {last.name.rpartition('-')[2]} is in {out}; run the same command again to go on from it"


def _as_dict(trained: TrainedAdapter) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "out": str(trained.folder),
        "steps": trained.steps,
        "best_step": trained.best_step,
        "seconds": round(trained.seconds, 1),
        "loss": trained.losses[max(trained.losses)] if trained.losses else None,
        "measured": [asdict(each) for each in trained.measured],
        "memory": {"peak": trained.plan.peak} | asdict(trained.plan),
    }


def _show(trained: TrainedAdapter, backbone: str) -> None:
    if trained.measured:
        rows = [(each.kind, each.arm, f"{each.right:.3f}", str(each.questions)) for each in trained.measured]
        terminal.stdout().print(terminal.table(("kind", "state", "right", "questions"), rows))
    terminal.say(f"{trained.steps} steps in {_time(trained.seconds)}, the weights of step {trained.best_step} kept")
    terminal.say(
        f"saved to {trained.folder}; use it with --backbone {terminal.shell_word(backbone)} --adapter "
        f"{terminal.shell_word(str(trained.folder))}"
    )
