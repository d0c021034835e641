"""Scans under ``torch.compile``: no graph break, no retrace for each length, and the results of an eager call."""

from __future__ import annotations

import shutil

import pytest
import torch

from deltamem_kernels import delta_scan


def function(q, k, v, keep, erase, write, state, mask, backend):
    """A scan between other operations, as in a model."""
    reads, state = delta_scan(q * 2, k, v, keep, erase, write, state, mask, backend=backend)
    return reads + 1, state


def results(call, scan, backend):
    arguments = [x.requires_grad_() for x in scan.float()]
    reads, state = call(*arguments, scan.mask, backend)
    loss = reads.sin().sum() + state.sin().sum()
    return reads, state, *torch.autograd.grad(loss, arguments, materialize_grads=True)


@pytest.fixture
def compile():
    """``torch.compile`` with nothing left over from other tests."""
    torch.compiler.reset()
    yield lambda call, backend="aot_eager", **options: torch.compile(call, fullgraph=True, backend=backend, **options)
    torch.compiler.reset()


@pytest.mark.parametrize("backend", ["auto", "chunked", "naive"])
@pytest.mark.parametrize("masked", [False, True])
def test_equals_eager(make_scan, compile, backend, masked):
    scan = make_scan(2, 4, 3, masked=masked)

    got = results(compile(function), scan, backend)

    assert all(torch.equal(a, b) for a, b in zip(got, results(function, scan, backend), strict=True))


def test_float64_is_traced(make_scan, compile):
    scan = make_scan(1, 3, 4)

    reads, _ = compile(function)(*scan.inputs, scan.state, None, "auto")

    assert torch.equal(reads, function(*scan.inputs, scan.state, None, "auto")[0])


@pytest.mark.parametrize("backend", ["auto", "chunked"])
def test_lengths_share_a_graph(make_scan, compile, backend):
    compiled = compile(function, dynamic=True)
    results(compiled, make_scan(2, 9, 8, masked=True), backend)

    with torch.compiler.set_stance("fail_on_recompile"):
        for n, tokens in ((2, 30), (3, 17), (5, 64)):
            scan = make_scan(n, tokens, 8, masked=True)
            got = results(compiled, scan, backend)
            assert all(torch.equal(a, b) for a, b in zip(got, results(function, scan, backend), strict=True))


@pytest.mark.parametrize("tokens", [0, 1])
def test_short_lengths(make_scan, compile, tokens):
    scan = make_scan(2, tokens, 8)

    got = results(compile(function), scan, "auto")

    assert all(torch.equal(a, b) for a, b in zip(got, results(function, scan, "auto"), strict=True))


def test_inference_mode(make_scan, compile):
    scan = make_scan(2, 9, 8, masked=True)

    with torch.inference_mode():
        reads, state = compile(function)(*scan.float(), scan.mask, "auto")

    expected_reads, expected_state = function(*scan.float(), scan.mask, "auto")
    assert torch.equal(reads, expected_reads)
    assert torch.equal(state, expected_state)


def test_half_precision(make_scan, compile):
    scan = make_scan(2, 9, 8)
    inputs = [x.bfloat16().requires_grad_() for x in scan.inputs]

    reads, _ = compile(function)(*inputs, scan.state.float(), None, "auto")

    expected, _ = function(*inputs, scan.state.float(), None, "auto")
    assert reads.dtype == torch.bfloat16
    assert torch.equal(reads, expected)
    for a, b in zip(*(torch.autograd.grad(x.sum(), inputs, allow_unused=True) for x in (reads, expected)), strict=True):
        assert (a is None or not a.any()) if b is None else torch.equal(a, b)


def test_a_backend_that_cannot_run_says_so(compile):
    inputs = [torch.zeros(1, 2, 65) for _ in range(6)]

    with pytest.raises(RuntimeError, match="backend 'compiled' cannot run"):
        compile(function)(*inputs, torch.zeros(1, 65, 65), None, "compiled")


@pytest.mark.slow  # a C++ compiler at work
@pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler 'c++' here")
def test_inductor(make_scan, compile):
    scan = make_scan(2, 9, 3, masked=True)

    got = results(compile(function, "inductor"), scan, "auto")

    for a, b in zip(got, results(function, scan, "auto"), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
