"""Decoding, one token a row: read the state and add the corrections in place. The backend is chosen by device.

    q = l2norm(tanh(projected)) per head;   reads[h·R + i] = <S[h,i,:], q[h]>;   output += weight @ reads

Source: arXiv:2605.12357, section 3. Nothing here is differentiable, waits for a device, or writes a state.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

from deltamem_kernels.cpu import compiled, decoding

_SMALL = 1 << 20  # multiplications of a correction that are not worth a second thread
_STREAMS = 64  # rows that one launch corrects no slower than a matrix product behind a conversion of the reads
_NORM_EPS = 1e-6


class Correction:
    """A correction's weight in the forms that the backends want it in.

    Args:
        weight: [out, W] float32, with the adapter's scale multiplied in.
        dtype: Of the outputs it will be added to.
    """

    __slots__ = ("_transposed", "weight")

    def __init__(self, weight: Tensor, dtype: torch.dtype) -> None:
        self.weight = weight.detach().to(dtype, copy=True)
        on_cpu = weight.device.type == "cpu" and dtype in decoding.DTYPES
        self._transposed = weight.detach().t().contiguous() if on_cpu else None

    def add(self, output: Tensor, reads: Tensor) -> None:
        """Add ``reads`` [N, W] float32, corrected, to ``output`` [N, out] in place; its columns contiguous."""
        if self._transposed is not None and output.shape[0] * self.weight.numel() <= _SMALL and _compiled():
            decoding.correct(output, reads, self._transposed)
        elif output.is_cuda and output.shape[0] <= _STREAMS and _triton(output.device):
            from deltamem_kernels.gpu import decode

            decode.correct(output, reads.contiguous(), self.weight, 1.0)
        else:
            output.addmm_(reads.to(output.dtype), self.weight.t())


def read_and_correct(
    projected: Tensor,
    state: Tensor,
    targets: Sequence[tuple[Tensor, Correction]],
    *,
    heads: int,
    normalize: bool,
    valid: Tensor | None,
) -> Tensor:
    """Read each row's state and add corrections that are known before attention.

    Args:
        projected: [B, W] queries before tanh, W = heads · R; any float type, columns contiguous.
        state: [B, R, R] or [B, H, R, R] float32.
        targets: Outputs [B, out] and their corrections, added in place.
        normalize: Whether queries are l2norm(tanh(·)) per head, or taken as they are.
        valid: [B] bool; a False row reads zero.

    Returns:
        The reads [B, W] float32.
    """
    if projected.is_cuda and _triton(projected.device):
        from deltamem_kernels.gpu import decode

        outputs = [(output, correction.weight) for output, correction in targets]
        slots = _slots(projected.shape[0], projected.device)
        return decode.read_and_correct(
            projected, state, slots, outputs, 1.0, heads=heads, normalize=normalize, valid=valid
        )
    if projected.device.type == "cpu" and projected.dtype in decoding.DTYPES and _compiled():
        reads = decoding.read(projected, state, heads, normalize, valid)
    else:
        reads = _read(projected, state, heads, normalize, valid)
    for output, correction in targets:
        correction.add(output, reads)
    return reads


def _read(projected: Tensor, state: Tensor, heads: int, normalize: bool, valid: Tensor | None) -> Tensor:
    batch, width = projected.shape
    queries = projected.float().view(batch, heads, width // heads)
    if normalize:
        queries = F.normalize(queries.tanh(), dim=-1, eps=_NORM_EPS)
    if valid is not None:
        queries = queries * valid.view(-1, 1, 1)
    matrices = state.view(batch, heads, width // heads, width // heads)
    return (matrices @ queries.unsqueeze(-1)).view(batch, width)


@cache
def _compiled() -> bool:
    return compiled.unavailable() is None


@cache
def _triton(device: torch.device) -> bool:
    from deltamem_kernels.gpu import decode

    return decode.unavailable(device) is None


@cache
def _slots(batch: int, device: torch.device) -> Tensor:
    """Each row's state is its own: row numbers [B], made once (inside a graph capture nothing may be)."""
    return torch.arange(batch, device=device)
