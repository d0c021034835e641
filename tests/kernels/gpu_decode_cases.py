"""What the decode kernels compute, against float64. `test_gpu_decode` runs this file: interpreted, or on a GPU."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from deltamem_kernels import naive
from deltamem_kernels.gpu import decode

DEVICE = "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda"
NAN = float("nan")
# Of a result, by its dtype. The interpreter cuts to bfloat16 where a GPU rounds.
TOLERANCE = {torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3 if DEVICE == "cpu" else 5e-3}
MODES = [("standard", False), ("standard", True), ("lambda_outside", False), ("lambda_outside", True)]
MODES += [("no_lambda", False)]
Error = Callable[[Tensor, Tensor], float]


class Streams:
    """Streams with a slot each of a pool of 9; the second is idle. What must not be read is NaN.

    ``packed`` [B, 70 + 33 + 3 + memory + 2] holds q, k, v and the memory columns, as one projection leaves them.
    """

    def __init__(self, heads: int, rank: int, *, batch: int = 3, gates: int = 0, dtype: Any = torch.float32) -> None:
        self.generator = torch.Generator().manual_seed(heads * 100 + rank)
        self.heads, self.rank, self.width = heads, rank, heads * rank
        self.slots = torch.randperm(9, generator=self.generator)[:batch]
        self.pool = torch.full((9, heads, rank, rank), NAN)
        self.pool[self.slots] = self.normal(batch, heads, rank, rank)
        self.slots[1] = -1
        self.packed = self.normal(batch, 70 + 33 + 3 + 3 * self.width + gates + 2).to(dtype)
        self.packed[1, 106:] = NAN
        self.packed[:, -2:] = NAN
        self.active = self.slots >= 0
        self.slots, self.pool, self.packed = (x.to(DEVICE) for x in (self.slots, self.pool, self.packed))

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator)

    def weight(self, outputs: int) -> Tensor:
        return self.normal(outputs, self.width).to(DEVICE)

    def views(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Columns of q, k, v and the memory."""
        q, k, v, memory = torch.split(self.packed, [70, 33, 3, self.packed.shape[1] - 106], dim=1)
        return q, k, v, memory

    def unit(self, part: int, unit: bool = True) -> Tensor:
        """Queries (0) or keys (1) in float64: [B, H, R]."""
        columns = self.views()[3][:, part * self.width : (part + 1) * self.width].cpu().double()
        columns = columns.view(-1, self.heads, self.rank)
        return normalize(columns.tanh(), dim=-1, eps=1e-6) if unit else columns

    def reads(self, unit: bool = True, active: Tensor | None = None) -> Tensor:
        """[B, W] in float64."""
        active = self.active if active is None else active
        states = self.pool.cpu().double()[self.slots.cpu().clamp(min=0)]
        reads = torch.einsum("bhij,bhj->bhi", states, self.unit(0, unit)).flatten(1)
        return reads.masked_fill(~active[:, None], 0)

    def written(self, bias: Tensor, update: str, own_lambda: bool, rankwise: bool, unit: bool = True) -> Tensor:
        """The pool after the tokens, in float64."""
        memory = self.views()[3].cpu().double()
        gates = self.width if rankwise else self.heads
        raw = memory[:, 3 * self.width :][:, : bias.numel()] + bias.cpu().double()
        beta, lam = (torch.sigmoid(raw[:, start : start + gates]) for start in (0, gates if own_lambda else 0))
        lam = lam if own_lambda else 1 - beta
        keep, erase = {"standard": (lam, beta), "lambda_outside": (lam, lam * beta), "no_lambda": (beta * 0 + 1, beta)}[
            update
        ]
        shape = (-1, self.heads, self.rank if rankwise else 1)
        keep, erase, write = (x.reshape(shape).expand(-1, -1, self.rank) for x in (keep, erase, beta))
        v = memory[:, 2 * self.width : 3 * self.width].view(-1, self.heads, self.rank)
        rows = [x.flatten(0, 1) for x in (self.unit(1, unit), self.unit(1, unit), v, keep, erase, write)]
        pool = self.pool.cpu().double().flatten(0, 1).clone()
        slots = self.slots.cpu()[:, None] * self.heads + torch.arange(self.heads)
        naive.step(rows, pool, slots.masked_fill(~self.active[:, None], -1).flatten())
        return pool.view(self.pool.shape)


def expect(got: Tensor, before: Tensor, active: Tensor, correction: Tensor, error: Error) -> None:
    """Active rows have the correction, to what their dtype can say; idle rows are untouched."""
    wanted = before.cpu().double() + correction
    assert error(got.cpu()[active], wanted[active]) < TOLERANCE[got.dtype]
    torch.testing.assert_close(got.cpu()[~active], before.cpu()[~active], rtol=0, atol=0, equal_nan=True)


SHAPES = [(1, 8, torch.float32), (4, 8, torch.bfloat16), (1, 5, torch.float16)]
SHAPES += [(1, 1, torch.float32), (2, 1, torch.bfloat16), (2, 3, torch.float32), (1, 33, torch.bfloat16)]
SHAPES += [(1, 64, torch.float32), (1, 8, torch.bfloat16), (4, 8, torch.float32), (2, 33, torch.float32)]


@pytest.mark.parametrize(("heads", "rank", "dtype"), SHAPES, ids=str)
def test_reads_and_corrects(heads: int, rank: int, dtype: Any, error: Error, poisoned: None) -> None:
    streams = Streams(heads, rank, dtype=dtype)
    before, wanted = streams.packed.clone(), streams.reads()
    q, k, v, memory = streams.views()
    targets = [(out, streams.weight(out.shape[1])) for out in (q, k, v)]
    pool = streams.pool.clone()
    reads = decode.read_and_correct(memory, pool, streams.slots, targets, 0.5, heads=heads, normalize=True)
    assert error(reads.cpu(), wanted) < 1e-6
    assert not reads[1].any()
    for (out, weight), old in zip(targets, torch.split(before[:, :106], [70, 33, 3], dim=1), strict=True):
        expect(out, old, streams.active, 0.5 * wanted @ weight.cpu().double().T, error)
    torch.testing.assert_close(memory, before[:, 106:], rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(pool, streams.pool, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("width", [8, 5, 66])
def test_corrects_from_stored_reads(width: int, dtype: Any, error: Error) -> None:
    streams = Streams(1, width)
    reads, weight = streams.normal(4, width).to(DEVICE), streams.weight(70)
    buffer = streams.normal(4, 100).to(DEVICE, dtype)
    before = buffer.clone()
    decode.correct(buffer[:, 20:90], reads, weight, 2.0)
    correction = 2.0 * reads.cpu().double() @ weight.cpu().double().T
    expect(buffer[:, 20:90], before[:, 20:90], torch.ones(4, dtype=torch.bool), correction, error)
    assert torch.equal(buffer[:, :20], before[:, :20]) and torch.equal(buffer[:, 90:], before[:, 90:])


@pytest.mark.parametrize(("update", "own_lambda"), MODES)
@pytest.mark.parametrize(("heads", "rank", "rankwise"), [(4, 5, True), (2, 8, False)])
def test_writes(heads: int, rank: int, update: Any, own_lambda: bool, rankwise: bool, error: Error) -> None:
    check_write(heads, rank, update, own_lambda, rankwise, error)


@pytest.mark.parametrize(("heads", "rank"), [(1, 1), (1, 64), (2, 33)])
def test_writes_all_ranks(heads: int, rank: int, error: Error) -> None:
    check_write(heads, rank, "standard", True, True, error, dtype=torch.bfloat16)


def test_writes_with_one_gate_a_head(error: Error) -> None:
    check_write(2, 3, "lambda_outside", True, False, error)


def check_write(
    heads: int, rank: int, update: Any, own_lambda: bool, rankwise: bool, error: Error, **more: Any
) -> None:
    gates = (heads * rank if rankwise else heads) * (2 if own_lambda else 1)
    streams = Streams(heads, rank, gates=gates, **more)
    bias = streams.normal(gates).to(DEVICE)
    wanted, before = streams.written(bias, update, own_lambda, rankwise), streams.packed.clone()
    decode.write(
        streams.views()[3],
        bias,
        streams.pool,
        streams.slots,
        heads=heads,
        update=update,
        own_lambda=own_lambda,
        rankwise=rankwise,
        normalize=True,
    )
    expect_pool(streams.pool, wanted, streams.slots, error)
    torch.testing.assert_close(streams.packed, before, rtol=0, atol=0, equal_nan=True)


def expect_pool(pool: Tensor, wanted: Tensor, slots: Tensor, error: Error) -> None:
    """Chosen slots are as wanted; the others are still NaN."""
    chosen = slots[slots >= 0].cpu()
    assert error(pool.cpu()[chosen], wanted[chosen]) < 1e-6
    left = torch.ones(pool.shape[0], dtype=torch.bool)
    left[chosen] = False
    assert pool.cpu()[left].isnan().logical_or(wanted[left].float() == pool.cpu()[left]).all()


@pytest.mark.parametrize("contiguous", [True, False])
def test_an_invalid_stream_is_idle(contiguous: bool, error: Error) -> None:
    streams = Streams(1, 8, batch=4, gates=8)
    mask = torch.ones(4, 3, dtype=torch.bool, device=DEVICE)
    mask[3, -1] = False
    valid = mask[:, -1].contiguous() if contiguous else mask[:, -1]
    streams.active = streams.active & valid.cpu()
    streams.packed[3, 106:] = NAN
    bias, weight = streams.normal(8).to(DEVICE), streams.weight(70)
    before, wanted_reads, wanted = (
        streams.packed.clone(),
        streams.reads(),
        streams.written(bias, "standard", False, True),
    )
    q, _, _, memory = streams.views()
    options: Any = dict(heads=1, normalize=True, valid=valid)
    reads = decode.read_and_correct(memory, streams.pool, streams.slots, [(q, weight)], 1.0, **options)
    options |= dict(update="standard", own_lambda=False, rankwise=True)
    decode.write(memory, bias, streams.pool, streams.slots, **options)
    assert error(reads.cpu(), wanted_reads) < 1e-6
    expect(q, before[:, :70], streams.active, wanted_reads @ weight.cpu().double().T, error)
    expect_pool(streams.pool, wanted, streams.slots.masked_fill(~valid, -1), error)


def test_nothing_is_squashed_or_normalised_unless_asked(error: Error) -> None:
    streams = Streams(2, 5, gates=10)
    bias = streams.normal(10).to(DEVICE)
    wanted = streams.written(bias, "standard", False, True, unit=False)
    memory = streams.views()[3]
    reads = decode.read_and_correct(memory, streams.pool, streams.slots, [], 1.0, heads=2, normalize=False)
    assert error(reads.cpu(), streams.reads(unit=False)) < 1e-6
    options: Any = dict(heads=2, update="standard", own_lambda=False, rankwise=True, normalize=False)
    decode.write(memory, bias, streams.pool, streams.slots, **options)
    expect_pool(streams.pool, wanted, streams.slots, error)


@pytest.mark.parametrize("size", [1e-4, 0.0, 1e-8, 0.5, 30.0])
def test_queries_of_any_size_keep_their_digits(size: float, error: Error) -> None:
    streams = Streams(2, 5)
    streams.packed[:, 106:] *= size
    reads = decode.read_and_correct(streams.views()[3], streams.pool, streams.slots, [], 1.0, heads=2, normalize=True)
    assert error(reads.cpu(), streams.reads()) < 1e-6


@pytest.mark.parametrize("count", [1, 2])
def test_a_trained_scale_stays_on_the_device(count: int, error: Error) -> None:
    streams = Streams(1, 8)
    before, wanted = streams.packed.clone(), streams.reads()
    q, k, _, memory = streams.views()
    scale = torch.tensor([0.5, 3.0][:count], device=DEVICE)
    targets = [(q, streams.weight(70).bfloat16()), (k, streams.weight(33).bfloat16())]
    decode.read_and_correct(memory, streams.pool, streams.slots, targets, scale, heads=1, normalize=True)
    for number, ((out, weight), old) in enumerate(zip(targets, (before[:, :70], before[:, 70:103]), strict=True)):
        factor = float(scale[number % count])
        expect(out, old, streams.active, factor * wanted @ weight.cpu().double().T, error)
    out = streams.normal(3, 9).to(DEVICE)
    weight, old = streams.weight(9), out.clone()
    decode.correct(out, wanted.float().to(DEVICE), weight, scale[0])
    expect(out, old, torch.ones(3, dtype=torch.bool), 0.5 * wanted @ weight.cpu().double().T, error)


def test_a_layer_of_a_larger_pool(error: Error) -> None:
    streams = Streams(1, 8, gates=8)
    bias = streams.normal(8).to(DEVICE)
    all_layers = torch.full((9, 3, 8, 8), NAN, device=DEVICE)
    all_layers[:, 1] = streams.pool[:, 0]
    wanted, pool = streams.written(bias, "standard", False, True), all_layers[:, 1]
    memory = streams.views()[3]
    reads = decode.read_and_correct(memory, pool, streams.slots, [], 1.0, heads=1, normalize=True)
    assert error(reads.cpu(), streams.reads()) < 1e-6
    options: Any = dict(heads=1, update="standard", own_lambda=False, rankwise=True, normalize=True)
    decode.write(memory, bias, pool, streams.slots, **options)
    expect_pool(pool, wanted[:, 0], streams.slots, error)
    assert all_layers[:, ::2].isnan().all()


def test_no_streams() -> None:
    pool, slots = torch.zeros(2, 8, 8, device=DEVICE), torch.zeros(0, dtype=torch.int64, device=DEVICE)
    x = torch.zeros(0, 32, device=DEVICE)
    assert decode.read_and_correct(x, pool, slots, [], 1.0, heads=1, normalize=True).shape == (0, 8)
    assert decode.step([x[:, :8]] * 6, pool, slots).shape == (0, 8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("rank", [8, 1, 5, 33, 64])
def test_step(rank: int, dtype: Any, error: Error, poisoned: None) -> None:
    streams = Streams(1, rank, batch=4)
    packed = streams.normal(4, 5 * rank).to(DEVICE, dtype)
    gate = torch.sigmoid(streams.normal(4, 1)).to(DEVICE).expand(4, rank)
    inputs = [*packed.split(rank, dim=1), gate]
    inputs[1] = inputs[1] * rank**-0.5
    pool = streams.pool[:, 0].contiguous()
    wanted_pool, slots = pool.cpu().double(), streams.slots
    wanted = naive.step([x.cpu().double() for x in inputs], wanted_pool, slots.cpu())
    reads = decode.step(inputs, pool, slots)
    assert reads.dtype == dtype
    assert error(reads.cpu(), wanted) < TOLERANCE[dtype]
    assert not reads[1].any()
    expect_pool(pool, wanted_pool, slots, error)


OPTIONS: list[dict[str, Any]] = [
    dict(),
    dict(heads=2, rankwise_gates=False, couple_lambda=False),
    dict(heads=2, update="lambda_outside", couple_lambda=False),
    dict(update="no_lambda", normalize_qk=False),
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_tokens_one_by_one_do_as_the_layer_does(options: dict[str, Any], error: Error) -> None:
    from deltamem_agents.core.config import DeltaMemConfig  # here, for they import transformers
    from deltamem_agents.core.families import LayerShape
    from deltamem_agents.core.layer import AdapterLayer

    config = DeltaMemConfig(rank=4, **options)
    layer = AdapterLayer(config, LayerShape(16, {"q": 24, "k": 8, "v": 8, "o": 16}))
    generator = torch.Generator().manual_seed(0)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.5, generator=generator)
    x, q, o = (torch.randn(2, 3, size, generator=generator) for size in (16, 24, 16))
    state = torch.randn(2, *config.state_shape, generator=generator)
    with torch.no_grad():
        reads, after = layer(x, state, None, write=True, valid=None, spans=None)
        wanted = [layer.correct("q", q, reads), layer.correct("o", o, reads)]
    layer, x, q, o, pool = layer.to(DEVICE), x.to(DEVICE), q.to(DEVICE), o.to(DEVICE), state.flip(0).to(DEVICE)
    slots, scale = torch.tensor([1, 0], device=DEVICE), config.alpha / config.rank
    shared: Any = dict(heads=config.heads, normalize=config.normalize_qk)
    gates: Any = dict(update=config.update, own_lambda=config.own_lambda, rankwise=config.rankwise_gates)
    weights = {name: parameter.detach() for name, parameter in layer.corrections.items()}
    for t in range(3):
        projected = x[:, t] @ layer.memory.detach().T
        reads = decode.read_and_correct(projected, pool, slots, [(q[:, t], weights["q"])], scale, **shared)
        bias = layer.gate_bias.detach()
        decode.correct(o[:, t], reads, weights["o"], scale)
        decode.write(projected, bias, pool, slots, **shared, **gates)
    assert error(q.cpu(), wanted[0]) < 3e-6
    assert error(o.cpu(), wanted[1]) < 3e-6
    assert error(pool.cpu().flip(0), after) < 3e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_an_attached_layer_writes_one_token_as_it_does_several(
    options: dict[str, Any], dtype: Any, error: Error, monkeypatch: pytest.MonkeyPatch
) -> None:
    from deltamem_agents.core.config import DeltaMemConfig  # here, for they import transformers
    from deltamem_agents.core.families import LayerShape
    from deltamem_agents.core.inference import InferenceLayer
    from deltamem_agents.core.layer import AdapterLayer
    from deltamem_kernels import decode as dispatch

    config = DeltaMemConfig(rank=4, **options)
    layer = AdapterLayer(config, LayerShape(16, {"q": 24, "k": 8, "v": 8, "o": 16}))
    generator = torch.Generator().manual_seed(0)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.5, generator=generator)
    layer = layer.to(DEVICE)
    inputs = [torch.nn.Linear(16, size, bias=False, dtype=dtype, device=DEVICE) for size in (24, 8, 8)]
    if DEVICE == "cpu":  # as on a GPU, where the interpreter stands in for it
        monkeypatch.setattr(dispatch, "_launches", lambda tensor: True)
        monkeypatch.setattr(dispatch, "_compiled", lambda: False)
    fast = InferenceLayer(layer, inputs, {"q": (0, 24)}, adds=True)
    x = torch.randn(3, 1, 16, generator=generator).to(DEVICE, dtype)
    state = torch.randn(3, *config.state_shape, generator=generator).to(DEVICE)
    before, valid = state.clone(), torch.tensor([[True], [False], [True]], device=DEVICE)
    fast.refresh()
    for given in (None, valid):
        with torch.no_grad():
            _, after, outputs, _ = fast.read(x, state, None, write=True, valid=given, spans=None)
            reads, wanted = layer(x, state, None, write=True, valid=given, spans=None)
            plain = torch.nn.functional.linear(x, inputs[0].weight)
        assert error(after, wanted.double()) < (3e-6 if dtype == torch.float32 else 2e-2)
        assert outputs is not None
        assert error(outputs[0], layer.correct("q", plain, reads).double()) < (3e-6 if dtype == torch.float32 else 2e-2)
        assert torch.equal(state, before) and (given is None or torch.equal(after[1], state[1]))
    fast.restore()
