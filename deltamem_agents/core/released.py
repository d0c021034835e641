"""Converts the authors' adapter format: its options and tensor names to ours. Reads no files."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from deltamem_agents.core.config import CORRECTIONS, DeltaMemConfig
from deltamem_agents.errors import AdapterFileError, UnsupportedModelError, shown

AUTHORS_CONFIG = "delta_mem_config.json"
AUTHORS_WEIGHTS = "delta_mem_adapter.pt"

# Options that must have this value: each one controls a mechanism that this package does not have.
_REQUIRED: dict[str, Any] = {
    "num_memory_partitions": 1,
    "num_global_memory_partitions": 0,
    "memory_partition_routing": "soft",
    "memory_partition_basis": "shared",
    "tie_memory_partition_read_write": False,
    "memory_partition_read_mode": "softmax",
    "slot_read_top_k": 0,
    "global_memory_mode": "shared_rw",
    "global_memory_read_top_k": 0,
    "global_memory_merge_mode": "gated_residual",
    "global_memory_read_logit_bias": 0.0,
    "memory_reader_layers": [],
    "memory_readout_mode": "delta",
    "memory_write_source": "learned_hidden",
    "memory_write_proposals_per_message": 2,
    "synthetic_memory_slots": 1,
    "latent_memory_layers": [],
    "target_modules": ["self_attn"],
    "delta_scale_parameterization": "alpha_over_rank",
}
# Options without effect on a trained adapter: their mechanism is off, or they only matter when training starts.
_IGNORED = {
    "output_init",
    "base_slice_ref_width",
    "memory_partition_sigmoid_gate_bias_init",
    "global_memory_gate_bias_init",
    "memory_reader_hidden_size",
    "memory_reader_residual_scale",
    "memory_reader_read_only",
    "latent_memory_hidden_size",
    "latent_memory_residual_scale",
    "latent_memory_slots",
    "latent_memory_init_std",
    "latent_gate_init",
    "base_model",
    "base_model_name_or_path",
    "model_name",
    "model_name_or_path",
    "torch_dtype",
    "transformers_version",
}
_WRITES = {"token": "token", "message_mean": "message", "sentence_mean": "sentence"}
# Their name: our name, and their default.
_RENAMED: dict[str, tuple[str, Any]] = {
    "rank": ("rank", 8),
    "alpha": ("alpha", 16.0),
    "num_state_heads": ("heads", 1),
    "state_update_mode": ("update", "standard"),
    "couple_lambda": ("couple_lambda", True),
    "rankwise_gates": ("rankwise_gates", True),
    "normalize_qk": ("normalize_qk", True),
    "delta_o_rmsnorm_eps": ("o_rmsnorm_eps", 1e-6),
    "delta_scale_init": ("scale_init", 1.0),
    "delta_scale_max": ("scale_max", 2.0),
    "beta_bias_init": ("beta_bias", -1.5),
    "online_gain": ("init_gain", 0.05),
}
_SPECIAL = {
    "memory_write_granularity",
    "delta_heads",
    "delta_o_rmsnorm",
    "target_layers",
    "trainable_delta_scale",
    "delta_scale_granularity",
}
_NAME = re.compile(r"(?:.*\.)?layers\.(\d{1,5})\.self_attn\.(\w+)")


def convert_config(options: Mapping[str, Any]) -> DeltaMemConfig:
    """Convert the authors' options to our config; backbone facts stay open.

    Raises:
        UnsupportedModelError: An option that this package does not have; the message names it and its value.
        ConfigError: A value is out of range.
    """
    for name, value in options.items():
        known = name in _RENAMED or name in _SPECIAL or name in _IGNORED
        if name in _REQUIRED and value != _REQUIRED[name]:
            raise _unsupported(name, value, f"only {_REQUIRED[name]!r} is supported")
        if not known and name not in _REQUIRED and value:
            raise _unsupported(name, value, "this release does not know it")
    granularity = options.get("memory_write_granularity", "token")
    if not isinstance(granularity, str) or granularity not in _WRITES:
        raise _unsupported("memory_write_granularity", granularity, f"use one of {', '.join(_WRITES)}")
    values = {ours: options.get(theirs, default) for theirs, (ours, default) in _RENAMED.items()}
    heads = options.get("delta_heads", list(CORRECTIONS))
    heads = [part.strip() for part in heads.split(",")] if isinstance(heads, str) else heads
    scale = "fixed"
    if options.get("trainable_delta_scale", False):
        granularities = {"layer": "layer", "head": "correction"}
        given = options.get("delta_scale_granularity", "layer")
        if not isinstance(given, str) or given not in granularities:
            raise _unsupported("delta_scale_granularity", given, f"use one of {', '.join(granularities)}")
        scale = granularities[given]
    layers = options.get("target_layers") or None
    return DeltaMemConfig(
        **values,
        write=_WRITES[granularity],  # type: ignore[arg-type]
        corrections=tuple(heads),
        # A norm has no effect without its correction.
        o_rmsnorm=bool(options.get("delta_o_rmsnorm", False)) and "o" in heads,
        scale=scale,  # type: ignore[arg-type]
        layers=tuple(sorted(set(layers))) if layers else None,
    )


def convert_weights(
    config: DeltaMemConfig, tensors: Mapping[str, Tensor], source: str
) -> tuple[DeltaMemConfig, dict[str, Tensor]]:
    """Convert the authors' tensors to ours, and complete the config with facts from the shapes.

    Raises:
        AdapterFileError: A tensor has an unknown name, is missing, or does not fit the others.
    """
    layers: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        match = _NAME.fullmatch(name)
        if match is None:
            raise AdapterFileError(
                f"{source!r} holds {shown(name)}, which is not a tensor of an adapter; fetch it again"
            )
        layers.setdefault(int(match[1]), {})[match[2]] = tensor
    converted: dict[str, Tensor] = {}
    for index, parts in layers.items():
        try:
            for name, tensor in _convert_layer(config, parts).items():
                converted[f"layers.{index}.{name}"] = tensor
        except (KeyError, RuntimeError, IndexError, TypeError, ValueError) as error:
            raise AdapterFileError(
                f"{source!r}: layer {index} lacks a tensor the config asks for, or one has another shape: {error}"
            ) from error
    if not layers:
        raise AdapterFileError(f"{source!r} holds no tensors; fetch the adapter again")
    hidden = converted[f"layers.{min(layers)}.memory"].shape[-1]
    depth = len(layers) if config.layers is None else None
    return replace(config, hidden_size=hidden, num_layers=depth), converted


def _convert_layer(config: DeltaMemConfig, parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
    own = ["lambda"] if config.own_lambda else []
    rows = [parts[name] for name in ("memory_q_proj", "memory_k_proj", "memory_v_proj", "beta_proj")]
    blocks = zip(rows, [config.width] * 3 + [config.gate_width], strict=True)
    for tensor, height in blocks:
        if tensor.dim() != 2 or tensor.shape[0] != height:
            raise IndexError(f"a projection has shape {tuple(tensor.shape)}, the config asks for {height} rows")
    layer = {
        "memory": torch.cat([*rows, *(parts[f"{name}_proj"] for name in own)]),
        "gate_bias": torch.cat([parts["beta_bias"], *(parts[f"{name}_bias"] for name in own)]),
    }
    layer |= {f"corrections.{name}": parts[f"delta_{name}_proj"] for name in config.corrections}
    if config.o_rmsnorm:
        layer["o_norm"] = parts["delta_o_rmsnorm_weight"]
    if config.scale != "fixed":
        layer["scale"] = parts["delta_scale_raw"]
    return layer


def _unsupported(name: str, value: object, limit: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"adapter option {shown(name)} is {shown(value)}; {limit}, train the adapter without it"
    )
