"""Shape and write rule of an adapter. Knows nothing of tensors or files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from deltamem_agents.errors import ConfigError, shown

WriteUnit = Literal["token", "sentence", "message"]
UpdateMode = Literal["standard", "lambda_outside", "no_lambda"]
ScaleMode = Literal["fixed", "layer", "correction"]
CORRECTIONS = ("q", "k", "v", "o")
FORMAT = "deltamem-adapter"
FORMAT_VERSION = 1
LARGEST = 1e12  # limit on a number; float32 holds its square
LAYERS = 4096  # limit on a backbone's layers


@dataclass(frozen=True, slots=True, kw_only=True)
class DeltaMemConfig:
    """Shape and write rule of each adapted layer's state (arXiv:2605.12357, section 3).

    Args:
        rank: State side R, 1 to 64; a layer costs 4·heads·R² bytes per agent.
        alpha: Corrections are scaled by alpha / rank.
        heads: State matrices per layer, 1 to 64 (MSW if more than one).
        write: What is averaged into one write; fixed when the adapter is trained.
        update: Where λ enters the update: keep, erase = λ, β | λ, λβ | 1, β.
        couple_lambda: λ = 1 − β instead of a separate gate.
        rankwise_gates: One gate per state row instead of one per head.
        normalize_qk: q, k = l2norm(tanh(·)) per head.
        corrections: Which of q, k, v, o are corrected.
        layers: Adapted layers, ascending; None for all of them.
        o_rmsnorm: RMS norm of Δo, with a trained weight.
        o_rmsnorm_eps: Epsilon of that norm.
        scale: "fixed", or one trainable multiplier per layer or per correction, in (0, scale_max).
        scale_init: Initial value of the multiplier.
        scale_max: Upper bound of the multiplier.
        beta_bias: Initial bias of β; λ's own gate starts at its negative.
        init_gain: Norm of each column of a fresh correction.
        write_length: Tokens in a segment, which shares one causal context when written.
        answer_writes: Whether it was trained to write while answering: then the tokens of a question and of its answer
            write into a scratch copy of the state, one write per token. If not, answering is read-only.
        hidden_size: Width of the backbone; None until known.
        num_layers: Depth of the backbone; None if the adapter's file does not say.
        model_type: Family of the backbone; None if the adapter's file does not say.

    Raises:
        ConfigError: A field is out of range.
    """

    rank: int = 8
    alpha: float = 16.0
    heads: int = 1
    write: WriteUnit = "token"
    update: UpdateMode = "standard"
    couple_lambda: bool = True
    rankwise_gates: bool = True
    normalize_qk: bool = True
    corrections: tuple[str, ...] = ("q", "o")
    layers: tuple[int, ...] | None = None
    o_rmsnorm: bool = False
    o_rmsnorm_eps: float = 1e-6
    scale: ScaleMode = "fixed"
    scale_init: float = 1.0
    scale_max: float = 2.0
    beta_bias: float = -1.5
    init_gain: float = 0.05
    write_length: int = 1024
    answer_writes: bool = False
    hidden_size: int | None = None
    num_layers: int | None = None
    model_type: str | None = None

    def __post_init__(self) -> None:
        for name in ("corrections", "layers"):
            if isinstance(getattr(self, name), list):
                object.__setattr__(self, name, tuple(getattr(self, name)))
        _whole(self.rank, "rank", 1, 64)
        _whole(self.heads, "heads", 1, 64)
        _whole(self.write_length, "write_length", 1, 1 << 20)
        for name in ("alpha", "o_rmsnorm_eps", "scale_init", "scale_max"):
            _number(getattr(self, name), name, positive=True)
        for name in ("beta_bias", "init_gain"):
            _number(getattr(self, name), name, positive=False)
        for name in ("couple_lambda", "rankwise_gates", "normalize_qk", "o_rmsnorm", "answer_writes"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"{name} is {shown(getattr(self, name))}; give true or false")
        _choice(self.write, "write", get_args(WriteUnit))
        _choice(self.update, "update", get_args(UpdateMode))
        _choice(self.scale, "scale", get_args(ScaleMode))
        if self.scale_init >= self.scale_max:
            raise ConfigError(f"scale_init is {self.scale_init}; it must be below scale_max, which is {self.scale_max}")
        self._check_corrections()
        self._check_backbone()

    def _check_corrections(self) -> None:
        given = self.corrections
        if not isinstance(given, tuple) or not given or not all(each in CORRECTIONS for each in given):
            raise ConfigError(f"corrections is {shown(given)}; give at least one of {', '.join(CORRECTIONS)}")
        if len(set(given)) != len(given):
            raise ConfigError(f"corrections is {shown(given)}; name each one once")
        if self.o_rmsnorm and "o" not in given:
            raise ConfigError("o_rmsnorm is true without an o correction; add 'o' to corrections or turn it off")
        # One canonical order, so that two spellings of one adapter have one fingerprint.
        object.__setattr__(self, "corrections", tuple(name for name in CORRECTIONS if name in given))

    def _check_backbone(self) -> None:
        for name, most in (("hidden_size", 1 << 20), ("num_layers", LAYERS)):
            if getattr(self, name) is not None:
                _whole(getattr(self, name), name, 1, most)
        if self.model_type is not None and not isinstance(self.model_type, str):
            raise ConfigError(f"model_type is {shown(self.model_type)}; give the family's name, such as 'qwen3'")
        if self.layers is None:
            return
        if not isinstance(self.layers, tuple) or not self.layers:
            raise ConfigError(f"layers is {shown(self.layers)}; give layer numbers, or null for all layers")
        for index in self.layers:
            _whole(index, "a layer number", 0, (self.num_layers or LAYERS) - 1)
        if list(self.layers) != sorted(set(self.layers)):
            raise ConfigError(f"layers is {shown(self.layers)}; give each number once, in ascending order")

    @property
    def width(self) -> int:
        """Columns of a read: heads times rank."""
        return self.heads * self.rank

    @property
    def gate_width(self) -> int:
        """Outputs of one gate: one per state row, or one per head."""
        return self.width if self.rankwise_gates else self.heads

    @property
    def own_lambda(self) -> bool:
        """Whether λ has its own weights."""
        return not self.couple_lambda and self.update != "no_lambda"

    @property
    def projection_width(self) -> int:
        """Rows of the packed memory projection: q, k, v and the gates."""
        return 3 * self.width + self.gate_width * (2 if self.own_lambda else 1)

    @property
    def state_shape(self) -> tuple[int, ...]:
        """Shape of one layer's state without a batch axis: [R, R], or [H, R, R] with several heads."""
        return (self.rank, self.rank) if self.heads == 1 else (self.heads, self.rank, self.rank)

    def to_json(self) -> str:
        """All fields as indented JSON, with the format's name and version."""
        return json.dumps({"format": FORMAT, "version": FORMAT_VERSION} | asdict(self), indent=2) + "\n"

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> DeltaMemConfig:
        """Build from a decoded JSON object.

        Raises:
            ConfigError: The data has another format or version, an unknown field, or a value out of range.
        """
        if not isinstance(data, Mapping):
            raise ConfigError(f"an adapter's config is {shown(data)}; give a mapping")
        values = dict(data)
        found = (values.pop("format", None), values.pop("version", None))
        if found != (FORMAT, FORMAT_VERSION):
            raise ConfigError(
                f"adapter format is {shown(found[0])} version {shown(found[1])}; this release reads {FORMAT!r} version "
                f"{FORMAT_VERSION}; save the adapter again with a matching release"
            )
        unknown = sorted(map(str, values.keys() - {field.name for field in fields(cls)}))
        if unknown:
            raise ConfigError(f"unknown adapter options {shown(unknown)}; install a release that knows them")
        return cls(**values)


def _whole(value: object, name: str, low: int, high: int) -> None:
    if type(value) is not int or not low <= value <= high:
        raise ConfigError(f"{name} is {shown(value)}; give a whole number from {low} to {high}")


def _number(value: object, name: str, *, positive: bool) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= LARGEST:
        raise ConfigError(f"{name} is {shown(value)}; give a number of at most {LARGEST:g}")
    if positive and value <= 0:
        raise ConfigError(f"{name} is {shown(value)}; give a number above 0")


def _choice(value: object, name: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ConfigError(f"{name} is {shown(value)}; give one of {', '.join(allowed)}")
