"""Random scans of the kind a δ-mem layer makes, and the oracle's answer to them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from deltamem_kernels import delta_scan
from deltamem_kernels.cpu import compiled


@dataclass
class Scan:
    """Arguments of a scan in float64: q … write [N,T,R], state [N,R,R], mask [N,T] or None."""

    inputs: list[Tensor]
    state: Tensor
    mask: Tensor | None

    def float(self) -> list[Tensor]:
        return [x.float() for x in (*self.inputs, self.state)]

    def oracle(self) -> tuple[Tensor, Tensor]:
        return delta_scan(*self.inputs, self.state, self.mask, backend="naive")


@pytest.fixture
def make_scan() -> Callable[..., Scan]:
    def make(n: int, tokens: int, rank: int, *, masked: bool = False, seed: int = 0) -> Scan:
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        def unit() -> Tensor:
            return torch.nn.functional.normalize(normal(n, tokens, rank).tanh(), dim=-1)

        q, k, v = unit(), unit(), normal(n, tokens, rank)
        keep, erase, write = (torch.sigmoid(normal(n, tokens, rank) + bias) for bias in (2.0, -1.0, -1.0))
        mask = torch.rand(n, tokens, generator=generator) > 0.3 if masked else None
        return Scan([q, k, v, keep, erase, write], normal(n, rank, rank), mask)

    return make


@pytest.fixture
def need_compiled() -> None:
    reason = compiled.unavailable()
    if reason is not None:
        pytest.skip(f"compiled scan: {reason}")


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fill what torch allocates without a value with NaN, so that an element left unwritten is seen."""
    empty, empty_like = torch.empty, torch.empty_like
    monkeypatch.setattr(torch, "empty", lambda *a, **k: _poison(empty(*a, **k)))
    monkeypatch.setattr(torch, "empty_like", lambda *a, **k: _poison(empty_like(*a, **k)))


def _poison(x: Tensor) -> Tensor:
    return x.fill_(float("nan")) if x.is_floating_point() else x


def relative_error(a: Tensor, b: Tensor) -> float:
    """‖a − b‖ / ‖b‖ in float64; 0 where both are zero, NaN where a has one."""
    difference = (a.double() - b.double()).norm()
    return float((difference / b.double().norm().clamp(min=1e-12)).detach())


@pytest.fixture
def error() -> Callable[[Tensor, Tensor], float]:
    return relative_error


def gradients_of(
    function: Callable[..., tuple[Tensor, Tensor]],
    arguments: Sequence[Tensor],
    reads_weight: Tensor,
    state_weight: Tensor,
) -> tuple[Tensor, ...]:
    """Of a random weighing of both outputs, by every argument."""
    arguments = [x.detach().requires_grad_() for x in arguments]
    reads, state = function(*arguments)
    loss = (reads * reads_weight.to(reads.dtype)).sum() + (state * state_weight.to(state.dtype)).sum()
    return torch.autograd.grad(loss, arguments)


@pytest.fixture
def gradients() -> Callable[..., tuple[Tensor, ...]]:
    return gradients_of
