"""Decoding on a GPU: one token of each stream reads its slot in a pool of states, is corrected, and may be written.

A layer costs two launches: `read_and_correct` before attention, then `correct`. A third, `write`, changes the state if
the token is written. `step` reads and writes in one launch.

Shapes: B streams, P slots, H heads, R rank, W = H·R. Reads and states are float32. Device code: ``decode_kernels.py``.
Nothing here waits for the device or inspects a value, so all of it can be captured in a CUDA graph after one uncaptured
call, as the first call with new shapes or dtypes compiles.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from deltamem_kernels.gpu.launching import (
    FLOATS,
    Update,
    check_columns,
    check_kind,
    check_reads,
    check_streams,
    check_target,
    check_write,
    current,
    multiplier,
    power_of_two,
    shape,
)

MAX_TARGETS = 3


def unavailable(device: torch.device | str) -> str | None:
    """Why these kernels cannot run on tensors of a device; None if they can.

    Triton's interpreter (TRITON_INTERPRET=1 before the first import of the kernels) accepts CPU tensors too.
    """
    return _unavailable(torch.device(device).type)


def read_and_correct(
    projected: Tensor,
    pool: Tensor,
    slots: Tensor | None,
    targets: Sequence[tuple[Tensor, Tensor]],
    scale: float | Tensor,
    *,
    heads: int,
    normalize: bool,
    valid: Tensor | None = None,
) -> Tensor:
    """Read every stream's state and add the corrections of up to three projections in place, in one launch.

        q = l2norm(tanh(projected[:, :W])) per head      (projected[:, :W] itself without ``normalize``)
        reads[h,i] = <S[h,i,:], q[h]>
        out += scale · weight @ reads                    for each target

    Args:
        projected: [B, ≥ W], q first; float32, bfloat16 or float16, rows of unit stride. The memory columns of a packed
            [q|k|v|memory] buffer qualify.
        pool: [P, H, R, R], or [P, R, R] with one head; float32, each slot contiguous.
        slots: [B] int64, each below P; a stream with slot -1 reads zero and is not corrected. None: P is B, and each
            stream has the slot of its own number.
        targets: Pairs (out [B, n], weight [n, W]), possibly none. Outs are float32, bfloat16 or float16, rows of unit
            stride, and share no element with one another or with ``projected[:, :W]``. Weights are contiguous.
        scale: A number, or a float32 tensor with one element, or with one per target.
        heads: H.
        normalize: Whether q is normalised as above.
        valid: [B] bool; False is treated as slot -1.

    Returns:
        The reads [B, W] float32, for `correct`.

    Raises:
        ValueError: A shape, dtype, stride or device does not fit.
        RuntimeError: The kernels cannot run on this device; the message says why.
    """
    batch, rank = check_streams(projected, pool, slots, heads, valid)
    width = heads * rank
    check_columns("projected", projected, width)
    if len(targets) > MAX_TARGETS:
        raise ValueError(
            f"{len(targets)} targets are given, at most {MAX_TARGETS} go in one launch; correct the others"
        )
    for number, (out, weight) in enumerate(targets):
        check_target(f"target {number}", out, weight, batch, width, projected.device)
    factor, scales = multiplier(scale, len(targets), projected.device)
    kernels = _kernels(projected.device)
    reads = torch.empty(batch, width, dtype=torch.float32, device=projected.device)
    # Kernels take three targets; an absent one has no outputs.
    absent = (reads, reads, 0)
    three = [(out, weight, out.shape[1]) for out, weight in targets] + [absent] * (MAX_TARGETS - len(targets))
    rows, outputs, warps = _tiles(heads, rank)
    blocks = max(1, _blocks(three[0][2], outputs)) + sum(_blocks(size, outputs) for _, _, size in three[1:])
    if batch:
        with current(projected.device):
            kernels.read_and_correct[(batch, blocks)](
                projected,
                pool,
                slots,
                valid,
                reads,
                factor,
                *(tensor for out, weight, _ in three for tensor in (out, weight)),
                projected.stride(0),
                pool.stride(0),
                0 if valid is None else valid.stride(0),
                *(number for out, _, size in three for number in (out.stride(0), size)),
                TARGETS=max(1, len(targets)),
                SCALES=scales,
                HAS_VALID=valid is not None,
                HEADS=heads,
                RANK=rank,
                NORMALIZE=normalize,
                ROWS=rows,
                COLUMNS=power_of_two(rank),
                OUTPUTS=outputs,
                num_warps=warps,
                enable_fp_fusion=True,
            )
    return reads


def correct(out: Tensor, reads: Tensor, weight: Tensor, scale: float | Tensor) -> None:
    """Add the correction of one projection in place: out += scale · weight @ reads.

    Args:
        out: [B, n]; float32, bfloat16 or float16, rows of unit stride.
        reads: [B, W] float32, from `read_and_correct`.
        weight: [n, W], contiguous; float32, bfloat16 or float16.
        scale: A number, or a float32 tensor with one element.

    Raises:
        ValueError: A shape, dtype, stride or device does not fit.
        RuntimeError: The kernels cannot run on this device; the message says why.
    """
    batch, width = check_reads(reads)
    check_target("the target", out, weight, batch, width, reads.device)
    factor, scales = multiplier(scale, 1, out.device)
    kernels = _kernels(out.device)
    rows, outputs, warps = _tiles(1, width)
    if out.numel():
        with current(out.device):
            kernels.correct[(batch, _blocks(out.shape[1], outputs))](
                out,
                reads,
                weight,
                factor,
                out.stride(0),
                out.shape[1],
                SCALES=scales,
                WIDTH=width,
                ROWS=rows,
                OUTPUTS=outputs,
                num_warps=warps,
                enable_fp_fusion=True,
            )


def write(
    projected: Tensor,
    gate_bias: Tensor,
    pool: Tensor,
    slots: Tensor | None,
    *,
    heads: int,
    update: Update,
    own_lambda: bool,
    rankwise: bool,
    normalize: bool,
    valid: Tensor | None = None,
) -> None:
    """Write one token of every stream into its slot, in place. Launch it after everything that reads the slots.

        S[i,:] = keep[i] S[i,:] + (β[i] v[i] - erase[i] <S[i,:], k>) k
        β, λ = σ(projected + gate_bias); without its own λ, λ = 1 - β
        keep, erase = λ, β ("standard"); λ, λβ ("lambda_outside"); 1, β ("no_lambda")

    Args:
        projected: [B, ≥ 3W + G (+ G)]: q, k, v, β and, with ``own_lambda``, λ; q is not used. G = W if ``rankwise``,
            else H. Dtypes and strides as in `read_and_correct`.
        gate_bias: [G (+ G)] float32, contiguous.
        pool: As in `read_and_correct`.
        slots: As in `read_and_correct`, distinct.
        heads: H.
        update: Where λ enters the update.
        own_lambda: Whether λ has its own columns; not with "no_lambda".
        rankwise: One gate per state row; else one per head.
        normalize: k = l2norm(tanh(·)) per head; else k as it is.
        valid: [B] bool; False is treated as slot -1.

    Raises:
        ValueError: A shape, dtype, stride or device does not fit.
        RuntimeError: The kernels cannot run on this device; the message says why.
    """
    batch, rank = check_streams(projected, pool, slots, heads, valid)
    check_write(projected, gate_bias, heads, rank, update, own_lambda, rankwise)
    kernels = _kernels(projected.device)
    rows, warps = _write_tiles(heads, rank)
    if batch:
        with current(projected.device):
            kernels.write[(batch, _blocks(heads * rank, rows))](
                projected,
                gate_bias,
                pool,
                slots,
                valid,
                projected.stride(0),
                pool.stride(0),
                0 if valid is None else valid.stride(0),
                HAS_VALID=valid is not None,
                HEADS=heads,
                RANK=rank,
                UPDATE=update,
                OWN_LAMBDA=own_lambda,
                RANKWISE=rankwise,
                NORMALIZE=normalize,
                ROWS=rows,
                COLUMNS=power_of_two(rank),
                num_warps=warps,
                enable_fp_fusion=True,
            )


def step(inputs: Sequence[Tensor], pool: Tensor, slots: Tensor) -> Tensor:
    """Read and write one token of N streams; their states are slots of a pool, which is changed in place.

    Args:
        inputs: q, k, v, keep, erase, write, each [N, R]; float32, bfloat16 or float16 in any mixture. An input whose
            rows are not of unit stride is copied.
        pool: [P, R, R] float32, each slot contiguous.
        slots: [N] int64, distinct, each below P; a stream with slot -1 reads zero and writes nothing.

    Returns:
        The reads [N, R] in q's dtype, computed in float32.

    Raises:
        ValueError: A shape, dtype, stride or device does not fit.
        RuntimeError: The kernels cannot run on this device; the message says why.
    """
    n, rank = check_streams(inputs[0], pool, slots, 1, None)
    for name, x in zip(("q", "k", "v", "keep", "erase", "write"), inputs, strict=True):
        if x.shape != (n, rank):
            raise ValueError(f"{name} has shape {shape(x)}, expected {[n, rank]} to go with the pool and slots")
        check_kind(name, x, FLOATS, pool.device)
    kernels = _kernels(pool.device)
    inputs = [x if x.stride(1) == 1 else x.contiguous() for x in inputs]
    reads = torch.empty(n, rank, dtype=inputs[0].dtype, device=pool.device)
    rows, warps = _write_tiles(1, rank)
    if n:
        with current(pool.device):
            kernels.step[(n, _blocks(rank, rows))](
                *inputs,
                pool,
                slots,
                reads,
                *(x.stride(0) for x in inputs),
                pool.stride(0),
                RANK=rank,
                ROWS=rows,
                COLUMNS=power_of_two(rank),
                num_warps=warps,
                enable_fp_fusion=True,
            )
    return reads


@cache
def _load() -> Any:
    """The module of kernels, or the reason why it cannot be imported."""
    try:
        return importlib.import_module("deltamem_kernels.gpu.decode_kernels")
    except ImportError as error:
        return f"Triton cannot be imported ({error}); install triton"


@cache
def _unavailable(kind: str) -> str | None:
    kernels = _load()
    if isinstance(kernels, str):
        return kernels
    if type(kernels.step).__name__ == "InterpretedFunction":
        return None if kind in ("cpu", "cuda") else f"Triton's interpreter takes CPU tensors, these are on {kind}"
    if kind != "cuda":
        return f"they run on CUDA devices, the tensors are on {kind}"
    return None if torch.cuda.is_available() else "torch finds no CUDA device on this machine"


def _kernels(device: torch.device) -> Any:
    reason = _unavailable(device.type)
    if reason is not None:
        raise RuntimeError(f"the decode kernels cannot run: {reason}")
    return _load()


def _tiles(heads: int, rank: int) -> tuple[int, int, int]:
    """Rows and outputs that a correction's program holds at once, and its warps.

    One stream is bound by latency: 64 outputs per program give Qwen3-4B's q projection 64 programs, in which a thread
    loads 8 weights at rank 8. Larger tiles are cut so that everything stays in registers: with several heads each row
    has its own queries.
    """
    rows = min(64, power_of_two(heads * rank))
    if heads > 1:
        rows = min(rows, 2048 // power_of_two(rank))
    return rows, 64 if rows <= 32 else 32, 2 if rows <= 8 else 4


def _write_tiles(heads: int, rank: int) -> tuple[int, int]:
    """Rows that a program updates, and its warps: at rank 64 a tile of 1,024 elements, 16 per thread."""
    rows = min(16, power_of_two(heads * rank))
    return rows, 2 if rows * power_of_two(rank) > 512 else 1


def _blocks(size: int, block: int) -> int:
    return -(-size // block)
