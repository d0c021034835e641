"""All settings of one stage of a backbone's training. Read from a recipe's JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from deltamem_agents import arguments
from deltamem_agents.errors import ConfigError, shown
from deltamem_agents.training.adapters.config import RECIPES, read_recipe
from deltamem_agents.training.adapters.phases import Curriculum
from deltamem_agents.training.backbones.shape import BackboneShape

STAGES = RECIPES / "backbones"


@dataclass(frozen=True, slots=True, kw_only=True)
class BackboneTrainingConfig:
    """How one stage of a backbone is trained; the same settings and versions on one machine give equal weights.

    Args:
        shape: Sizes; ignored if training begins from a backbone.
        corpus: Generated episodes from which the tokenizer is made, if training begins from nothing.
        steps: Optimiser steps.
        tokens: Tokens in a batch, padding included.
        peak: Learning rate of the matrices (Muon, matched to AdamW's step size), and of the rest (AdamW).
        warmup: Steps in which the learning rate rises.
        decay: Last share of the steps, over which it falls to nothing.
        copying: Share of draws that are random tokens with repeats: at the start, and once settled.
        closed: Share of draws that are conversations about the closed vocabulary: at the start, and once settled.
        settled: Share of the steps after which these shares stay.
        bare: Share of questions about facts that are also asked with nothing before them.
        finer: Share of words that are cut more finely than usual.
        plain: Share of episodes without any.
        text_weight: Weight of a token that is not part of an answer.
        checkpoint_every: Steps between two checkpoints.
        evaluate_every: Steps between two evaluations.
        evaluation: Held-out episodes in an evaluation; 0 evaluates nothing.
        seed: Of weights, data and order.
        mixture: What episodes consist of: fields of `Mixture`, or a list of these as a curriculum; see
            `AdapterTrainingConfig`.

    Raises:
        ConfigError: A field is out of range.
    """

    shape: BackboneShape = field(default_factory=BackboneShape)
    corpus: int = 12000
    steps: int = 1000
    tokens: int = 4096
    peak: float = 2e-3
    warmup: int = 50
    decay: float = 0.3
    copying: tuple[float, float] = (0.5, 0.08)
    closed: tuple[float, float] = (0.35, 0.2)
    settled: float = 0.15
    bare: float = 0.05
    finer: float = 0.15
    plain: float = 0.5
    text_weight: float = 0.1
    checkpoint_every: int = 50
    evaluate_every: int = 200
    evaluation: int = 100
    seed: int = 0
    mixture: Mapping[str, Any] | Sequence[Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        arguments.instance(self.shape, "shape", BackboneShape)
        for name in ("corpus", "steps", "checkpoint_every", "evaluate_every"):
            arguments.whole(getattr(self, name), name, 1)
        arguments.whole(self.tokens, "tokens", 64)
        for name in ("warmup", "evaluation", "seed"):
            arguments.whole(getattr(self, name), name)
        for name in ("decay", "settled", "bare", "finer", "plain", "text_weight"):
            _number(getattr(self, name), name)
        for name in ("copying", "closed"):
            _pair(getattr(self, name), name)
        _number(self.peak, "peak")
        Curriculum(self.mixture)

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0: a rise, a level, and a fall."""
        if step < self.warmup:
            return self.peak * (step + 1) / self.warmup
        falling = max(1.0, self.decay * self.steps)
        return self.peak * min(1.0, max(0.01, (self.steps - step) / falling))

    def shares(self, step: int) -> tuple[float, float]:
        """The shares of random tokens and of conversations at a step."""
        done = min(1.0, step / max(1.0, self.settled * self.steps))
        first, last = zip(self.copying, self.closed, strict=True)
        copying, closed = (a + (b - a) * done for a, b in zip(first, last, strict=True))
        return copying, closed

    def as_dict(self) -> dict[str, Any]:
        """All fields as JSON-ready values."""
        plain = {each.name: getattr(self, each.name) for each in fields(self)}
        mixture = dict(self.mixture) if isinstance(self.mixture, Mapping) else [dict(each) for each in self.mixture]
        return plain | {"shape": asdict(self.shape), "mixture": mixture}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> BackboneTrainingConfig:
        """Build from decoded JSON; fields that are missing have their defaults.

        Raises:
            ConfigError: A field is unknown or out of range.
        """
        values = dict(data)
        arguments.known_fields(values, cls, "training")
        if "shape" in values:
            shape = values["shape"]
            if not isinstance(shape, Mapping):
                raise ConfigError(f"shape is {shown(shape)}; give an object with the backbone's sizes")
            arguments.known_fields(shape, BackboneShape, "shape")
            values["shape"] = BackboneShape(**shape)
        values |= {name: tuple(values[name]) for name in ("copying", "closed") if isinstance(values.get(name), list)}
        return cls(**values)


def read_stage(source: str | Path) -> dict[str, Any]:
    """Read the recipe of a stage as plain values.

    Args:
        source: A JSON file, or the name of one that comes with this package: "tiny-1", "tiny-2".

    Raises:
        ConfigError: There is no such recipe, or it is not a JSON object.
    """
    return read_recipe(source, STAGES)


def _number(value: object, name: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ConfigError(f"{name} is {shown(value)}; give a number from 0 to 1")


def _pair(value: object, name: str) -> None:
    if not isinstance(value, tuple) or len(value) != 2:
        raise ConfigError(f"{name} is {shown(value)}; give a pair of numbers, at the start and once settled")
    for each in value:
        _number(each, name)
