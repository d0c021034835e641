"""Decoding, one token a row: read the state and add the corrections in place. The backend is chosen by device.

    q = l2norm(tanh(x)) per head;   reads[h·R + i] = <S[h,i,:], q[h]>;   output += weight @ reads

Source: arXiv:2605.12357, section 3. Nothing here is differentiable, waits for a device, or writes a state.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
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

    __slots__ = ("_add_small", "struct", "weight")

    def __init__(self, weight: Tensor, dtype: torch.dtype) -> None:
        out, width = weight.shape
        self.weight = weight.detach().to(dtype, copy=True).contiguous()
        self.struct: decoding.CorrectionStruct | None = None
        self._add_small: Callable[[Tensor, Tensor], None] | None = None
        if weight.device.type == "cpu" and dtype in decoding.DTYPES and _compiled():
            blocked = decoding.blocked(weight)
            self.struct = decoding.CorrectionStruct(width, out, dtype == torch.bfloat16, blocked.data_ptr())
            self._add_small = decoding.corrector(self.struct, blocked)

    def add(self, output: Tensor, reads: Tensor) -> None:
        """Add ``reads`` [B, T, W] float32, corrected, to ``output`` [B, T, out] in place.

        Args:
            output: Contiguous, or columns of something contiguous.
        """
        rows = output.shape[0] * output.shape[1]
        if self._add_small is not None and rows * self.weight.numel() <= _SMALL:
            self._add_small(output, reads)
            return
        flat, given = output.flatten(0, 1), reads.flatten(0, 1)
        if output.is_cuda and rows <= _STREAMS and _triton(output.device):
            from deltamem_kernels.gpu import decode

            decode.correct(flat, given.contiguous(), self.weight, 1.0)
        else:
            flat.addmm_(given.to(output.dtype), self.weight.t())


class ProductLayout:
    """What one product [B, C] of a token's input holds: queries of the memory, and outputs that await a correction.

    Args:
        heads: H; the state has a matrix each.
        rank: R.
        normalize: Whether queries are l2norm(tanh(·)) per head, or taken as they are.
        queries: Their first column; there are H·R.
        corrections: For the columns [start, stop) of up to three outputs the correction they get.
        output_addend: The correction of a projection that runs later, where the caller can add it to a product.
        dtype: Of the product.
    """

    def __init__(
        self,
        *,
        heads: int,
        rank: int,
        normalize: bool,
        queries: int,
        corrections: Mapping[tuple[int, int], Correction],
        output_addend: Correction | None = None,
        dtype: torch.dtype,
    ) -> None:
        self._heads, self._rank, self._normalize, self._queries = heads, rank, normalize, queries
        self._corrections = dict(corrections)
        self._decode: decoding.Decoder | None = None
        structs = [each.struct for each in corrections.values()]
        if dtype in decoding.DTYPES and rank <= compiled.MAX_RANK and None not in structs and _compiled():
            columns = [start for start, _ in corrections]
            struct = decoding.LayoutStruct(
                heads, rank, normalize, dtype == torch.bfloat16, queries, len(structs), (*columns,), (*structs,)
            )
            if output_addend is not None and output_addend.struct is not None:
                struct.output_addend = output_addend.struct
            self._decode = decoding.decoder(struct, heads * rank, (self._corrections, output_addend))

    def read_and_correct(self, product: Tensor, state: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Read each row's state, and add the corrections to the product in place.

        Args:
            product: [B, 1, C], columns contiguous.
            state: [B, R, R] or [B, H, R, R] float32.
            valid: [B, 1] bool; a False row reads zero.

        Returns:
            The reads [B, 1, H·R] float32; and what is to be added to the output that is yet to come, [B, out] in the
            product's dtype, or None where that is left to `Correction.add`.
        """
        if self._decode is not None and not product.is_cuda:
            return self._decode(product, state, valid)
        heads, width = self._heads, self._heads * self._rank
        queries = product[:, 0, self._queries : self._queries + width]
        valid = None if valid is None else valid[:, 0]
        if product.is_cuda and _triton(product.device):
            from deltamem_kernels.gpu import decode

            targets = [(product[:, 0, start:stop], each.weight) for (start, stop), each in self._corrections.items()]
            slots = _slots(product.shape[0], product.device)
            reads = decode.read_and_correct(
                queries, state, slots, targets, 1.0, heads=heads, normalize=self._normalize, valid=valid
            )
            return reads.unsqueeze(1), None
        reads = self._read(queries, state, valid).unsqueeze(1)
        for (start, stop), each in self._corrections.items():
            each.add(product[..., start:stop], reads)
        return reads, None

    def _read(self, projected: Tensor, state: Tensor, valid: Tensor | None) -> Tensor:
        batch, rank = projected.shape[0], self._rank
        queries = projected.float().reshape(batch, self._heads, rank)
        if self._normalize:
            queries = F.normalize(queries.tanh(), dim=-1, eps=_NORM_EPS)
        if valid is not None:
            queries = queries * valid.view(-1, 1, 1)
        matrices = state.reshape(batch, self._heads, rank, rank)
        return (matrices @ queries.unsqueeze(-1)).view(batch, self._heads * rank)


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
