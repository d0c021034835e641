"""The scan and the step on a CPU, against a PyTorch loop of two einsums per token."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from measure import Row, paired, relative_error
from torch import Tensor

from deltamem_kernels import delta_scan, delta_step, naive
from deltamem_kernels.cpu import compiled

TOKENS = 4096


def drawn(n: int, tokens: int, rank: int, dtype: torch.dtype = torch.float32, device: str = "cpu") -> list[Tensor]:
    """q, k, v, keep, erase, write [N, T, R] and a state [N, R, R], distributed as in a layer."""
    generator = torch.Generator(device).manual_seed(n * tokens + rank)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, device=device)

    def unit() -> Tensor:
        return torch.nn.functional.normalize(normal(n, tokens, rank).tanh(), dim=-1)

    q, k, v = unit(), unit(), normal(n, tokens, rank)
    gates = [torch.sigmoid(normal(n, tokens, rank) + bias) for bias in (3.0, -1.0, -1.0)]
    return [*(x.to(dtype) for x in (q, k, v, *gates)), normal(n, rank, rank)]


def loop(*arguments: Tensor) -> tuple[Tensor, Tensor]:
    """Two einsums per token: the read and the prediction."""
    return naive.scan(arguments[:6], arguments[6], None)


def forward_and_backward(scan: object, arguments: list[Tensor]) -> list[Tensor]:
    """Gradients of all arguments."""
    leaves = [x.detach().requires_grad_() for x in arguments]
    reads, state = scan(*leaves)  # type: ignore[operator]
    return list(torch.autograd.grad(reads.sum() + state.sum(), leaves))


def cpu_rows() -> Iterator[Row]:
    """Every CPU row about the scan; each backend is checked before it is timed."""
    forms = {"chunked": partial(delta_scan, backend="chunked")}
    if compiled.unavailable() is None:
        forms["compiled"] = partial(delta_scan, backend="compiled")
    for name, scan in forms.items():
        for n, reach in ((1, "≥ 1,500" if name == "compiled" else "≥ 10"), (8, "≥ 300" if name == "compiled" else "")):
            arguments = drawn(n, TOKENS, 8)
            wanted = loop(*(x.double() for x in arguments))
            error = max(relative_error(a, b) for a, b in zip(scan(*arguments), wanted, strict=True))
            what = f"{name} scan, r 8, B {n}, T {TOKENS:,}"
            yield Row(what=f"{what}: error against float64", value=error, unit="relative", reach="≤ 1e-6")
            with torch.inference_mode():
                yield paired(
                    f"{what}, forward",
                    partial(scan, *arguments),
                    partial(loop, *arguments),
                    slower=True,
                    reach=reach,
                    inner=(50 if name == "compiled" else 5, 1),
                )
        arguments = drawn(1, TOKENS, 8)
        wanted = forward_and_backward(loop, [x.double() for x in arguments])
        got = forward_and_backward(scan, arguments)
        error = max(relative_error(a, b) for a, b in zip(got, wanted, strict=True))
        what = f"{name} scan, r 8, B 1, T {TOKENS:,}, forward and backward"
        yield Row(what=f"{what}: error of the gradients", value=error, unit="relative", reach="≤ 2e-6")
        yield paired(
            what,
            partial(forward_and_backward, scan, arguments),
            partial(forward_and_backward, loop, arguments),
            slower=True,
            reach="≥ 2,000" if name == "compiled" else "",
            rounds=5,
            inner=(20 if name == "compiled" else 2, 1),
        )
        if name == "compiled":
            yield Row(
                what=f"{name} scan, r 8, T {TOKENS:,}: saved for the backward",
                value=saved_bytes(arguments),
                unit="bytes",
                reach="≤ 1,000,000",
            )
    yield from _steps()


def _steps() -> Iterator[Row]:
    for n in (1, 32):
        *inputs, state = drawn(n, 1, 8)
        tokens, pool, slots = [x[:, 0] for x in inputs], state.clone(), torch.arange(n)
        delta_step(*tokens, pool, slots)
        error = relative_error(pool, loop(*(x.double() for x in (*inputs, state)))[1])
        yield Row(what=f"step, r 8, B {n}: error against float64", value=error, unit="relative", reach="≤ 1e-6")
        yield paired(
            f"step, r 8, B {n}, against a scan of one token",
            partial(delta_step, *tokens, pool, slots),
            partial(delta_scan, *inputs, state),
            slower=False,
            inner=(300, 300),
        )


def saved_bytes(arguments: list[Tensor]) -> float:
    """Bytes that autograd saves for one scan, including its inputs."""
    saved: dict[int, int] = {}

    def note(x: Tensor) -> Tensor:
        saved[x.data_ptr()] = x.numel() * x.element_size()
        return x

    with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        delta_scan(*(x.detach().requires_grad_() for x in arguments))
    return float(sum(saved.values()))
