"""What the device can do at best: copies, matrix products, launches. All other times are read against these."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from measure import Row, seconds

from device_cases.case import Setting, captured


def rows(setting: Setting) -> Iterator[Row]:
    """Copy, matrix products in the dtypes that are used, and the cost of a launch alone and in a graph."""
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


def _rate(what: str, amount: float, row: Row, unit: str) -> Row:
    """A row of a rate from a row of times in microseconds."""
    low, high = amount / row.high * 1e6, amount / row.low * 1e6
    return Row(what=what, value=amount / row.value * 1e6, unit=unit, low=low, high=high, rounds=row.rounds)
