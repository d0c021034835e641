"""What comes before a launch: the device, sizes, and the checks of the decoding kernels' arguments. Needs no Triton.

Every message of a check says what was given and what was expected.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, get_args

import torch
from torch import Tensor

MAX_RANK = 64
Update = Literal["standard", "lambda_outside", "no_lambda"]

FLOATS = (torch.float32, torch.bfloat16, torch.float16)


def current(device: torch.device) -> AbstractContextManager[Any]:
    """A context for launches: Triton launches on the current device, wherever the tensors are."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def power_of_two(n: int) -> int:
    """The smallest power of two that is at least n."""
    return 1 << (n - 1).bit_length()


def check_streams(
    projected: Tensor, pool: Tensor, slots: Tensor | None, heads: int, valid: Tensor | None
) -> tuple[int, int]:
    """Check the arguments that every call has; return B and R."""
    if heads < 1:
        raise ValueError(f"heads is {heads}; give a whole number above 0")
    if projected.ndim != 2:
        raise ValueError(f"projected has shape {shape(projected)}, expected [B, columns]")
    rank = pool.shape[-1] if pool.ndim else 0
    wanted = [(heads, rank, rank)] if heads > 1 else [(rank, rank), (1, rank, rank)]
    if tuple(pool.shape[1:]) not in wanted:
        raise ValueError(f"pool has shape {shape(pool)}, expected [slots, {heads}, R, R] to go with heads={heads}")
    if not 1 <= rank <= MAX_RANK:
        raise ValueError(f"pool has shape {shape(pool)}, rank {rank}; these kernels take 1 to {MAX_RANK}")
    if pool.shape[0] and not pool[0].is_contiguous():
        raise ValueError(f"pool has strides {list(pool.stride())}; each slot must be contiguous")
    batch, device = projected.shape[0], projected.device
    check_kind("projected", projected, FLOATS, device)
    check_kind("pool", pool, (torch.float32,), device)
    if slots is None:
        if pool.shape[0] != batch:
            raise ValueError(f"pool has shape {shape(pool)}, expected {batch} slots, one a stream, where slots is None")
    else:
        _check_vector("slots", slots, batch, torch.int64, device)
    if slots is not None and not slots.is_contiguous():
        raise ValueError(f"slots has stride {slots.stride(0)}; it must be contiguous")
    if valid is not None:
        _check_vector("valid", valid, batch, torch.bool, device)
    return batch, rank


def check_write(
    projected: Tensor, gate_bias: Tensor, heads: int, rank: int, update: str, own_lambda: bool, rankwise: bool
) -> None:
    """Check the columns and the bias of the gates, and the options that give their meaning."""
    if update not in get_args(Update):
        raise ValueError(f"update {update!r} is unknown; choose one of {', '.join(get_args(Update))}")
    if own_lambda and update == "no_lambda":
        raise ValueError("own_lambda is True with update 'no_lambda', which has no λ; set it to False")
    gates = (heads * rank if rankwise else heads) * (2 if own_lambda else 1)
    check_columns("projected", projected, 3 * heads * rank + gates)
    _check_vector("gate_bias", gate_bias, gates, torch.float32, projected.device)
    if not gate_bias.is_contiguous():
        raise ValueError(f"gate_bias has stride {gate_bias.stride(0)}; it must be contiguous")


def check_reads(reads: Tensor) -> tuple[int, int]:
    """Check reads that a kernel stored; return B and W."""
    if reads.ndim != 2 or not reads.is_contiguous():
        raise ValueError(f"reads has shape {shape(reads)}, strides {list(reads.stride())}; expected contiguous [B, W]")
    check_kind("reads", reads, (torch.float32,), reads.device)
    return reads.shape[0], reads.shape[1]


def check_target(name: str, out: Tensor, weight: Tensor, batch: int, width: int, device: torch.device) -> None:
    """Check a projection's output and its correction's weight."""
    if out.ndim != 2 or out.shape[0] != batch or weight.shape != (out.shape[1], width):
        raise ValueError(
            f"{name} has an output of shape {shape(out)} and a weight of shape {shape(weight)}; expected "
            f"[{batch}, n] and [n, {width}]"
        )
    check_kind(f"the output of {name}", out, FLOATS, device)
    check_kind(f"the weight of {name}", weight, FLOATS, device)
    check_columns(f"the output of {name}", out, 0)
    if not weight.is_contiguous():
        raise ValueError(f"the weight of {name} has strides {list(weight.stride())}; it must be contiguous")


def check_columns(name: str, x: Tensor, columns: int) -> None:
    """Check that a matrix has at least this many columns, and rows of unit stride."""
    if x.shape[1] < columns:
        raise ValueError(f"{name} has shape {shape(x)}, expected at least {columns} columns")
    if x.shape[1] > 1 and x.stride(1) != 1:
        raise ValueError(f"{name} has strides {list(x.stride())}; a row must be of unit stride")


def _check_vector(name: str, x: Tensor, size: int, dtype: torch.dtype, device: torch.device) -> None:
    """Check a vector."""
    if x.shape != (size,):
        raise ValueError(f"{name} has shape {shape(x)}, expected {[size]}")
    check_kind(name, x, (dtype,), device)


def check_kind(name: str, x: Tensor, dtypes: tuple[torch.dtype, ...], device: torch.device) -> None:
    """Check dtype and device."""
    if x.dtype not in dtypes:
        raise ValueError(f"{name} is {x.dtype}; allowed: {', '.join(map(str, dtypes))}")
    if x.device != device:
        raise ValueError(f"{name} is on {x.device}, expected {device}; move it")


def shape(x: Tensor) -> list[int]:
    """The shape as messages show it."""
    return list(x.shape)


def multiplier(scale: float | Tensor, targets: int, device: torch.device) -> tuple[float | Tensor, int]:
    """Check a scale; return the kernels' arguments scale and SCALES."""
    if not isinstance(scale, Tensor):
        return float(scale), 0
    check_kind("scale", scale, (torch.float32,), device)
    if scale.numel() != 1 and (scale.ndim != 1 or scale.numel() != targets or not scale.is_contiguous()):
        raise ValueError(f"scale has shape {shape(scale)}, expected one element, or {targets} side by side")
    return scale, 1 if scale.numel() == 1 else 2
