"""The GPU scan against the float64 oracle. `test_gpu_scan` runs this file: interpreted, or on a GPU."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest
import torch

from deltamem_kernels import delta_scan
from deltamem_kernels.gpu import scan as gpu

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = torch.device("cpu" if INTERPRETED else "cuda")
BENCHMARKS = Path(__file__).parents[2] / "kernels" / "benchmarks"  # a folder of scripts, not a package
# Of a gradient, by its dtype. The interpreter cuts to bfloat16 where a GPU rounds.
TOLERANCE = {torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3 if INTERPRETED else 5e-3}
NAMES = ("q", "k", "v", "keep", "erase", "write", "state")


@pytest.fixture(autouse=True, scope="module")
def quick_interpreter():
    if not INTERPRETED:
        yield
        return
    undo = of_benchmarks("device_cases/interpreter").patch_once()
    yield
    undo()


def of_benchmarks(name):
    """A module of the benchmarks, by its path without the ending."""
    spec = importlib.util.spec_from_file_location(Path(name).name, BENCHMARKS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def to_device(scan, dtype=torch.float32):
    mask = None if scan.mask is None else scan.mask.to(DEVICE)
    return [x.to(DEVICE, dtype) for x in scan.inputs] + [scan.state.to(DEVICE, torch.float32)], mask


def gradients(function, arguments, reads_weight, state_weight):
    """Both outputs, and the gradients of a random weighing of them by every argument."""
    arguments = [x.detach().requires_grad_() for x in arguments]
    reads, state = function(*arguments)
    loss = (reads * reads_weight.to(reads)).sum() + (state * state_weight.to(state)).sum()
    return reads, state, torch.autograd.grad(loss, arguments)


# A quarter of a minute each, and nothing that the interpreter does not see in another case.
ON_A_GPU = pytest.mark.skipif(INTERPRETED, reason="another case shows the interpreter the same")
DTYPES = [
    [torch.float32, torch.bfloat16, torch.float16],
    [torch.bfloat16],
    [torch.float16],
]


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize(
    ("rank", "n", "tokens", "length", "masked"),
    [
        (8, 3, 71, 16, True),  # odd number of chunks, the last one short
        (8, 2, 7, None, False),
        (8, 3, 131, 32, True),
        (8, 3, 131, 144, True),  # one chunk
        (8, 2, 64, 32, False),  # even number of chunks, nothing short
        (8, 1, 1, None, True),
        (1, 2, 65, 16, True),
        (2, 3, 65, 32, False),
        (3, 2, 131, 32, True),
        (7, 2, 65, 16, False),
        (16, 2, 65, 16, True),
        (20, 1, 65, 32, True),
        pytest.param(32, 1, 33, 16, False, marks=ON_A_GPU),
        (32, 1, 39, 32, True),
        (40, 1, 19, 16, True),
        (64, 1, 7, None, True),
        pytest.param(64, 1, 19, 16, True, marks=ON_A_GPU),
    ],
)
def test_forward_and_backward(make_scan, error, rank, n, tokens, length, masked):
    scan = make_scan(n, tokens, rank, masked=masked, seed=tokens)
    arguments, mask = to_device(scan)
    weights = torch.randn(n, tokens, rank), torch.randn(n, rank, rank)

    reads, state, got = gradients(lambda *x: gpu.scan(x[:6], x[6], mask, length), arguments, *weights)

    expected = gradients(lambda *x: delta_scan(*x, scan.mask, backend="naive"), (*scan.inputs, scan.state), *weights)
    assert error(reads.cpu(), expected[0]) < 1e-6
    assert error(state.cpu(), expected[1]) < 1e-6
    for name, a, b in zip(NAMES, got, expected[2], strict=True):
        assert error(a.cpu(), b) < 2e-6, name
    assert torch.equal(arguments[6].cpu(), scan.state.float()), "the input state was changed"


@pytest.mark.parametrize("used", [0, 1], ids=["reads", "state"])
def test_backward_through_one_output(make_scan, error, used):
    scan = make_scan(2, 20, 3)
    arguments = [x.requires_grad_() for x in to_device(scan)[0]]
    oracle = [x.requires_grad_() for x in (*scan.inputs, scan.state)]

    gpu.scan(arguments[:6], arguments[6], None, 16)[used].sum().backward()

    delta_scan(*oracle, backend="naive")[used].sum().backward()
    for a, b in zip(arguments, oracle, strict=True):
        assert error(a.grad.cpu(), torch.zeros_like(b) if b.grad is None else b.grad) < 2e-6


@pytest.mark.parametrize(("rank", "n", "length"), [(4, 2, 16), (4, 2, 32), (32, 1, 16)])
def test_masked_values_reach_nothing(make_scan, rank, n, length):
    scan = make_scan(n, 20, rank, masked=True)
    plain, mask = to_device(scan)
    clean = [x.detach().requires_grad_() for x in plain]
    dirty = [x.masked_fill(~mask[..., None], float("nan")).requires_grad_() for x in plain[:6]]
    dirty.append(plain[6].clone().requires_grad_())
    weight = torch.randn(reads_shape := plain[0].shape, device=DEVICE).masked_fill(~mask[..., None], float("nan"))

    results = []
    for arguments, weighing in ((dirty, weight), (clean, weight.nan_to_num())):
        reads, state = gpu.scan(arguments[:6], arguments[6], mask, length)
        torch.autograd.backward([reads, state], [weighing, torch.ones_like(state)])
        results.append((reads, state, *(x.grad for x in arguments)))

    assert results[0][0].shape == reads_shape
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    assert all(bool((x[~mask] == 0).all()) for x in results[0][:1] + results[0][2:8])


@pytest.mark.parametrize(("rank", "tokens"), [(4, 40), (32, 20)])
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_gates_at_their_limits(make_scan, error, value, rank, tokens):
    scan = make_scan(1, tokens, rank)
    scan.inputs[3][:, ::3] = value
    scan.inputs[4][:, ::2] = value
    arguments, _ = to_device(scan)
    weights = torch.randn(1, tokens, rank), torch.randn(1, rank, rank)

    reads, state, got = gradients(lambda *x: gpu.scan(x[:6], x[6], None, 16), arguments, *weights)

    expected = gradients(lambda *x: delta_scan(*x, backend="naive"), (*scan.inputs, scan.state), *weights)
    assert error(reads.cpu(), expected[0]) < 1e-6
    assert error(state.cpu(), expected[1]) < 1e-6
    for name, a, b in zip(NAMES, got, expected[2], strict=True):
        assert error(a.cpu(), b) < 2e-6, name


def test_any_strides(make_scan):
    scan = make_scan(2, 20, 4, masked=True)
    plain, mask = to_device(scan)
    strided = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in plain[:6]]
    packed = torch.cat([plain[0], plain[1]], dim=-1)
    strided[0], strided[1] = packed[..., :4], packed[..., 4:]
    strided[3] = plain[3][..., :1].expand(2, 20, 4)  # one gate a head
    crossed = torch.stack([mask, ~mask], dim=-1)[..., 0]

    reads, state = gpu.scan(strided, plain[6].mT.contiguous().mT, crossed)

    plain[3] = strided[3].contiguous()
    expected_reads, expected_state = gpu.scan(plain[:6], plain[6], mask)
    assert torch.equal(reads, expected_reads)
    assert torch.equal(state, expected_state)


@pytest.mark.parametrize("dtypes", DTYPES)
def test_half_precision_inputs(make_scan, error, dtypes):
    scan = make_scan(2, 35, 8)
    inputs = [x.to(DEVICE, dtypes[index % len(dtypes)]).requires_grad_() for index, x in enumerate(scan.inputs)]
    state = scan.state.to(DEVICE, torch.float32)

    reads, new_state = gpu.scan(inputs, state, None, 16)
    reads.sum().backward()

    oracle = [x.detach().double().cpu().requires_grad_() for x in inputs]
    expected_reads, expected_state = delta_scan(*oracle, scan.state.float().double(), backend="naive")
    expected_reads.sum().backward()
    assert reads.dtype == new_state.dtype == torch.float32
    assert error(reads.cpu(), expected_reads) < 1e-6
    assert error(reads.to(dtypes[0]).cpu(), expected_reads) < 5e-3
    assert error(new_state.cpu(), expected_state) < 1e-6
    for x, y in zip(inputs, oracle, strict=True):
        assert x.grad.dtype == x.dtype
        assert error(x.grad.cpu(), y.grad) < TOLERANCE[x.dtype]


def test_nothing_to_do():
    for n, tokens in ((0, 5), (3, 0), (0, 0)):
        inputs = [torch.rand(n, tokens, 8, device=DEVICE).requires_grad_() for _ in range(6)]
        state = torch.randn(n, 8, 8, device=DEVICE).requires_grad_()

        reads, new_state = gpu.scan(inputs, state, torch.ones(n, tokens, dtype=torch.bool, device=DEVICE))
        new_state.sum().backward()

        assert reads.shape == (n, tokens, 8)
        assert torch.equal(new_state, state)
        assert torch.equal(state.grad, torch.ones_like(state))


def test_saved_for_backward_is_inputs_and_checkpoints(make_scan):
    arguments = [x.requires_grad_() for x in to_device(make_scan(1, 512, 8))[0]]
    saved = []

    def note(x):
        saved.append(x)
        return x

    with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        gpu.scan(arguments[:6], arguments[6], None)

    assert sum(x.numel() * x.element_size() for x in saved) <= 1_000_000 * 512 // 4096


@pytest.mark.parametrize("rank", [4, 20])
def test_sequential_kernel_of_the_benchmark(make_scan, error, rank):
    sequential = of_benchmarks("sequential")
    scan = make_scan(2, 13, rank)
    arguments, _ = to_device(scan)

    reads, state = sequential.scan(arguments[:6], arguments[6])

    expected_reads, expected_state = scan.oracle()
    assert error(reads.cpu(), expected_reads) < 1e-6
    assert error(state.cpu(), expected_state) < 1e-6
