"""All settings that determine how an adapter is trained, and the files they are read from: recipes.

A recipe is a JSON object with the fields of `AdapterTrainingConfig`, of which ``adapter`` is an object with those of
`DeltaMemConfig`, and ``chat_template`` names a file next to the recipe.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

from deltamem_agents import arguments, bounded_json
from deltamem_agents.core import DeltaMemConfig
from deltamem_agents.errors import ConfigError, shown
from deltamem_agents.training.adapters.phases import Curriculum

RECIPES = Path(__file__).parents[1] / "recipes"
TEMPLATE_BYTES = 1 << 20  # limit on a chat template
Start = Literal["random", "linear-attention", "induction"]
Schedule = Literal["linear", "cosine", "constant"]
Precision = Literal["auto", "float32", "bfloat16"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterTrainingConfig:
    """How an adapter is trained; equal settings, data, seed and versions on one machine give equal files.

    Args:
        adapter: Shape and write rule; ignored if training begins from an adapter.
        start: Initial weights: "random" as in the paper; "linear-attention", the linear form of what all heads of the
            adapted layers do, for backbones without rotary positions there; or "induction", that of their induction
            heads, for any backbone.
        steps: Optimiser steps.
        episodes: Episodes in a batch, on each device.
        accumulation: Batches per step.
        questions: Maximum number of an episode's questions that are asked in a step, drawn anew each time.
        learning_rate: Its peak.
        schedule: What follows the warm-up: a linear or cosine fall to zero, or nothing.
        warmup: Steps in which the learning rate rises to its peak.
        weight_decay: Of AdamW.
        clip: Maximum norm of the gradient.
        negatives: Random tokens of a sampled softmax, next to all tokens of the batch; 0 for the whole vocabulary.
        full_share: Last share of the steps, which train under the whole vocabulary in any case.
        unchanged_weight: Weight of the divergence from the bare backbone on replies that should stay as they were.
        precision: "bfloat16" autocast, "float32", or "auto": bfloat16 on a GPU that has it, float32 otherwise.
        checkpointing: Compute the adapted layers again in the backward pass instead of saving what they computed.
        checkpoint_every: Steps between two checkpoints, and two evaluations.
        keep: Number of checkpoints that are kept, the best one not counted.
        evaluation: Held-out episodes in an evaluation; 0 evaluates nothing.
        calibration: Held-out episodes to which confidences are fitted at the end; 0 leaves them uncalibrated.
        patience: Evaluations without a better result after which training stops; 0 trains all steps.
        log_every: Steps between two reports of the loss.
        workers: Processes that prepare batches; 0 for none.
        seed: Of weights, data and sampling.
        mixture: What generated episodes consist of: fields of `Mixture`, or a list of these as a curriculum, of which
            each but the last says ``until`` which share of the run it holds.
        chat_template: Chat template for a tokenizer without one.

    Raises:
        ConfigError: A field is out of range.
    """

    adapter: DeltaMemConfig = field(default_factory=DeltaMemConfig)
    start: Start = "random"
    steps: int = 1000
    episodes: int = 8
    accumulation: int = 1
    questions: int = 8
    learning_rate: float = 3e-3
    schedule: Schedule = "linear"
    warmup: int = 50
    weight_decay: float = 0.0
    clip: float = 1.0
    negatives: int = 0
    full_share: float = 0.2
    unchanged_weight: float = 1.0
    precision: Precision = "auto"
    checkpointing: bool = False
    checkpoint_every: int = 100
    keep: int = 2
    evaluation: int = 64
    calibration: int = 64
    patience: int = 0
    log_every: int = 10
    workers: int = 0
    seed: int = 0
    mixture: Mapping[str, Any] | Sequence[Mapping[str, Any]] = field(default_factory=dict)
    chat_template: str | None = None

    def __post_init__(self) -> None:
        arguments.instance(self.adapter, "adapter", DeltaMemConfig)
        for name in ("steps", "episodes", "accumulation", "questions", "checkpoint_every", "keep", "log_every"):
            arguments.whole(getattr(self, name), name, 1)
        for name in ("warmup", "negatives", "patience", "workers", "evaluation", "calibration"):
            arguments.whole(getattr(self, name), name)
        arguments.whole(self.seed, "seed", 0, (1 << 32) - 1)  # the limit of numpy's generators
        if self.evaluation == 1:
            raise ConfigError("evaluation is 1; give 0 for none, or at least 2, so that one can read another's state")
        for name in ("learning_rate", "clip"):
            _number(getattr(self, name), name, above=True)
        for name in ("weight_decay", "unchanged_weight"):
            _number(getattr(self, name), name)
        _number(self.full_share, "full_share", most=1.0)
        for name, kind in (("start", Start), ("schedule", Schedule), ("precision", Precision)):
            arguments.one_of(getattr(self, name), name, get_args(kind))
        if not isinstance(self.checkpointing, bool):
            raise ConfigError(f"checkpointing is {shown(self.checkpointing)}; give true or false")
        Curriculum(self.mixture)
        if self.chat_template is not None:
            arguments.text(self.chat_template, "chat_template")

    @property
    def full_from(self) -> int:
        """The first step, counted from 0, that trains under the whole vocabulary."""
        return 0 if self.negatives == 0 else round(self.steps * (1 - self.full_share))

    def as_dict(self) -> dict[str, Any]:
        """All fields as JSON-ready values."""
        plain = {each.name: getattr(self, each.name) for each in fields(self)}
        mixture = dict(self.mixture) if isinstance(self.mixture, Mapping) else [dict(each) for each in self.mixture]
        return plain | {"adapter": asdict(self.adapter), "mixture": mixture}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> AdapterTrainingConfig:
        """Build from decoded JSON; fields that are missing have their defaults.

        Raises:
            ConfigError: A field is unknown or out of range.
        """
        values = dict(data)
        arguments.known_fields(values, cls, "training")
        if "adapter" in values:
            shape = values["adapter"]
            if not isinstance(shape, Mapping):
                raise ConfigError(f"adapter is {shown(shape)}; give an object with the adapter's shape")
            arguments.known_fields(shape, DeltaMemConfig, "adapter")
            values["adapter"] = DeltaMemConfig(**shape)
        return cls(**values)


def read_recipe(source: str | Path, folder: Path = RECIPES) -> dict[str, Any]:
    """Read a recipe as plain values, to change some before `AdapterTrainingConfig.from_dict` checks them.

    Args:
        source: A JSON file, or the name of a recipe that comes with this package, such as "gemma-3-270m".
        folder: Where recipes with names stand.

    Raises:
        ConfigError: There is no such recipe, it is not a JSON object, or its chat template cannot be read.
    """
    path = Path(source)
    if not path.is_file():
        path = folder / f"{source}.json"
        if path.parent != folder or not path.is_file():
            names = ", ".join(recipe_names(folder))
            raise ConfigError(f"there is no recipe {shown(str(source))}; give a JSON file, or one of {names}")
    try:
        values = bounded_json.read(path)
    except (OSError, ValueError) as error:
        raise ConfigError(f"recipe {str(path)!r} cannot be read: {error}; give a JSON object") from error
    if not isinstance(values, dict):
        raise ConfigError(f"recipe {str(path)!r} is {shown(values)}; give a JSON object")
    if isinstance(values.get("chat_template"), str):
        values["chat_template"] = read_template(path.parent / values["chat_template"])
    return values


def recipe_names(folder: Path = RECIPES) -> list[str]:
    """The recipes that come with this package, for adapters unless another folder is named."""
    return sorted(path.stem for path in folder.glob("*.json"))


def read_template(path: Path) -> str:
    """Read a chat template.

    Raises:
        ConfigError: The file is missing, too large, or not text.
    """
    try:
        if path.stat().st_size > TEMPLATE_BYTES:
            raise ConfigError(f"chat template {str(path)!r} has more than {TEMPLATE_BYTES} bytes; give a template")
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"chat template {str(path)!r} cannot be read: {error}; give a text file") from error


def _number(value: object, name: str, *, above: bool = False, most: float = 1e6) -> None:
    low = "above 0" if above else "from 0"
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most or (above and not value):
        raise ConfigError(f"{name} is {shown(value)}; give a number {low} to {most:g}")
