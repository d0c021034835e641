"""Decoding, one token per row: read the state and add the corrections in place. The device determines the backend.

    q = l2norm(tanh(x)) per head;   reads[h·R + i] = <S[h,i,:], q[h]>;   output += weight @ reads

Source: arXiv:2605.12357, section 3. Nothing here is differentiable, waits for a device, or changes a given state.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from deltamem_kernels.cpu import compiled, decoding
from deltamem_kernels.precision import full_precision

_SMALL = 1 << 20  # corrections up to this many multiplications are not worth a second thread
_STREAMS = 64  # up to this many rows, one launch is no slower than a matrix product after converting the reads
_NORM_EPS = 1e-6


class Correction:
    """A correction's weight in the forms that the backends need.

    Args:
        weight: [out, W] float32, multiplied by the adapter's scale.
        dtype: Dtype of the outputs that it will be added to.
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
        """Add the correction for ``reads`` [B, T, W] float32 to ``output`` [B, T, out] in place.

        Args:
            output: Contiguous, or columns of a contiguous tensor.
        """
        rows = output.shape[0] * output.shape[1]
        if self._add_small is not None and rows * self.weight.numel() <= _SMALL:
            self._add_small(output, reads)
            return
        flat, given = output.flatten(0, 1), reads.flatten(0, 1)
        if rows <= _STREAMS and _launches(output):
            from deltamem_kernels.gpu import decode

            decode.correct(flat, given.contiguous(), self.weight, 1.0)
        else:
            flat.addmm_(given.to(output.dtype), self.weight.t())


class ProductLayout:
    """Layout of one product [B, C] of a token's input: memory queries, and outputs to be corrected.

    Args:
        heads: H; the state has one matrix per head.
        rank: R.
        normalize: Whether queries are l2norm(tanh(·)) per head, or used as they are.
        queries: First column of the H·R queries.
        corrections: Correction by columns [start, stop), for up to three outputs.
        output_addend: Correction of a projection that runs later, if the caller can add it to a product.
        gates: The arguments ``update``, ``own_lambda`` and ``rankwise`` of `gpu.decode.write`, for products that hold
            q, k, v and gates side by side.
        dtype: Dtype of the product.
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
        gates: Mapping[str, Any] | None = None,
        dtype: torch.dtype,
    ) -> None:
        self._heads, self._rank, self._normalize, self._queries = heads, rank, normalize, queries
        self._gates = gates
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
            The reads [B, 1, H·R] float32, and the addend for the later output, [B, out] in the product's dtype, or None
            if `Correction.add` must add it.
        """
        if self._decode is not None and not product.is_cuda:
            return self._decode(product, state, valid)
        heads, width = self._heads, self._heads * self._rank
        queries = product[:, 0, self._queries : self._queries + width]
        valid = None if valid is None else valid[:, 0]
        if _launches(product):
            from deltamem_kernels.gpu import decode

            targets = [(product[:, 0, start:stop], each.weight) for (start, stop), each in self._corrections.items()]
            reads = decode.read_and_correct(
                queries, state, None, targets, 1.0, heads=heads, normalize=self._normalize, valid=valid
            )
            return reads.unsqueeze(1), None
        reads = self._read(queries, state, valid).unsqueeze(1)
        for (start, stop), each in self._corrections.items():
            each.add(product[..., start:stop], reads)
        return reads, None

    def write(self, product: Tensor, state: Tensor, gate_bias: Tensor, valid: Tensor | None) -> Tensor | None:
        """The states [B, …] after the product's token is written; None where no kernel writes a single token.

        Args:
            product: As in `read_and_correct`, with k, v and the gates behind the queries.
            state: As in `read_and_correct`.
            gate_bias: Float32, contiguous; one for each gate.
            valid: [B, 1] bool; a False row is not written.
        """
        if self._gates is None or not _launches(product):
            return None
        from deltamem_kernels.gpu import decode

        after = state.clone(memory_format=torch.contiguous_format)
        decode.write(
            product[:, 0, self._queries :],
            gate_bias,
            after,
            None,
            heads=self._heads,
            normalize=self._normalize,
            valid=None if valid is None else valid[:, 0],
            **self._gates,
        )
        return after

    def _read(self, projected: Tensor, state: Tensor, valid: Tensor | None) -> Tensor:
        batch, rank = projected.shape[0], self._rank
        queries = projected.float().reshape(batch, self._heads, rank)
        if self._normalize:
            queries = F.normalize(queries.tanh(), dim=-1, eps=_NORM_EPS)
        if valid is not None:
            queries = queries * valid.view(-1, 1, 1)
        matrices = state.reshape(batch, self._heads, rank, rank)
        with full_precision(state.device):
            return (matrices @ queries.unsqueeze(-1)).view(batch, self._heads * rank)


def _compiled() -> bool:
    return compiled.unavailable() is None


def _launches(tensor: Tensor) -> bool:
    """Whether the kernels of a GPU run on a tensor."""
    return tensor.is_cuda and _triton(tensor.device)


@cache
def _triton(device: torch.device) -> bool:
    from deltamem_kernels.gpu import decode

    return decode.unavailable(device) is None
