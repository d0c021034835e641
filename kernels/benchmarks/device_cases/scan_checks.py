"""The Triton scan against the float64 oracle on a CPU: reads, state and every gradient, outputs poisoned with NaN."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from unittest import mock

import scans
import torch
from measure import Row, relative_error
from torch import Tensor

from deltamem_kernels import naive
from deltamem_kernels.gpu import scan as gpu
from device_cases.case import Setting

Shape = tuple[int, int, int, int | None, bool]  # rank, sequences, tokens, chunk length, masked
NAMES = ("q", "k", "v", "keep", "erase", "write", "state")
# A quick run takes the first of each, and cuts its tokens to `QUICK`.
QUICK = {8: 39, 16: 20, 32: 19, 64: 7}
RANK_8: list[Shape] = [
    (8, 3, 71, 16, True),  # an odd number of chunks, the last one short
    (8, 2, 7, None, False),
    (8, 3, 131, 144, True),  # one chunk
    (8, 2, 64, 32, False),  # an even number of chunks, nothing short
    (8, 1, 1, None, True),
    (8, 1, 4096, None, False),
    (8, 70, 513, None, True),
]
LOW: list[Shape] = [(1, 2, 65, 16, True), (2, 3, 65, 32, False), (3, 2, 131, 32, True), (7, 2, 65, 16, False)]
LOW += [(5, 33, 300, None, True)]
MIDDLE: list[Shape] = [(16, 2, 65, 16, True), (20, 1, 65, 32, True), (13, 3, 200, 48, True), (16, 4, 2000, None, False)]
RANK_32: list[Shape] = [
    (32, 1, 39, 32, True),
    (32, 1, 33, 16, False),
    (32, 2, 1500, 64, True),
    (32, 5, 700, None, True),
]
RANK_64: list[Shape] = [(64, 1, 7, None, True), (64, 1, 19, 16, True), (64, 2, 900, 64, False), (40, 1, 100, 32, True)]
RANK_64 += [(48, 3, 257, None, True)]
LONG: list[Shape] = [(8, 1, 32_768, None, False), (16, 2, 20_000, None, False), (64, 1, 8_000, None, False)]
HALF = [torch.bfloat16, torch.float16]


def checked(shapes: Sequence[Shape]) -> Callable[[Setting], Iterator[Row]]:
    """Forward and backward of each shape; when quick, of the first only."""

    def rows(setting: Setting) -> Iterator[Row]:
        for shape in shapes[: 1 if setting.quick else None]:
            rank, n, tokens, length, masked = shape
            tokens = min(tokens, QUICK.get(rank, 20)) if setting.quick else tokens
            what = f"scan r {rank}, B {n}, T {tokens:,}, chunks of {length or 'its own choice'}"
            yield from _compared(setting, what + (", masked" if masked else ""), (rank, n, tokens, length, masked))

    return rows


def half(setting: Setting) -> Iterator[Row]:
    """Inputs of half precision, alone and mixed with float32."""
    kinds = [[torch.float32, *HALF], HALF[:1], HALF[1:]]
    for dtypes in kinds[: 1 if setting.quick else None]:
        what = "scan r 8, inputs in " + ", ".join(str(each).removeprefix("torch.") for each in dtypes)
        yield from _compared(setting, what, (8, 2, 20 if setting.quick else 300, 16, True), dtypes)


def limits(setting: Setting) -> Iterator[Row]:
    """Gates of 0 and 1, NaN under the mask, strides, and two runs that must agree bit for bit."""
    tokens = 5 if setting.quick else 200
    for value in (0.0, 1.0)[: 1 if setting.quick else None]:
        arguments = _drawn(setting, 1, tokens, 4)
        arguments[3][:, ::3], arguments[4][:, ::2] = value, value
        yield from _compared(setting, f"scan r 4, gates of {value:g}", (4, 1, tokens, 16, False), arguments=arguments)
    arguments = _drawn(setting, 2, tokens, 8)
    mask = _mask(setting, 2, tokens)
    dirty = [x.masked_fill(~mask[..., None], float("nan")) for x in arguments[:6]]
    runs = [_outputs(setting, each, arguments[6], mask) for each in (arguments[:6], arguments[:6], dirty)]
    yield _equal("scan r 8: two runs", runs[0], runs[1])
    yield _equal("scan r 8: NaN under the mask", runs[0], runs[2])
    strided = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in arguments[:6]]
    yield _equal("scan r 8: any strides", runs[0], _outputs(setting, strided, arguments[6], mask))


def long(setting: Setting) -> Iterator[Row]:
    """Long sequences, forward only: the oracle takes seconds."""
    for rank, n, tokens, _, _ in LONG[: 1 if setting.quick else None]:
        arguments = _drawn(setting, n, tokens if not setting.quick else 17, rank)
        with poisoned():
            got = gpu.scan(arguments[:6], arguments[6], None)
        wanted = naive.scan([x.cpu().double() for x in arguments[:6]], arguments[6].cpu().double(), None)
        what = f"scan r {rank}, B {n}, T {arguments[0].shape[1]:,}"
        yield _row(f"{what}: reads", got[0], wanted[0], 1e-6)
        yield _row(f"{what}: state", got[1], wanted[1], 1e-6)


def _compared(
    setting: Setting,
    what: str,
    shape: Shape,
    dtypes: Sequence[torch.dtype] = (torch.float32,),
    arguments: list[Tensor] | None = None,
) -> Iterator[Row]:
    rank, n, tokens, length, masked = shape
    arguments = _drawn(setting, n, tokens, rank) if arguments is None else arguments
    inputs = [x.to(dtypes[index % len(dtypes)]) for index, x in enumerate(arguments[:6])]
    mask = _mask(setting, n, tokens) if masked else None
    weights = torch.randn(n, tokens, rank), torch.randn(n, rank, rank)
    with poisoned():
        got = _gradients(lambda *x: gpu.scan(x[:6], x[6], mask, length), [*inputs, arguments[6]], weights)
    oracle = [x.cpu().double() for x in (*inputs, arguments[6])]
    on_cpu = None if mask is None else mask.cpu()
    wanted = _gradients(lambda *x: naive.scan(x[:6], x[6], on_cpu), oracle, weights)
    yield _row(f"{what}: reads", got[0], wanted[0], 1e-6)
    yield _row(f"{what}: state", got[1], wanted[1], 1e-6)
    for name, x, a, b in zip(NAMES, (*inputs, arguments[6]), got[2:], wanted[2:], strict=True):
        # The interpreter cuts to half precision where a GPU rounds.
        bar = {torch.float32: 2e-6, torch.float16: 1e-3}.get(x.dtype, 5e-3 if setting.on_gpu else 8e-3)
        yield _row(f"{what}: gradient of {name}", a, b, bar)


def _gradients(
    scan: Callable[..., tuple[Tensor, Tensor]], arguments: Sequence[Tensor], weights: tuple[Tensor, Tensor]
) -> tuple[Tensor, ...]:
    """Both outputs, and the gradients of a random weighing of them."""
    leaves = [x.detach().requires_grad_() for x in arguments]
    reads, state = scan(*leaves)
    loss = (reads * weights[0].to(reads)).sum() + (state * weights[1].to(state)).sum()
    return reads.detach(), state.detach(), *torch.autograd.grad(loss, leaves)


def _outputs(setting: Setting, inputs: Sequence[Tensor], state: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
    leaves = [x.detach().requires_grad_() for x in (*inputs, state)]
    reads, after = gpu.scan(leaves[:6], leaves[6], mask, 16)
    return reads.detach(), after.detach(), *torch.autograd.grad(reads.sum() + after.sum(), leaves)


def _drawn(setting: Setting, n: int, tokens: int, rank: int) -> list[Tensor]:
    return scans.drawn(n, tokens, rank, device=setting.device)


def _mask(setting: Setting, n: int, tokens: int) -> Tensor:
    return torch.rand(n, tokens, device=setting.device) > 0.3


def _row(what: str, a: Tensor, b: Tensor, bar: float) -> Row:
    if not bool(b.any()):
        return Row(what=what, value=float(a.cpu().double().norm()), unit="absolute", reach="≤ 0")
    return Row(what=what, value=relative_error(a.cpu(), b), unit="relative", reach=f"≤ {bar:g}")


def _equal(what: str, a: Sequence[Tensor], b: Sequence[Tensor]) -> Row:
    different = sum(not torch.equal(x, y) for x, y in zip(a, b, strict=True))
    return Row(what=f"{what}: outputs that differ in any bit", value=different, unit="count", reach="≤ 0")


@contextmanager
def poisoned() -> Iterator[None]:
    """Fill what torch allocates without a value with NaN, so that an element left unwritten is seen."""
    with ExitStack() as stack:
        for name in ("empty", "empty_like"):
            allocate = getattr(torch, name)
            stack.enter_context(mock.patch.object(torch, name, _poisoning(allocate)))
        yield


def _poisoning(allocate: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def allocated(*args: object, **kwargs: object) -> Tensor:
        x = allocate(*args, **kwargs)
        return x.fill_(float("nan")) if x.is_floating_point() else x

    return allocated
