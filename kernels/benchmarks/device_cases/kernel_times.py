"""Times of single kernels: what the device can do at best, and the scan.

The scan is timed against a sequential kernel, against a copy, forward and backward, and over a sweep of its choices.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from unittest import mock

import scans
import sequential
import torch
from measure import Row, paired, relative_error, seconds
from torch import Tensor

from deltamem_kernels import delta_scan
from deltamem_kernels.gpu import scan as gpu
from device_cases.case import Setting, captured

SETS = 16  # of inputs, more than the L2 cache holds; a layer's own inputs have just been written and lie in it
LENGTHS = (16, 32, 64, 128, 256, 512, 1024)


def ceilings(setting: Setting) -> Iterator[Row]:
    """Copy, matrix products in the dtypes that are used, and the cost of a launch, alone and in a graph.

    All other times are read against these.
    """
    device, timer = setting.device, setting.timer
    rounds, inner = (9, 5) if not setting.quick else (1, 1)
    if setting.on_gpu:
        properties = torch.cuda.get_device_properties(device)
        yield Row(what="multiprocessors", value=properties.multi_processor_count, unit="count")
        yield Row(what="memory of the device", value=properties.total_memory, unit="bytes")
        yield Row(what="L2 cache", value=properties.L2_cache_size, unit="bytes")
    size = (4 << 30) // 4 if not setting.quick else 1 << 16
    source = torch.randn(size, device=device)
    copy = partial(torch.empty_like(source).copy_, source)
    row = seconds("", copy, timer, rounds=rounds, inner=inner)
    yield _rate(f"copy of {size * 4 / 2**30:.3g} GiB, bytes read and written", 2 * size * 4 / 1e9, row, "GB/s")
    del source, copy
    side = 8192 if not setting.quick else 64
    for dtype in (torch.bfloat16, torch.float32):
        a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
        product = torch.empty(side, side, device=device, dtype=dtype)
        row = seconds("", lambda: torch.mm(a, b, out=product), timer, rounds=rounds, inner=inner)  # noqa: B023
        what = f"matrix product of side {side:,}, {str(dtype).removeprefix('torch.')}, random numbers"
        yield _rate(what, 2 * side**3 / 1e12, row, "TFLOP/s")
    one = torch.zeros(1, device=device)
    launches = 1000 if not setting.quick else 3

    def many() -> None:
        for _ in range(launches):
            one.add_(1)

    for what, call in (("called from Python", many), ("in a CUDA graph", captured(setting, many))):
        row = seconds("", call, timer, rounds=rounds, inner=1)
        yield Row(what=f"one launch of the smallest kernel, {what}", value=row.value / launches, unit="µs")


def forward(setting: Setting) -> Iterator[Row]:
    """Forward: one long sequence at every rank, and many sequences."""
    for rank, dtype, reach in (
        (8, torch.float32, "≤ 60"),
        (8, torch.bfloat16, "≤ 60"),
        (16, torch.float32, ""),
        (32, torch.float32, ""),
        (64, torch.float32, ""),
    )[: 1 if setting.quick else None]:
        yield from _one_long(setting, rank, dtype, reach)
    yield from _many(setting)


def backward(setting: Setting) -> Iterator[Row]:
    """Forward and backward, against the chunked form, and what is saved in between."""
    tokens = scans.TOKENS if not setting.quick else 8
    for rank in (8, 64)[: 1 if setting.quick else None]:
        arguments = scans.drawn(1, tokens, rank, device=setting.device)
        chunked = partial(scans.forward_and_backward, partial(delta_scan, backend="chunked"))
        triton = partial(scans.forward_and_backward, partial(delta_scan, backend="triton"))
        wanted, got = chunked([x.double() for x in arguments]), triton(arguments)
        error = max(relative_error(a, b) for a, b in zip(got, wanted, strict=True))
        what = f"triton scan, r {rank}, B 1, T {tokens:,}, forward and backward"
        yield Row(what=f"{what}: error of the gradients", value=error, unit="relative", reach="≤ 2e-6")
        yield paired(
            f"{what}, against the chunked form",
            partial(triton, arguments),
            partial(chunked, arguments),
            slower=True,
            timer=setting.timer,
            rounds=9 if not setting.quick else 1,
        )


def sweep(setting: Setting) -> Iterator[Row]:
    """Chunk length, tokens loaded at once and warps of a program; the choice that the code makes comes first."""
    tokens, timer = (32_768, setting.timer) if not setting.quick else (17, setting.timer)
    arguments = scans.drawn(1, tokens, 8, device=setting.device)
    tile = gpu.walk_tile
    counts = dict(rounds=5, inner=50) if not setting.quick else dict(rounds=1, inner=1)
    what = f"sweep, r 8, B 1, T {tokens:,}"
    run = captured(setting, partial(gpu.scan, arguments[:6], arguments[6], None))
    yield seconds(f"{what}: as chosen", run, timer, **counts)
    for warps in (1, 2, 4):
        for together in (4, 8, 16):

            def changed(
                rank: int, interpreted: bool, *, maps: bool, warps: int = warps, together: int = together
            ) -> dict[str, int]:
                chosen = tile(rank, interpreted, maps=maps)
                lanes = chosen["LANES"] if interpreted else chosen["LANES"] * warps
                return chosen | {"LANES": lanes, "num_warps": warps, "TOKENS": together}

            with mock.patch.object(gpu, "walk_tile", changed):
                for length in LENGTHS:
                    run = captured(setting, partial(gpu.scan, arguments[:6], arguments[6], None, length))
                    yield seconds(
                        f"{what}: {warps} warps, {together} tokens at once, chunks of {length}", run, timer, **counts
                    )
                    if setting.quick:
                        return
    for rank in (16, 32, 64):
        arguments = scans.drawn(1, tokens, rank, device=setting.device)
        for length in (None, *LENGTHS):
            run = captured(setting, partial(gpu.scan, arguments[:6], arguments[6], None, length))
            what = f"sweep, r {rank}, B 1, T {tokens:,}: chunks of {length or 'its choice'}"
            yield seconds(what, run, timer, **counts)


def _one_long(setting: Setting, rank: int, dtype: torch.dtype, reach: str) -> Iterator[Row]:
    tokens = 32_768 if not setting.quick else 17
    sets = [scans.drawn(1, tokens, rank, dtype, setting.device) for _ in range(1 if setting.quick else SETS)]
    wanted = delta_scan(*(x.double() for x in sets[0]), backend="chunked")
    reads, state = gpu.scan(sets[0][:6], sets[0][6], None)
    what = f"triton scan, r {rank}, B 1, T {tokens:,}, {str(dtype).removeprefix('torch.')}"
    for name, a, b in zip(("reads", "state"), (reads, state), wanted, strict=True):
        yield Row(what=f"{what}: error of the {name}", value=relative_error(a, b), unit="relative", reach="≤ 1e-6")
    counts = dict(rounds=9, inner=50) if not setting.quick else dict(rounds=1, inner=1)
    warm = captured(setting, partial(gpu.scan, sets[0][:6], sets[0][6], None))
    yield seconds(f"{what}, inputs in the cache", warm, setting.timer, reach=reach, **counts)
    cold = seconds("", captured(setting, _each(sets)), setting.timer, rounds=5, inner=1 if setting.quick else 5)
    yield Row(what=f"{what}, inputs in memory", value=cold.value / len(sets), unit="µs")
    if rank == 8:
        other = captured(setting, partial(sequential.scan, sets[0][:6], sets[0][6]))
        row = f"{what}, against the sequential kernel"
        inner = (50, 3) if not setting.quick else (1, 1)
        rounds = 9 if not setting.quick else 1
        yield paired(row, warm, other, slower=True, reach="≥ 50", timer=setting.timer, inner=inner, rounds=rounds)


def _each(sets: list[list[Tensor]]) -> Callable[[], object]:
    def call() -> None:
        for each in sets:
            gpu.scan(each[:6], each[6], None)

    return call


def _many(setting: Setting) -> Iterator[Row]:
    n, tokens = (4096, 1024) if not setting.quick else (8, 16)
    arguments = scans.drawn(n, tokens, 8, device=setting.device)
    moved = (7 * n * tokens * 8 + 2 * n * 64) * 4  # six inputs and the reads, the state twice
    source = torch.randn(moved // 8, device=setting.device)
    target = torch.empty_like(source)
    scan = partial(gpu.scan, arguments[:6], arguments[6], None)
    row = paired(
        "", scan, partial(target.copy_, source), slower=True, timer=setting.timer,
        inner=(20, 20) if not setting.quick else (1, 1), rounds=9 if not setting.quick else 1,
    )  # fmt: skip
    yield Row(
        what=f"triton scan, r 8, B {n:,}, T {tokens:,}: share of copy bandwidth",
        value=row.value,
        unit="of copy",
        reach="≥ 0.4",
        low=row.low,
        high=row.high,
        ours=row.ours,
        other=row.other,
        rounds=row.rounds,
    )


def _rate(what: str, amount: float, row: Row, unit: str) -> Row:
    """A row of a rate from a row of times in microseconds."""
    low, high = amount / row.high * 1e6, amount / row.low * 1e6
    return Row(what=what, value=amount / row.value * 1e6, unit=unit, low=low, high=high, rounds=row.rounds)
