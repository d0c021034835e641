"""The scan in chunks of tokens, with torch operations only: for devices and ranks without a kernel.

A token's change is what it writes minus what the state predicts, and the state is the one before the chunk plus the
chunk's changes so far. With b[t] = the product of keep over the tokens of the chunk before t, and d[t,s] = the product
over those strictly between s and t, each row i of the state has its own unit lower triangular system:

    u_t + erase_t Σ_{s<t} d[t,s] <k_t, k_s> u_s = write_t v_t − erase_t b[t] <S_0[i,:], k_t>

The inverse is computed for all chunks at once; only a loop over chunks then carries the state; reads follow for all
chunks at once. The backward solves the transposed systems, carries ∂L/∂S from the last chunk to the first, and expands
S and ∂L/∂S for each token. Decays are products, never quotients or differences of logarithms: keep may be zero.

Within this module: c counts chunks, n sequences, t and s tokens of a chunk, r rows, j columns. The README has the
derivation. Source: arXiv:2605.12357, section 3. Oracle: ``naive.scan``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, einsum
from torch.autograd.function import once_differentiable
from torch.nn.functional import pad

from deltamem_kernels import naive
from deltamem_kernels.precision import full_precision

# Floats in one [t, s, c, n, r] intermediate. On a CPU a few of them should fit in the cache.
_CPU_FLOATS, _DEVICE_FLOATS = 1 << 18, 1 << 24
_LOOP_TOKENS = 3  # up to this many, a loop over tokens takes fewer operations


def scan(inputs: Sequence[Tensor], state: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Read and write T tokens. Same as `naive.scan`, on any device; differentiable once.

    Args:
        inputs: q, k, v, keep, erase, write, each [N, T, R]; all arguments have one dtype, which is also the dtype of
            the computation. On CUDA the products follow `torch.set_float32_matmul_precision`.
        state: [N, R, R], not changed.
        mask: [N, T] bool or None; a False token reads zero and writes nothing; its values (even NaN) have no effect.

    Returns:
        The reads [N, T, R] and the state after the last token [N, R, R].
    """
    n, tokens, _ = inputs[0].shape
    if n == 0 or tokens <= _LOOP_TOKENS:
        return naive.scan(inputs, state, mask)
    reads: Tensor
    reads, state = _Scan.apply(mask, state, *inputs)  # type: ignore[no-untyped-call]
    return reads, state


class _Scan(torch.autograd.Function):
    """Keeps the inputs and the state before each chunk; the backward recomputes the rest, block by block."""

    @staticmethod
    def forward(ctx: Any, mask: Tensor | None, state: Tensor, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        reads, before_chunks = [], []
        for block in _blocks(inputs[0]):
            q, k, v, keep, erase, write = _chunked(inputs, mask, block)
            chunk = _Chunks.of(k, keep, erase)
            writes = chunk.solve(write * v)
            added = einsum("tcnr,tcnj->cnrj", chunk.after * writes, k)
            starts, state = _carry(state, k, chunk.forget, chunk.through, added)
            changes = writes - chunk.apply(einsum("cnrj,tcnj->tcnr", starts, k))
            seen = chunk.decay * einsum("tcnj,scnj->tscn", q, k).unsqueeze(-1)
            read = chunk.before * einsum("cnrj,tcnj->tcnr", starts, q) + (seen * changes).sum(1)
            reads.append(_unchunked(read, block))
            before_chunks.append(starts)
        ctx.save_for_backward(mask, *inputs, *before_chunks)
        return torch.cat(reads, dim=1), state

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_reads: Tensor, d_state: Tensor) -> tuple[Tensor | None, ...]:
        mask, *rest = ctx.saved_tensors
        inputs, before_chunks = rest[:6], rest[6:]
        gradients: list[list[Tensor]] = []
        with full_precision(d_state.device):
            for block, starts in reversed(list(zip(_blocks(inputs[0]), before_chunks, strict=True))):
                tokens = _chunked(inputs, mask, block)
                d_read = _chunked([d_reads], mask, block)[0]
                found, d_state = _block_gradients(tokens, starts, d_read, d_state)
                gradients.append([_unchunked(x, block) for x in found])
        joined = [torch.cat(parts[::-1], dim=1) for parts in zip(*gradients, strict=True)]
        if mask is not None:
            joined[3].masked_fill_(~mask.unsqueeze(-1), 0)  # the other gradients are products with zero
        return None, d_state, *joined


class _Chunks(NamedTuple):
    """Quantities derived from the gates and keys of some chunks. Indices as in the module's docstring."""

    decay: Tensor  # [t, s, c, n, r]: product of keep strictly between s and t; zero where s >= t
    before: Tensor  # [t, c, n, r]: product over the tokens before t
    after: Tensor  # [s, c, n, r]: product over the tokens after s
    through: Tensor  # [c, n, r]: product over the chunk
    inverse: Tensor  # [t, s, c, n, r]: inverse of the system
    predicted: Tensor  # [s, c, n, r]: erase · before, the factor of what the state predicts

    @classmethod
    def of(cls, k: Tensor, keep: Tensor, erase: Tensor) -> _Chunks:
        """Compute them from k [t, c, n, j] and two gates [t, c, n, r]."""
        size = k.shape[0]
        # Row t, column s + 1: from the end of token s (column 0: the start of the chunk) to the start of token t.
        spans = keep.new_zeros(size + 1, size + 1, *keep.shape[1:])
        spans[0, 0] = 1
        for t in range(size):
            torch.mul(spans[t, : t + 1], keep[t], out=spans[t + 1, : t + 1])
            spans[t + 1, t + 1] = 1
        decay, before = spans[:size, 1:], spans[:size, 0]
        coupling = decay * einsum("tcnj,scnj->tscn", k, k).unsqueeze(-1) * erase.unsqueeze(1)
        inverse = torch.zeros_like(coupling)
        inverse.diagonal(dim1=0, dim2=1).fill_(1)
        for t in range(size - 1):
            inverse[t + 1 :, : t + 1].addcmul_(coupling[t + 1 :, t, None], inverse[t, : t + 1], value=-1)
        return cls(decay, before, spans[size, 1:], spans[size, 0], inverse, erase * before)

    def solve(self, right: Tensor) -> Tensor:
        """Solve the system for a right side [t, c, n, r]."""
        return (self.inverse * right).sum(1)

    def solve_transposed(self, right: Tensor) -> Tensor:
        """Solve the transposed system for a right side [t, c, n, r]."""
        return (self.inverse * right.unsqueeze(1)).sum(0)

    def apply(self, predicted: Tensor) -> Tensor:
        """The part of each token's change that undoes what the state before the chunk predicts [s, c, n, r]."""
        return self.solve(self.predicted * predicted)

    @property
    def forget(self) -> Tensor:
        """Map from <S_0, k_s> to the part of token t's change left at the end: [c, n · r, t, s], contiguous."""
        left = self.after.unsqueeze(1) * self.inverse * self.predicted
        return left.permute(2, 3, 4, 0, 1).flatten(1, 2).contiguous()


def _carry(state: Tensor, k: Tensor, forget: Tensor, through: Tensor, added: Tensor) -> tuple[Tensor, Tensor]:
    """Loop over chunks: S ← through · S − (forget (S kᵀ)) k + added.

    Args:
        state: [n, r, j].
        k: [t, c, n, j].
        forget: [c, n · r, t, s].
        through: [c, n, r].
        added: [c, n, r, j].

    Returns:
        The states before each chunk [c, n, r, j], and the last one [n, r, j].
    """
    keys = k.permute(1, 2, 0, 3).contiguous()  # [c, n, t, j]
    n, rows, _ = state.shape
    states = []
    for key, column, left, kept, plus in zip(keys, keys.mT, forget, through.unsqueeze(-1), added, strict=True):
        states.append(state)
        change = torch.bmm(left, torch.bmm(state, column).view(n * rows, -1, 1)).view(n, rows, -1)
        state = torch.baddbmm(torch.addcmul(plus, state, kept), change, key, alpha=-1)
    return torch.stack(states), state


def _block_gradients(
    tokens: Sequence[Tensor], starts: Tensor, d_read: Tensor, d_state: Tensor
) -> tuple[list[Tensor], Tensor]:
    """Compute the gradients of one block.

    Args:
        tokens: q … write, each [t, c, n, r].
        starts: States before each chunk [c, n, r, j].
        d_read: ∂L/∂reads [t, c, n, r].
        d_state: ∂L/∂S after the block [n, r, j].

    Returns:
        Gradients of q … write, each [t, c, n, r], and ∂L/∂S before the block [n, r, j].
    """
    q, k, v, keep, erase, write = tokens
    chunk = _Chunks.of(k, keep, erase)
    changes = chunk.solve(write * v - chunk.predicted * einsum("cnrj,tcnj->tcnr", starts, k))

    # ∂L/∂u from reads within the chunk, then from everything after the chunk.
    seen = chunk.decay * einsum("tcnj,scnj->tscn", q, k).unsqueeze(-1)
    from_reads = (seen * d_read.unsqueeze(1)).sum(0)
    erased = chunk.predicted * chunk.solve_transposed(from_reads)
    added = einsum("tcnr,tcnj->cnrj", chunk.before * d_read, q) - einsum("tcnr,tcnj->cnrj", erased, k)
    ends, d_before = _carry(d_state, k.flip(1), chunk.forget.mT.flip(0), chunk.through.flip(0), added.flip(0))
    ends = ends.flip(0)
    d_changes = chunk.solve_transposed(from_reads + chunk.after * einsum("cnrj,tcnj->tcnr", ends, k))
    d_predictions = -erase * d_changes

    # S before and ∂L/∂S after each token: [t, c, n, r, j].
    states = einsum("tscnr,scnj->tcnrj", chunk.decay * changes, k)
    states.addcmul_(chunk.before.unsqueeze(-1), starts)
    d_states = einsum("tscnr,tcnj->scnrj", chunk.decay * d_read.unsqueeze(1), q)
    d_states += einsum("tscnr,tcnj->scnrj", chunk.decay * d_predictions.unsqueeze(1), k)
    d_states.addcmul_(chunk.after.unsqueeze(-1), ends)

    d_q = einsum("tcnr,tcnrj->tcnj", d_read, states)
    d_k = einsum("tcnr,tcnrj->tcnj", changes, d_states) + einsum("tcnr,tcnrj->tcnj", d_predictions, states)
    d_keep = (d_states * states).sum(-1)
    d_erase = -d_changes * einsum("tcnrj,tcnj->tcnr", states, k)
    return [d_q, d_k, write * d_changes, d_keep, d_erase, v * d_changes], d_before


def _chunk_tokens(q: Tensor) -> int:
    """Tokens per chunk: more shorten the loop over chunks and enlarge the systems. Measured, see the README."""
    n, tokens, rank = q.shape
    if q.device.type != "cpu":
        return min(32, tokens)
    return min(16 if n * rank <= 16 else 8, tokens)


def _blocks(q: Tensor) -> Iterator[slice]:
    """Runs of whole chunks whose intermediates fit the budget; the last chunk may be shorter."""
    n, tokens, rank = q.shape
    size = _chunk_tokens(q)
    floats = _CPU_FLOATS if q.device.type == "cpu" else _DEVICE_FLOATS
    length = max(1, floats // (n * rank * size * size)) * size
    for start in range(0, tokens, length):
        yield slice(start, min(start + length, tokens))


def _chunked(inputs: Sequence[Tensor], mask: Tensor | None, block: slice) -> list[Tensor]:
    """A block of [N, T, R] tensors as [t, c, n, r]; masked and padded tokens keep the state and are otherwise zero."""
    size = _chunk_tokens(inputs[0])
    idle = None if mask is None else ~mask[:, block].unsqueeze(-1)
    short = -(block.stop - block.start) % size
    made = []
    for i, x in enumerate(inputs):
        neutral = float(i == 3)  # keep
        x = x[:, block]
        if idle is not None:
            x = x.masked_fill(idle, neutral)
        if short:
            x = pad(x, (0, 0, 0, short), value=neutral)
        made.append(x.reshape(x.shape[0], -1, size, x.shape[2]).permute(2, 1, 0, 3).contiguous())
    return made


def _unchunked(x: Tensor, block: slice) -> Tensor:
    """[t, c, n, r] as the block's [N, T, R]."""
    return x.permute(2, 1, 0, 3).flatten(1, 2)[:, : block.stop - block.start]
