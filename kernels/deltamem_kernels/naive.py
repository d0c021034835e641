"""The oracle: one token at a time, in any dtype, differentiable by autograd. All other forms are tested against it.

    r_t[i]   = <S_{t-1}[i,:], q_t>
    S_t[i,:] = keep_t[i] S_{t-1}[i,:] + (write_t[i] v_t[i] - erase_t[i] <S_{t-1}[i,:], k_t>) k_t

Shapes: S [N,R,R]; everything else [N,T,R]; row i is the value axis. Source: arXiv:2605.12357, section 3.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def scan(inputs: Sequence[Tensor], state: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Read and write T tokens in order; all arguments have one dtype, which is also the dtype of the computation.

    Args:
        inputs: q, k, v, keep, erase, write, each [N, T, R].
        state: [N, R, R], not changed.
        mask: [N, T] bool; a False token reads zero and writes nothing; its values (even NaN) have no effect.

    Returns:
        The reads [N, T, R] and the state after the last token [N, R, R].
    """
    q, k, v, keep, erase, write = inputs
    if mask is not None:
        idle = ~mask.unsqueeze(-1)
        q, k, v, erase, write = (x.masked_fill(idle, 0) for x in (q, k, v, erase, write))
        keep = keep.masked_fill(idle, 1)
    if q.shape[1] == 0:
        return torch.zeros_like(q), state.clone()
    reads = []
    for t in range(q.shape[1]):
        read, state = _token([x[:, t] for x in (q, k, v, keep, erase, write)], state)
        reads.append(read)
    return torch.stack(reads, dim=1), state


def step(inputs: Sequence[Tensor], pool: Tensor, slots: Tensor) -> Tensor:
    """Read and write one token of N streams; their states are rows of a pool, which is changed in place.

    Args:
        inputs: q, k, v, keep, erase, write, each [N, R].
        pool: [P, R, R].
        slots: [N] int64, distinct; a stream with slot -1 reads zero and writes nothing.

    Returns:
        The reads [N, R].
    """
    reads = torch.zeros_like(inputs[0])
    active = slots >= 0
    chosen = slots[active]
    reads[active], pool[chosen] = _token([x[active] for x in inputs], pool[chosen])
    return reads


def _token(inputs: Sequence[Tensor], state: Tensor) -> tuple[Tensor, Tensor]:
    """Process one token: return the read of the old state and the new state. Inputs [N, R], state [N, R, R]."""
    q, k, v, keep, erase, write = inputs
    read = torch.einsum("nij,nj->ni", state, q)
    change = write * v - erase * torch.einsum("nij,nj->ni", state, k)
    return read, keep.unsqueeze(-1) * state + change.unsqueeze(-1) * k.unsqueeze(-2)
