"""The chunked scan against the float64 oracle, forward and backward, with the chunks of a CPU and of other devices."""

from __future__ import annotations

import time

import pytest
import torch

from deltamem_kernels import chunked, delta_scan, naive

NAMES = ("q", "k", "v", "keep", "erase", "write", "state")
RANKS = [1, 2, 3, 7, 8, 16, 20, 64, 65, 128]


@pytest.fixture(params=["cpu", "device"])
def budget(request, monkeypatch):
    """Lay tokens out as on a CPU, or in the longer chunks of other devices; blocks small enough that there are many."""
    if request.param == "device":
        monkeypatch.setattr(chunked, "_chunk_tokens", lambda q: min(32, q.shape[1]))
    monkeypatch.setattr(chunked, "_CPU_FLOATS", 1 << 14)


@pytest.mark.usefixtures("budget", "poisoned")
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("rank", RANKS)
def test_forward(make_scan, error, rank, masked):
    for n, tokens in ((3, 1), (2, 7), (1, 65), (5, 131)):
        scan = make_scan(n, tokens, rank, masked=masked, seed=tokens)
        *inputs, state = scan.float()

        reads, new_state = chunked.scan(inputs, state, scan.mask)

        expected_reads, expected_state = scan.oracle()
        assert (reads.dtype, new_state.dtype) == (torch.float32, torch.float32)
        assert error(reads, expected_reads) < 1e-6
        assert error(new_state, expected_state) < 1e-6
        assert torch.equal(state, scan.state.float()), "the input state was changed"


@pytest.mark.usefixtures("budget", "poisoned")
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("rank", RANKS)
def test_backward(make_scan, error, rank, masked, gradients):
    torch.manual_seed(0)
    for n, tokens in ((2, 1), (4, 33), (4, 75)):  # of one number alone, cancellation may leave fewer digits
        scan = make_scan(n, tokens, rank, masked=masked, seed=tokens)
        weights = torch.randn(n, tokens, rank), torch.randn(n, rank, rank)

        got = gradients(lambda *x, scan=scan: chunked.scan(x[:6], x[6], scan.mask), scan.float(), *weights)

        oracle = gradients(
            lambda *x, scan=scan: naive.scan(x[:6], x[6], scan.mask), (*scan.inputs, scan.state), *weights
        )
        for name, a, b in zip(NAMES, got, oracle, strict=True):
            assert error(a, b) < 2e-6, name


def test_gradients_by_finite_differences(make_scan):
    scan = make_scan(1, 19, 2, masked=True)
    arguments = [x.requires_grad_() for x in (*scan.inputs, scan.state)]

    assert torch.autograd.gradcheck(lambda *x: delta_scan(*x, scan.mask, backend="chunked"), arguments)


@pytest.mark.parametrize("case", ["keep is zero now and then", "keep is zero", "keep is small", "keep is one"])
def test_decays(make_scan, error, case, gradients):
    """Quotients of decays would be NaN here, and differences of logarithms inexact."""
    scan = make_scan(2, 133, 8)
    keep = scan.inputs[3]
    scan.inputs[3] = {
        "keep is zero now and then": torch.where(keep < 0.7, 0.0, keep),
        "keep is zero": torch.zeros_like(keep),
        "keep is small": keep * 1e-12,
        "keep is one": torch.ones_like(keep),
    }[case]
    weights = torch.randn(2, 133, 8), torch.randn(2, 8, 8)

    reads, state = delta_scan(*scan.float(), backend="chunked")
    got = gradients(lambda *x: delta_scan(*x, backend="chunked"), scan.float(), *weights)

    expected_reads, expected_state = scan.oracle()
    oracle = gradients(lambda *x: delta_scan(*x, backend="naive"), (*scan.inputs, scan.state), *weights)
    assert error(reads, expected_reads) < 1e-6
    assert error(state, expected_state) < 1e-6
    for name, a, b in zip(NAMES, got, oracle, strict=True):
        assert error(a, b) < 2e-6, name


@pytest.mark.usefixtures("budget")
def test_the_same_key_over_and_over(make_scan, error):
    """The hardest systems: every entry below the diagonal is 1."""
    scan = make_scan(2, 100, 8)
    scan.inputs[1] = scan.inputs[1][:, :1].expand(2, 100, 8)
    scan.inputs[3] = scan.inputs[4] = torch.ones(2, 100, 8, dtype=torch.float64)

    reads, state = delta_scan(*scan.float(), backend="chunked")

    expected_reads, expected_state = scan.oracle()
    assert error(reads, expected_reads) < 1e-6
    assert error(state, expected_state) < 1e-6


@pytest.mark.parametrize("backend", ["chunked", "naive"])
def test_autocast_rounds_nothing(make_scan, backend):
    scan = make_scan(2, 40, 8)
    arguments = [x.requires_grad_() for x in scan.float()]
    expected = [*delta_scan(*arguments, backend=backend)]
    expected += torch.autograd.grad(expected[0].sum(), arguments)

    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = [*delta_scan(*arguments, backend=backend)]
        if backend == "chunked":  # autograd's own formulas follow the autocast that they run in
            got += torch.autograd.grad(got[0].sum(), arguments)

    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=False))


def test_saved_for_backward_is_inputs_and_a_state_a_chunk(make_scan):
    scan = make_scan(1, 4096, 8)
    arguments = [x.requires_grad_() for x in scan.float()]
    saved = []

    def note(x):
        saved.append(x)
        return x

    with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        delta_scan(*arguments, backend="chunked")

    assert sum(x.numel() * x.element_size() for x in saved) <= 1_000_000


@pytest.mark.slow  # 4,096 tokens of the loop
def test_is_many_times_faster_than_the_loop_over_tokens(make_scan, error):
    scan = make_scan(1, 4096, 8)
    *inputs, state = scan.float()
    times = {naive.scan: [], chunked.scan: []}
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)  # two would wait for one another where other processes keep the cores busy
        with torch.inference_mode():
            assert error(chunked.scan(inputs, state, None)[0], scan.oracle()[0]) < 1e-6
            for _ in range(3):
                for form, measured in times.items():
                    started = time.perf_counter()
                    form(inputs, state, None)
                    measured.append(time.perf_counter() - started)
    finally:
        torch.set_num_threads(threads)

    ratio = min(times[naive.scan]) / min(times[chunked.scan])
    assert ratio > 5, f"{ratio:.1f} times; 20 on a machine that does nothing else"
