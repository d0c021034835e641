"""One token a row, read and corrected: the compiled form and the PyTorch one against float64."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from deltamem_kernels import decode
from deltamem_kernels.cpu import compiled

FORMS = ["torch"] + (["compiled"] if compiled.unavailable() is None else [])


@pytest.fixture(params=FORMS)
def form(request, monkeypatch):
    monkeypatch.setattr(decode, "_compiled", lambda: request.param == "compiled")
    return request.param


def drawn(batch, heads, rank, out, dtype):
    generator = torch.Generator().manual_seed(rank)
    projected = torch.randn(batch, out + heads * rank, generator=generator).to(dtype)
    state = torch.randn(batch, *([heads] if heads > 1 else []), rank, rank, generator=generator)
    weight = torch.randn(out, heads * rank, generator=generator)
    return projected, state, weight


def expected(projected, state, weight, output, heads, normalize, valid):
    batch, rank = projected.shape[0], state.shape[-1]
    queries = projected.double().view(batch, heads, rank)
    if normalize:
        queries = F.normalize(queries.tanh(), dim=-1, eps=1e-6)
    reads = torch.einsum("bhij,bhj->bhi", state.double().view(batch, heads, rank, rank), queries)
    reads = reads.flatten(1) * (1 if valid is None else valid.unsqueeze(-1))
    return reads, output.double() + reads @ weight.double().T


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize("rank", [1, 7, 8, 20, 64])
def test_read_and_correct(rank, heads, dtype, form, error):
    for batch, out, normalize in ((1, 5, True), (4, 300, False), (3, 513, True)):
        product, state, weight = drawn(batch, heads, rank, out, dtype)
        projected, output = product[:, out:], product[:, :out]  # views of one packed product
        valid = torch.arange(batch) % 3 != 1 if batch > 1 else None
        wanted_reads, wanted = expected(projected, state, weight, output, heads, normalize, valid)

        layout = decode.ProductLayout(
            heads=heads,
            rank=rank,
            normalize=normalize,
            queries=out,
            corrections={(0, out): decode.Correction(weight, dtype)},
            output_addend=decode.Correction(-weight, dtype),
            dtype=dtype,
        )
        rows = None if valid is None else valid.unsqueeze(1)
        reads, output_addend = layout.read_and_correct(product.unsqueeze(1), state, rows)
        reads = reads.squeeze(1)

        if output_addend is not None:  # for an output that is yet to come
            assert form == "compiled" and output_addend.dtype == dtype
            assert error(output_addend, -(wanted_reads @ weight.double().T)) < (
                1e-6 if dtype == torch.float32 else 1e-2
            )
        assert reads.dtype == torch.float32
        assert error(reads, wanted_reads) < 1e-6
        assert error(output, wanted) < {torch.float32: 1e-6, torch.bfloat16: 1e-2, torch.float16: 1e-3}[dtype]
        if valid is not None:
            assert not reads[~valid].any()


def test_strided_reads_are_corrected_as_they_are(form, error):
    reads, weight = torch.randn(3, 16)[:, ::2], torch.randn(11, 8)
    output = torch.zeros(3, 11)
    decode.Correction(weight, torch.float32).add(output.unsqueeze(1), reads.unsqueeze(1))
    assert error(output, reads.double() @ weight.double().T) < 1e-6


@pytest.mark.usefixtures("need_compiled")
@pytest.mark.parametrize("bits", [0x3F800000, 0x3F808000, 0x3F818000, 0x7F7FFFFF, 0x7FC00000, 0xBF808001, 0x00000001])
def test_rounding_to_bfloat16_is_torchs(bits):
    """One, ties to even both ways, to infinity, NaN, just above a tie, a subnormal."""
    value = torch.tensor([[bits if bits < 1 << 31 else bits - (1 << 32)]], dtype=torch.int32).view(torch.float32)
    output = torch.full((1, 1), -0.0, dtype=torch.bfloat16)
    decode.Correction(torch.ones(1, 1), torch.bfloat16).add(output.unsqueeze(0), value.unsqueeze(0))
    torch.testing.assert_close(output, value.bfloat16(), rtol=0, atol=0, equal_nan=True)
