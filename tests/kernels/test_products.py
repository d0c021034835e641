"""Products of few rows: the compiled form against float64, and what of a model goes through it."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deltamem_kernels import few_rows
from deltamem_kernels.cpu import compiled, products

pytestmark = pytest.mark.skipif(bool(compiled.unavailable()), reason="the compiled library was not built")

CLOSE = {torch.float32: 5e-7, torch.bfloat16: 3e-3}  # relative; a bfloat16 result is rounded once


def numbers(*shape: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def far(result: Tensor, x: Tensor, weight: Tensor) -> float:
    exact = x.double() @ weight.double().t()
    return float((result.double() - exact).norm() / exact.norm())


@pytest.mark.parametrize("dtype", CLOSE)
@pytest.mark.parametrize("target", compiled.targets())
def test_every_shape_agrees_with_float64(target: str, dtype: torch.dtype) -> None:
    for rows, columns, length in ((1, 1, 32), (2, 3, 64), (3, 257, 96), (4, 512, 32), (5, 33, 1024), (8, 600, 160)):
        x, weight = numbers(rows, length, dtype=dtype), numbers(columns, length, dtype=dtype, seed=1)
        assert far(products.product(x, weight, target), x, weight) < CLOSE[dtype], (rows, columns, length)
    for rows in (31, 33, 64, 67, 130):  # more than run together
        x, weight = numbers(rows, 64, dtype=dtype), numbers(300, 64, dtype=dtype, seed=1)
        assert far(products.product(x, weight, target), x, weight) < CLOSE[dtype], rows


@pytest.mark.parametrize("dtype", CLOSE)
def test_leading_axes_and_strides(dtype: torch.dtype) -> None:
    weight = numbers(70, 64, dtype=dtype, seed=1)
    whole = numbers(2, 3, 96, dtype=dtype)
    for x in (whole[..., :64], whole[:, 1:, 32:], numbers(64, 5, dtype=dtype).t(), whole[:, :, :64].transpose(0, 1)):
        result = products.product(x, weight)
        assert result.shape == (*x.shape[:-1], 70) and result.dtype is dtype
        assert far(result.flatten(0, -2), x.flatten(0, -2), weight) < CLOSE[dtype]


def test_what_is_not_finite_stays_so_and_in_its_row() -> None:
    for dtype in CLOSE:
        x, weight = numbers(3, 64, dtype=dtype), numbers(10, 64, dtype=dtype)
        x[1, 5] = float("nan")
        x[2, 7] = float("inf")
        result = products.product(x, weight)
        assert result[0].isfinite().all() and result[1].isnan().all() and not result[2].isfinite().any()


def test_a_row_does_not_depend_on_its_neighbours() -> None:
    """Bit for bit, in whatever company: rows of a batch are different agents'."""
    for dtype in CLOSE:
        x, weight = numbers(40, 96, dtype=dtype), numbers(130, 96, dtype=dtype, seed=1)
        whole = products.product(x, weight)
        for rows in ([0], [0, 7], [39, 3, 0], list(range(13))):
            assert torch.equal(products.product(x[rows], weight), whole[rows])


class Layers(nn.Module):
    """A linear layer without bias, one with, and a product with an addend."""

    def __init__(self) -> None:
        super().__init__()
        self.plain, self.biased = nn.Linear(256, 512, bias=False), nn.Linear(512, 256)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.biased(self.plain(x))
        return torch.addmm(x, hidden, self.biased.weight[:, :256].contiguous().t())


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[torch.Size]:
    """Shapes of the weights that went through the compiled form."""
    seen: list[torch.Size] = []
    product = products.product

    def counted(x: Tensor, weight: Tensor) -> Tensor:
        seen.append(weight.shape)
        return product(x, weight)

    monkeypatch.setattr(products, "product", counted)
    return seen


@torch.no_grad()
def test_a_model_runs_through_it(calls: list[torch.Size]) -> None:
    torch.manual_seed(0)
    model, x = Layers(), numbers(4, 256, dtype=torch.float32)
    expected = model(x)
    assert calls == []
    with few_rows(x):
        result = model(x)
    assert calls == [(512, 256), (256, 512), (256, 256)]
    assert torch.allclose(result, expected, atol=1e-5)
    with few_rows(x[:1, :1]):  # one row: PyTorch is as fast
        assert torch.equal(model(x), expected)
    assert len(calls) == 3


def test_what_it_cannot_take_is_pytorchs(calls: list[torch.Size]) -> None:
    weight = numbers(512, 256, dtype=torch.float32)
    x = numbers(4, 256, dtype=torch.float32)
    wide = numbers(4, 250, dtype=torch.float32)
    passed: list[tuple[Any, Any]] = [
        (x[:1], weight),  # one row
        (numbers(64, 256, dtype=torch.float32), weight),  # many rows of float32
        (x, weight[:8]),  # small
        (wide, numbers(512, 250, dtype=torch.float32)),  # of another length
        (x, numbers(512, 512, dtype=torch.float32)[:, ::2]),  # not as it lies in memory
        (x.double(), weight.double()),
        (x.half(), weight.half()),
    ]
    with products.FewRowProducts():
        for given, by in passed:
            F.linear(given, by)
        leaf = weight.clone().requires_grad_()
        F.linear(x, leaf).sum().backward()
    assert leaf.grad is not None and calls == []


@torch.no_grad()
def test_threads_share_the_library() -> None:
    weight = numbers(2048, 256, dtype=torch.float32)
    inputs = [numbers(8, 256, dtype=torch.float32, seed=seed) for seed in range(8)]
    results: list[list[Tensor]] = [[] for _ in inputs]

    def run(number: int) -> None:
        results[number] = [products.product(inputs[number], weight) for _ in range(20)]

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(inputs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for x, found in zip(inputs, results, strict=True):
        assert len(found) == 20 and all(far(each, x, weight) < 5e-7 for each in found)
