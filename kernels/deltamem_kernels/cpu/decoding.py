"""Decoding in compiled C, one token a row: read and correct, or read and write. A few microseconds a call.

Nothing about validation or the choice of a backend.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from deltamem_kernels.cpu import compiled

DTYPES = (torch.float32, torch.bfloat16)


class _Read(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_long) for name in ("B", "H", "R", "x_stride", "x_bf16", "normalize")),
        *((name, ctypes.c_void_p) for name in ("x", "state", "valid", "reads")),
    )


class _Correct(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_long) for name in ("B", "W", "out", "output_stride", "output_bf16")),
        *((name, ctypes.c_void_p) for name in ("reads", "weight", "output")),
        ("scale", ctypes.c_float),
    )


class _Step(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_long) for name in ("N", "R")),
        *((name, ctypes.c_void_p) for name in ("q", "k", "v", "keep", "erase", "write", "slots", "pool", "reads")),
    )


def read(projected: Tensor, state: Tensor, heads: int, normalize: bool, valid: Tensor | None) -> Tensor:
    """Reads [B, W] float32 of states [B, R, R] or [B, H, R, R] float32 at queries ``projected`` [B, W].

    Args:
        projected: One of `DTYPES`; its columns contiguous, rows any distance apart.
        normalize: Whether the queries are l2norm(tanh(·)) per head, or taken as they are.
        valid: [B] bool; a False row reads zero.
    """
    batch, width = projected.shape
    state = state.contiguous()
    reads = torch.empty(batch, width, dtype=torch.float32, device="cpu")
    valid = None if valid is None else valid.contiguous()
    call = _Read(
        batch,
        heads,
        width // heads,
        projected.stride(0),
        projected.dtype == torch.bfloat16,
        normalize,
        projected.data_ptr(),
        state.data_ptr(),
        None if valid is None else valid.data_ptr(),
        reads.data_ptr(),
    )
    _library().deltamem_read(len(compiled.targets()) - 1, ctypes.byref(call))
    return reads


def correct(output: Tensor, reads: Tensor, transposed: Tensor) -> None:
    """Add ``reads`` [B, W] @ ``transposed`` [W, out] (float32, contiguous) to ``output`` [B, out] in place.

    Args:
        output: One of `DTYPES`; its columns contiguous, rows any distance apart.
    """
    batch, out = output.shape
    reads = reads.contiguous()
    call = _Correct(
        batch,
        reads.shape[1],
        out,
        output.stride(0),
        output.dtype == torch.bfloat16,
        reads.data_ptr(),
        transposed.data_ptr(),
        output.data_ptr(),
        1.0,
    )
    _library().deltamem_correct(len(compiled.targets()) - 1, ctypes.byref(call))


def step(inputs: Sequence[Tensor], pool: Tensor, slots: Tensor) -> Tensor:
    """Read and write one token of N streams in place; arguments and result as of `naive.step`, in float32.

    Args:
        pool: [P, R, R] float32, contiguous.
        slots: [N] int64, distinct, -1 or below P.

    Raises:
        IndexError: A slot is not below P; nothing was written.
    """
    streams, rank = inputs[0].shape
    slots = slots.contiguous()
    if streams and int(slots.max()) >= pool.shape[0]:
        raise IndexError(f"slot {int(slots.max())} is not in a pool of {pool.shape[0]}")
    arrays = [x.float().contiguous() for x in inputs]
    reads = torch.empty(streams, rank, dtype=torch.float32, device="cpu")
    call = _Step(streams, rank, *(x.data_ptr() for x in (*arrays, slots, pool, reads)))
    _library().deltamem_step(len(compiled.targets()) - 1, ctypes.byref(call))
    return reads


@cache
def _library() -> ctypes.CDLL:
    found = compiled._library()
    if isinstance(found, str):
        raise RuntimeError(f"backend 'compiled' cannot run: {found}")
    for function in (found.deltamem_read, found.deltamem_correct, found.deltamem_step):
        function.argtypes = [ctypes.c_int, ctypes.c_void_p]
        function.restype = None
    return found
