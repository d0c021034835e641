# mypy: ignore-errors
"""The plain kernel that the GPU scan is measured against: one program per state row, one token after another.

    r_t[i]   = <S_{t-1}[i,:], q_t>
    S_t[i,:] = keep_t[i] S_{t-1}[i,:] + (write_t[i] v_t[i] - erase_t[i] <S_{t-1}[i,:], k_t>) k_t

Shapes: S [N,R,R] float32; others [N,T,R], contiguous. Forward only, no mask. Used only by the benchmark.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor


def scan(inputs: Sequence[Tensor], state: Tensor) -> tuple[Tensor, Tensor]:
    """The reads [N,T,R] and the new state [N,R,R], float32; inputs are q, k, v, keep, erase, write."""
    n, tokens, rank = inputs[0].shape
    reads = torch.empty(n, tokens, rank, dtype=torch.float32, device=state.device)
    end = torch.empty_like(state)
    padded = triton.next_power_of_2(rank)
    _scan[(n * rank,)](*inputs, state, end, reads, tokens, RANK=rank, PADDED=padded, num_warps=1)
    return reads, end


@triton.jit
def _scan(q, k, v, keep, erase, write, state, end, reads, tokens, RANK: tl.constexpr, PADDED: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    i = row % RANK
    j = tl.arange(0, PADDED)
    at = row // RANK * tokens * RANK
    x = tl.load(state + row * RANK + j, mask=j < RANK, other=0.0)
    for _ in range(tokens):
        queries = tl.load(q + at + j, mask=j < RANK, other=0.0).to(tl.float32)
        keys = tl.load(k + at + j, mask=j < RANK, other=0.0).to(tl.float32)
        added = tl.load(write + at + i).to(tl.float32) * tl.load(v + at + i).to(tl.float32)
        tl.store(reads + at + i, tl.sum(x * queries))
        change = added - tl.load(erase + at + i).to(tl.float32) * tl.sum(x * keys)
        x = tl.load(keep + at + i).to(tl.float32) * x + change * keys
        at += RANK
    tl.store(end + row * RANK + j, x, mask=j < RANK)
