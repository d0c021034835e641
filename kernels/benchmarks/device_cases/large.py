"""Tensors of more than 2³¹ elements. Inputs repeat, so that every element of every output can be checked."""

from __future__ import annotations

from collections.abc import Iterator

import scans
import torch
from measure import Row, relative_error
from torch import Tensor

from deltamem_kernels import naive
from deltamem_kernels.gpu import decode
from deltamem_kernels.gpu import scan as gpu
from device_cases.case import Setting
from device_cases.scan_checks import poisoned

LIMIT = 1 << 31
RANK = 8
FREE = 100 << 30  # bytes that the backward of the widest scan takes


def rows(setting: Setting) -> Iterator[Row]:
    """A scan of many sequences with its backward, a scan of one long sequence, and a pool of many states."""
    yield from _wide(setting)
    yield from _long(setting)
    yield from _pool(setting)


def _wide(setting: Setting) -> Iterator[Row]:
    n, tokens = (4096, 256) if not setting.quick else (2, 4)
    times = LIMIT // (n * tokens * RANK) + 1 if not setting.quick else 2
    block = scans.drawn(n, tokens, RANK, torch.bfloat16, setting.device)
    arguments = [x.repeat(times, 1, 1) for x in block]
    del block
    what = f"{arguments[0].numel():,} elements in bfloat16, B {n * times:,}, T {tokens:,}, r {RANK}"
    backward = setting.quick or torch.cuda.mem_get_info(setting.device)[0] > FREE - (30 << 30)
    leaves = [x.requires_grad_(backward) for x in arguments]
    with poisoned():
        reads, state = gpu.scan(leaves[:6], leaves[6], None)
    some = min(n, 64)
    first = [x[:some].detach().cpu().double() for x in leaves]
    oracle = naive.scan(first[:6], first[6], None)
    for name, got, wanted in zip(("reads", "state"), (reads, state), oracle, strict=True):
        error = relative_error(got[:some].detach().cpu(), wanted)
        yield Row(what=f"{what}: {name} of the first {some} sequences", value=error, unit="relative", reach="≤ 1e-6")
    yield _repeats(f"{what}: reads", reads.detach(), n)
    yield _repeats(f"{what}: state", state.detach(), n)
    if not backward:
        return
    ones = torch.ones((), device=setting.device)
    found = torch.autograd.grad((reads, state), leaves, (ones.expand_as(reads), ones.expand_as(state)))
    for name, each in zip(("q", "k", "v", "keep", "erase", "write", "state"), found, strict=True):
        yield _repeats(f"{what}: gradient of {name}", each, n)


def _repeats(what: str, x: Tensor, n: int) -> Row:
    """How many of the blocks of n sequences differ from the first in any bit; all do if the first has a NaN."""
    different = sum(not torch.equal(x[:n], x[at : at + n]) for at in range(0, x.shape[0], n))
    return Row(what=f"{what}: blocks that differ from the first", value=different, unit="count", reach="≤ 0")


def _long(setting: Setting) -> Iterator[Row]:
    tokens = 1 << 20 if not setting.quick else 64
    times = LIMIT // (tokens * RANK) + 1 if not setting.quick else 3
    *block, state = scans.drawn(1, tokens, RANK, torch.bfloat16, setting.device)
    block[3] *= 0.5  # so that a state is soon forgotten
    known = min(tokens, 4096)
    wanted, _ = naive.scan([x[:, :known].cpu().double() for x in block], state.cpu().double(), None)
    inputs = [x.repeat(1, times, 1) for x in block]
    with poisoned():
        reads, _ = gpu.scan(inputs, state, None)
    what = f"{inputs[0].numel():,} elements in bfloat16, B 1, T {tokens * times:,}, r {RANK}: reads"
    error = relative_error(reads[:, :known].cpu(), wanted)
    yield Row(what=f"{what} of the first {known:,} tokens", value=error, unit="relative", reach="≤ 1e-6")
    # By then the first state is forgotten, so the reads repeat with the inputs, but for rounding.
    second = reads[:, tokens : 2 * tokens]
    worst = max(relative_error(reads[:, at : at + tokens], second) for at in range(tokens, reads.shape[1], tokens))
    yield Row(what=f"{what} of all repeats of the inputs", value=worst, unit="relative", reach="≤ 1e-6")


def _pool(setting: Setting) -> Iterator[Row]:
    rank = 64 if not setting.quick else 8
    slots = LIMIT // rank**2 + 1000 if not setting.quick else 30
    pool = torch.zeros(slots, rank, rank, device=setting.device)
    chosen = torch.tensor([slots - 1, 3, slots - 20, -1], device=setting.device)
    states = torch.randn(4, rank, rank, device=setting.device)
    pool[chosen[:3]] = states[:3]
    inputs = [torch.rand(4, rank, device=setting.device) * rank**-0.5 for _ in range(6)]
    after = states.cpu().double()
    order = torch.tensor([0, 1, 2, -1])
    wanted = naive.step([x.cpu().double() for x in inputs], after, order)
    reads = decode.step(inputs, pool, chosen)
    what = f"a pool of {pool.numel():,} elements, r {rank}"
    yield Row(what=f"{what}: reads", value=relative_error(reads.cpu(), wanted), unit="relative", reach="≤ 1e-6")
    error = relative_error(pool[chosen[:3]].cpu(), after[:3])
    yield Row(what=f"{what}: states", value=error, unit="relative", reach="≤ 1e-6")
    pool[chosen[:3]] = 0
    written = sum(bool(part.any()) for part in pool.split(10_000))
    yield Row(what=f"{what}: parts of the pool that nothing should write", value=written, unit="count", reach="≤ 0")
