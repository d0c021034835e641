"""The decode kernels against float64 on a CPU: reads, corrections, writes, idle streams, and a graph of all of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from measure import Row, relative_error
from torch import Tensor
from torch.nn.functional import normalize

from deltamem_kernels import naive
from deltamem_kernels.gpu import decode
from device_cases.case import Setting, captured
from device_cases.scan_checks import poisoned

WIDTHS = (70, 33, 3)  # of q, k and v
SHAPES = [(1, 8, torch.float32), (4, 8, torch.bfloat16), (1, 5, torch.float16), (1, 1, torch.float32)]
SHAPES += [(2, 3, torch.float32), (1, 33, torch.bfloat16), (1, 64, torch.float32), (1, 8, torch.bfloat16)]
MODES = [("standard", False), ("standard", True), ("lambda_outside", True), ("no_lambda", False)]
BARS = {torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 5e-3}
SLOTS = 9


@dataclass
class Streams:
    """Streams of one layer: the packed product [q|k|v|memory], a pool of states, slots; the second stream is idle."""

    heads: int
    rank: int
    packed: Tensor
    pool: Tensor
    slots: Tensor

    @property
    def memory(self) -> Tensor:
        """The memory's columns: q, k, v and the gates."""
        return self.packed[:, sum(WIDTHS) :]

    def vectors(self, part: int) -> Tensor:
        """Queries (0) or keys (1) in float64 [B, H, R]."""
        width = self.heads * self.rank
        columns = self.memory[:, part * width : (part + 1) * width].cpu().double().view(-1, self.heads, self.rank)
        return normalize(columns.tanh(), dim=-1, eps=1e-6)

    def reads(self) -> Tensor:
        """[B, W] in float64."""
        states = self.pool.cpu().double()[self.slots.cpu().clamp(min=0)]
        reads = torch.einsum("bhij,bhj->bhi", states, self.vectors(0)).flatten(1)
        return reads.masked_fill(self.slots.cpu()[:, None] < 0, 0)

    def written(self, bias: Tensor, update: str, own_lambda: bool) -> Tensor:
        """The pool after the tokens, in float64; one gate for each row."""
        width = self.heads * self.rank
        memory = self.memory.cpu().double()
        raw = memory[:, 3 * width :][:, : bias.numel()] + bias.cpu().double()
        beta = torch.sigmoid(raw[:, :width])
        keep = torch.sigmoid(raw[:, width : 2 * width]) if own_lambda else 1 - beta
        keep = torch.ones_like(beta) if update == "no_lambda" else keep
        erase = keep * beta if update == "lambda_outside" else beta
        rows = [x.reshape(-1, self.rank) for x in (memory[:, 2 * width : 3 * width], keep, erase, beta)]
        keys = self.vectors(1).flatten(0, 1)
        pool = self.pool.cpu().double().flatten(0, 1).clone()
        slots = self.slots.cpu()[:, None] * self.heads + torch.arange(self.heads)
        slots = slots.masked_fill(self.slots.cpu()[:, None] < 0, -1).flatten()
        naive.step([keys, keys, *rows], pool, slots)
        return pool.view(self.pool.shape)


def streams(setting: Setting, heads: int, rank: int, dtype: Any, *, batch: int = 3, gates: int = 0) -> Streams:
    """Random streams; what must not be read is NaN."""
    width = heads * rank
    slots = torch.randperm(SLOTS)[:batch]
    pool = torch.full((SLOTS, heads, rank, rank), float("nan"))
    pool[slots] = torch.randn(batch, heads, rank, rank)
    slots[1] = -1
    packed = torch.randn(batch, sum(WIDTHS) + 3 * width + gates).to(dtype)
    packed[1, sum(WIDTHS) :] = float("nan")
    return Streams(heads, rank, packed.to(setting.device), pool.to(setting.device), slots.to(setting.device))


def reads(setting: Setting) -> Iterator[Row]:
    """`read_and_correct` and `correct` at every shape."""
    for heads, rank, dtype in SHAPES[: 2 if setting.quick else None]:
        made = streams(setting, heads, rank, dtype)
        what = f"decode H {heads}, r {rank}, {str(dtype).removeprefix('torch.')}"
        before, wanted = made.packed.clone(), made.reads()
        outs = list(made.packed[:, : sum(WIDTHS)].split(WIDTHS, dim=1))
        weights = [torch.randn(width, heads * rank, device=setting.device) for width in WIDTHS]
        targets = list(zip(outs, weights, strict=True))
        with poisoned():
            got = decode.read_and_correct(made.memory, made.pool, made.slots, targets, 0.5, heads=heads, normalize=True)
        yield _row(f"{what}: reads", got, wanted, 1e-6)
        corrections = torch.cat([0.5 * wanted @ weight.cpu().double().T for weight in weights], dim=1)
        corrected = before[:, : sum(WIDTHS)].cpu().double() + corrections
        yield _row(f"{what}: corrected", made.packed[:, : sum(WIDTHS)], corrected, BARS[dtype])
        untouched = torch.equal(made.packed[1, : sum(WIDTHS)], before[1, : sum(WIDTHS)])
        yield Row(what=f"{what}: idle stream touched", value=not untouched, unit="count", reach="≤ 0")
        out = torch.randn(3, 50, device=setting.device, dtype=dtype)
        weight, old = torch.randn(50, heads * rank, device=setting.device), out.cpu().double()
        decode.correct(out, got, weight, 2.0)
        yield _row(f"{what}: corrected later", out, old + 2.0 * wanted @ weight.cpu().double().T, BARS[dtype])


def writes(setting: Setting) -> Iterator[Row]:
    """`write` in every mode, and `step`."""
    for heads, rank in ((1, 8), (4, 5), (1, 64))[: 1 if setting.quick else None]:
        for update, own_lambda in MODES[: 2 if setting.quick else None]:
            gates = heads * rank * (2 if own_lambda else 1)
            made = streams(setting, heads, rank, torch.bfloat16, gates=gates)
            bias = torch.randn(gates, device=setting.device)
            wanted = made.written(bias, update, own_lambda)
            options: Any = dict(heads=heads, update=update, own_lambda=own_lambda, rankwise=True, normalize=True)
            decode.write(made.memory, bias, made.pool, made.slots, **options)
            what = f"write H {heads}, r {rank}, {update}{', λ of its own' if own_lambda else ''}"
            yield _pool_row(what, made.pool, wanted, made.slots)
    for rank in (8, 5, 64)[: 1 if setting.quick else None]:
        made = streams(setting, 1, rank, torch.float32, batch=4)
        inputs = [torch.rand(4, rank, device=setting.device) * rank**-0.5 for _ in range(6)]
        pool = made.pool[:, 0].contiguous()
        after = pool.cpu().double()
        wanted = naive.step([x.cpu().double() for x in inputs], after, made.slots.cpu())
        with poisoned():
            got = decode.step(inputs, pool, made.slots)
        yield _row(f"step r {rank}: reads", got, wanted, 1e-6)
        yield _pool_row(f"step r {rank}", pool, after, made.slots)


def graph(setting: Setting) -> Iterator[Row]:
    """A layer's three launches captured and replayed with other numbers, against the same without a graph."""
    made = streams(setting, 1, 8, torch.float32, gates=8)
    bias, weight = torch.randn(8, device=setting.device), torch.randn(WIDTHS[0], 8, device=setting.device)
    o = torch.randn(3, WIDTHS[0], device=setting.device)
    q = made.packed[:, : WIDTHS[0]]
    options: Any = dict(heads=1, normalize=True)

    def layer() -> Tensor:
        found = decode.read_and_correct(made.memory, made.pool, made.slots, [(q, weight)], 1.0, **options)
        decode.correct(o, found, weight, 1.0)
        decode.write(
            made.memory, bias, made.pool, made.slots, update="standard", own_lambda=False, rankwise=True, **options
        )
        return found

    replay = captured(setting, layer)
    given = streams(setting, 1, 8, torch.float32, gates=8)  # other numbers, and other slots
    results = []
    for call in (replay, layer):
        made.packed.copy_(given.packed), made.pool.copy_(given.pool), made.slots.copy_(given.slots)
        o.zero_()
        call()
        results.append([x.clone() for x in (made.packed, made.pool, o)])
    different = sum(not torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(*results, strict=True))
    yield Row(what="a layer in a graph: outputs that differ in any bit", value=different, unit="count", reach="≤ 0")


def _row(what: str, got: Tensor, wanted: Tensor, bar: float) -> Row:
    return Row(what=what, value=relative_error(got.cpu(), wanted), unit="relative", reach=f"≤ {bar:g}")


def _pool_row(what: str, pool: Tensor, wanted: Tensor, slots: Tensor) -> Row:
    """The chosen slots' error; NaN if another slot, all of which are NaN, was written."""
    chosen = slots[slots >= 0].cpu()
    left = torch.ones(pool.shape[0], dtype=torch.bool)
    left[chosen] = False
    before = wanted[left].isnan() == pool.cpu()[left].isnan()
    error = relative_error(pool.cpu()[chosen], wanted[chosen]) if bool(before.all()) else float("nan")
    return Row(what=f"{what}: state", value=error, unit="relative", reach="≤ 1e-06")
