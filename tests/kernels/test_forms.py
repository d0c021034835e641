"""What every fast form of the scan on a CPU must do alike."""

from __future__ import annotations

import pytest
import torch

from deltamem_kernels import delta_scan


@pytest.fixture(params=["compiled", "chunked"])
def form(request):
    if request.param == "compiled":
        request.getfixturevalue("need_compiled")
    return request.param


@pytest.mark.parametrize("used", ["reads", "state"])
def test_backward_through_one_output(form, make_scan, error, used):
    scan = make_scan(2, 70, 8)
    index = ["reads", "state"].index(used)
    arguments = [x.requires_grad_() for x in scan.float()]
    oracle = [x.requires_grad_() for x in (*scan.inputs, scan.state)]

    delta_scan(*arguments, backend=form)[index].sum().backward()

    delta_scan(*oracle, backend="naive")[index].sum().backward()
    for a, b in zip(arguments, oracle, strict=True):
        assert error(a.grad, torch.zeros_like(b) if b.grad is None else b.grad) < 2e-6


@pytest.mark.parametrize("tokens", [2, 70])
def test_masked_values_reach_nothing(form, make_scan, tokens):
    scan = make_scan(2, tokens, 8, masked=True)
    clean = [x.detach().requires_grad_() for x in scan.float()]
    dirty = [x.masked_fill(~scan.mask[..., None], float("nan")).requires_grad_() for x in scan.float()[:6]]

    reads, state = delta_scan(*dirty, clean[6], scan.mask, backend=form)
    (reads.sum() + state.sum()).backward()

    expected_reads, expected_state = delta_scan(*clean, scan.mask, backend=form)
    (expected_reads.sum() + expected_state.sum()).backward()
    assert torch.equal(reads, expected_reads)
    assert torch.equal(state, expected_state)
    assert bool((reads[~scan.mask] == 0).all())
    for a, b in zip(dirty, clean, strict=False):
        assert torch.equal(a.grad, b.grad)
        assert bool((a.grad[~scan.mask] == 0).all())


def test_any_strides(form, make_scan):
    scan = make_scan(2, 33, 8, masked=True)
    plain = scan.float()
    strided = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in plain[:6]]
    strided[3] = plain[3][..., :1].expand(2, 33, 8)  # one gate a head
    mask = torch.stack([scan.mask, ~scan.mask], dim=-1)[..., 0]

    reads, state = delta_scan(*strided, plain[6].mT.contiguous().mT, mask, backend=form)

    plain[3] = strided[3].contiguous()
    expected_reads, expected_state = delta_scan(*plain, scan.mask, backend=form)
    assert torch.equal(reads, expected_reads)
    assert torch.equal(state, expected_state)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_inputs(form, make_scan, error, dtype):
    scan = make_scan(2, 130, 8)
    inputs = [x.to(dtype).requires_grad_() for x in scan.inputs]

    reads, state = delta_scan(*inputs, scan.state.float(), backend=form)
    reads.sum().backward()

    expected_reads, expected_state = delta_scan(*(x.detach().double() for x in inputs), scan.state)
    assert (reads.dtype, state.dtype) == (dtype, torch.float32)
    assert error(reads, expected_reads) < 5e-3
    assert error(state, expected_state) < 1e-6
    assert all(x.grad.dtype == dtype for x in inputs)
