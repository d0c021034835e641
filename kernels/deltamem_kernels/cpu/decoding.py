"""Decoding in compiled C, one token per row: read and correct, or read and write. A few microseconds per call.

Validates nothing and does not choose a backend.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from deltamem_kernels.cpu import compiled

DTYPES = (torch.float32, torch.bfloat16)
_OUTPUTS = 64  # outputs of a correction's weight in one block, as in scan.c


def blocked(weight: Tensor) -> Tensor:
    """A correction's weight [out, W] in the library's layout: [blocks, W, 64] float32, padded with zeros."""
    out, width = weight.shape
    padded = torch.nn.functional.pad(weight.detach().float(), (0, 0, 0, -out % _OUTPUTS))
    return padded.view(-1, _OUTPUTS, width).transpose(1, 2).contiguous()


class CorrectionStruct(ctypes.Structure):
    """A correction in the library's layout; keeps no tensor alive."""

    _fields_ = (*((name, ctypes.c_long) for name in ("W", "out", "bf16")), ("weight", ctypes.c_void_p))


class LayoutStruct(ctypes.Structure):
    """Column layout of a packed product's row, for the library."""

    _fields_ = (
        *((name, ctypes.c_long) for name in ("H", "R", "normalize", "bf16", "queries", "corrected")),
        ("column", ctypes.c_long * 3),
        ("correction", CorrectionStruct * 3),
        ("output_addend", CorrectionStruct),
    )


class _Step(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_long) for name in ("N", "R")),
        *((name, ctypes.c_void_p) for name in ("q", "k", "v", "keep", "erase", "write", "slots", "pool", "reads")),
    )


Decoder = Callable[[Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor | None]]


def decoder(layout: LayoutStruct, width: int, kept: object) -> Decoder:
    """Make a function of product, state and validity for one layout; it keeps ``kept``, the layout's memory, alive.

    It returns the reads [B, 1, W] float32 for the queries in a product [B, 1, C] of one of `DTYPES` (columns
    contiguous, any row stride), whose outputs it corrects in place. The state is [B, R, R] or [B, H, R, R] float32;
    validity is [B, 1] bool or None, and a False row reads zero. It also returns the addend for the later output,
    [B, out] in the product's dtype, or None if the layout has none.

    It is a closure with nothing left to look up: between two layers a model's weights pass through the caches, and the
    cost of decoding is what must be fetched again.
    """
    run, _, _, target = _library()
    empty, float32 = torch.empty, torch.float32

    addend_width, dtype = layout.output_addend.out, torch.bfloat16 if layout.bf16 else torch.float32

    def decode(
        product: Tensor, state: Tensor, valid: Tensor | None, _kept: object = kept
    ) -> tuple[Tensor, Tensor | None]:
        if not state.is_contiguous():
            state = state.contiguous()
        mask = None
        if valid is not None:
            valid = valid.contiguous()
            mask = valid.data_ptr()
        batch = product.shape[0]
        reads = empty((batch, 1, width), dtype=float32, device="cpu")
        output_addend = empty((batch, addend_width), dtype=dtype, device="cpu") if addend_width else None
        run(
            target,
            layout,
            batch,
            product.data_ptr(),
            product.stride(0),
            state.data_ptr(),
            mask,
            reads.data_ptr(),
            None if output_addend is None else output_addend.data_ptr(),
        )
        return reads, output_addend

    return decode


def corrector(correction: CorrectionStruct, kept: object) -> Callable[[Tensor, Tensor], None]:
    """Make a function of output and reads for one correction; it keeps ``kept``, the correction's memory, alive.

    It adds the reads [B, T, W] float32 @ the correction's weight, in place, to an output [B, T, out] of one of
    `DTYPES`, which is contiguous, or columns of a contiguous tensor.
    """
    _, run, _, target = _library()

    def correct(output: Tensor, reads: Tensor, _kept: object = kept) -> None:
        if not reads.is_contiguous():
            reads = reads.contiguous()
        batch, tokens, _ = output.shape
        # The stride from one token to the next, also from a row's last token to the next row's first.
        run(target, correction, batch * tokens, output.data_ptr(), output.stride(1), reads.data_ptr())

    return correct


def step(inputs: Sequence[Tensor], pool: Tensor, slots: Tensor) -> Tensor:
    """Read and write one token of N streams in place; arguments and result as in `naive.step`, in float32.

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
    _, _, run, target = _library()
    run(target, call)
    return reads


@cache
def _library() -> tuple[Any, Any, Any, int]:
    """The functions decode, correct and step, and the index of the fastest instruction set."""
    found = compiled.required()
    address, number = ctypes.c_void_p, ctypes.c_long
    rows = (number, address, number)  # count, address, stride
    for function, arguments in (
        (found.deltamem_decode, (ctypes.POINTER(LayoutStruct), *rows, address, address, address, address)),
        (found.deltamem_correct, (ctypes.POINTER(CorrectionStruct), *rows, address)),
        (found.deltamem_step, (ctypes.POINTER(_Step),)),
    ):
        function.argtypes = [ctypes.c_int, *arguments]
        function.restype = None
    return found.deltamem_decode, found.deltamem_correct, found.deltamem_step, compiled.level(None)
