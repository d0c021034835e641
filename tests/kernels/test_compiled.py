"""The compiled scan against the float64 oracle, forward and backward, under every instruction set this machine has."""

from __future__ import annotations

import threading

import pytest
import torch

from deltamem_kernels import delta_scan, explain_backend
from deltamem_kernels.cpu import compiled

pytestmark = pytest.mark.usefixtures("need_compiled")

TARGETS = compiled.targets()
RANKS = [1, 2, 3, 7, 8, 16, 20, 32, 48, 64]


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("rank", RANKS)
def test_forward(make_scan, error, rank, masked, target):
    for tokens in (1, 7, 64, 65, 131):
        scan = make_scan(3, tokens, rank, masked=masked, seed=tokens)
        *inputs, state = scan.float()

        reads, new_state = compiled.scan(inputs, state, scan.mask, target)

        expected_reads, expected_state = scan.oracle()
        assert error(reads, expected_reads) < 1e-6
        assert error(new_state, expected_state) < 1e-6
        assert torch.equal(state, scan.state.float()), "the input state was changed"


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("rank", RANKS)
def test_backward(make_scan, error, rank, masked, target, gradients):
    torch.manual_seed(0)
    for tokens in (1, 64, 131):
        scan = make_scan(4, tokens, rank, masked=masked, seed=tokens)
        weights = torch.randn(4, tokens, rank), torch.randn(4, rank, rank)

        got = gradients(lambda *x, scan=scan: compiled.scan(x[:6], x[6], scan.mask, target), scan.float(), *weights)

        oracle = gradients(
            lambda *x, scan=scan: delta_scan(*x, scan.mask, backend="naive"), (*scan.inputs, scan.state), *weights
        )
        for name, a, b in zip(("q", "k", "v", "keep", "erase", "write", "state"), got, oracle, strict=True):
            assert error(a, b) < 2e-6, name


def test_threads_change_nothing(make_scan):
    scan = make_scan(16, 300, 32, masked=True)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            arguments = [x.requires_grad_() for x in scan.float()]
            reads, state = delta_scan(*arguments, scan.mask, backend="compiled")
            results.append((reads, state, *torch.autograd.grad(reads.sum() + state.sum(), arguments)))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_called_from_several_threads(make_scan):
    scans = [make_scan(2, 100, 8, seed=seed) for seed in range(4)]
    expected = [delta_scan(*scan.float(), backend="compiled")[0] for scan in scans]
    got = [None] * 4

    def run(index):
        for _ in range(20):
            got[index] = delta_scan(*scans[index].float(), backend="compiled")[0]

    threads = [threading.Thread(target=run, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


def test_saved_for_backward_is_inputs_and_checkpoints(make_scan):
    scan = make_scan(1, 4096, 8)
    arguments = [x.requires_grad_() for x in scan.float()]
    saved = []

    def note(x):
        saved.append(x)
        return x

    with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        delta_scan(*arguments, backend="compiled")

    assert sum(x.numel() * x.element_size() for x in saved) <= 1_000_000


def test_torch_defaults_do_not_matter(make_scan):
    scan = make_scan(1, 5, 8)
    arguments = [x.requires_grad_() for x in scan.float()]
    expected = delta_scan(*arguments, backend="compiled")[0]
    try:
        torch.set_default_dtype(torch.float64)
        with torch.device("meta"):
            reads, _ = delta_scan(*arguments, backend="compiled")
            reads.sum().backward()
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(reads, expected)
    assert all(x.grad.dtype == torch.float32 and x.grad.device.type == "cpu" for x in arguments)


def test_explains_itself():
    assert explain_backend().startswith("compiled: C scan with")
