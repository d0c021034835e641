"""What the calls refuse, the empty cases they take, and which backend is chosen."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from deltamem_kernels import backends, chunked, delta_scan, delta_step, explain_backend, naive
from deltamem_kernels.cpu import compiled

NAMES = ["q", "k", "v", "keep", "erase", "write"]
COMPILED = pytest.mark.skipif(compiled.unavailable() is not None, reason=f"compiled scan: {compiled.unavailable()}")
BACKENDS = ["auto", "naive", "chunked"] + (["compiled"] if compiled.unavailable() is None else [])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("n", "tokens"), [(2, 0), (0, 3), (0, 0)])
def test_nothing_to_do(backend, n, tokens):
    inputs = [torch.randn(n, tokens, 8).requires_grad_() for _ in NAMES]
    state = torch.randn(n, 8, 8).requires_grad_()

    reads, new_state = delta_scan(*inputs, state, torch.ones(n, tokens, dtype=torch.bool), backend=backend)
    new_state.sum().backward()

    assert reads.shape == (n, tokens, 8)
    assert torch.equal(new_state, state)
    assert new_state.data_ptr() != state.data_ptr() or n == 0
    assert torch.equal(state.grad, torch.ones(n, 8, 8))


@pytest.fixture
def ran(monkeypatch):
    """Names of the forms that have run, in order."""
    names = []
    for name, form in (("naive", naive), ("chunked", chunked), ("compiled", compiled)):
        monkeypatch.setattr(form, "scan", lambda *x, name=name, scan=form.scan: names.append(name) or scan(*x))
    return names


@pytest.fixture
def no_library(monkeypatch, tmp_path):
    """An installation whose compiled library was not built; its path."""
    monkeypatch.setattr(compiled, "LIBRARY", tmp_path / "_scan.so")
    compiled._library.cache_clear()
    yield tmp_path / "_scan.so"
    compiled._library.cache_clear()


@pytest.fixture
def triton(monkeypatch):
    """A stand-in for the Triton scan that takes CPU tensors, as in Triton's interpreter; its `unavailable` is set."""
    module = SimpleNamespace(MAX_RANK=64, unavailable=lambda device: None, scan=naive.scan)
    monkeypatch.setattr(backends, "_triton_scan", lambda: module)
    return module


@pytest.mark.parametrize(
    ("dtype", "rank", "form"),
    [
        (torch.float64, 8, "naive"),
        (torch.float32, 65, "chunked"),
        pytest.param(torch.float32, 64, "compiled", marks=COMPILED),
        pytest.param(torch.bfloat16, 8, "compiled", marks=COMPILED),
    ],
)
def test_auto(make_scan, error, ran, dtype, rank, form):
    scan = make_scan(1, 5, rank)
    state = scan.state if dtype == torch.float64 else scan.state.float()

    reads, new_state = delta_scan(*(x.to(dtype) for x in scan.inputs), state)

    assert ran[-1] == form
    assert (reads.dtype, new_state.dtype) == (dtype, state.dtype)
    assert error(new_state, scan.oracle()[1]) < (1e-6 if dtype != torch.bfloat16 else 2e-2)


@pytest.mark.usefixtures("triton")
def test_auto_never_takes_triton_on_a_cpu(make_scan, ran):
    delta_scan(*make_scan(1, 5, 65).float())

    assert ran == ["chunked"]


def test_auto_takes_triton_where_it_can_run(triton):
    on_cuda = SimpleNamespace(dtype=torch.float32, device=torch.device("cuda"), shape=(1, 5, 64))
    assert backends.choose("auto", on_cuda) == "triton"
    on_cuda.shape = (1, 5, 65)
    assert backends.choose("auto", on_cuda) == "chunked"
    triton.unavailable = lambda device: "no CUDA device"
    on_cuda.shape = (1, 5, 8)
    assert backends.choose("auto", on_cuda) == "chunked"


def test_other_devices_take_chunks(ran):
    inputs = [torch.zeros(1, 5, 8, device="meta") for _ in NAMES]

    reads, state = delta_scan(*inputs, torch.zeros(1, 8, 8, device="meta"))

    assert ran == ["chunked"]
    assert (reads.shape, state.shape) == ((1, 5, 8), (1, 8, 8))
    assert explain_backend("mps").startswith("chunked: ") and "no kernel for mps tensors" in explain_backend("mps")


@pytest.mark.parametrize("name", NAMES[1:])
def test_shapes_are_named(name):
    arguments = {x: torch.zeros(2, 5, 4) for x in NAMES} | {"state": torch.zeros(2, 4, 4)}
    arguments[name] = torch.zeros(2, 6, 4)

    with pytest.raises(ValueError, match=rf"{name} has shape \[2, 6, 4\], q has \[2, 5, 4\]"):
        delta_scan(**arguments)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"q": torch.zeros(5, 4)}, r"q has shape \[5, 4\], expected \[N, T, R\]"),
        ({"state": torch.zeros(2, 4, 5)}, r"state has shape \[2, 4, 5\], expected \[2, 4, 4\]"),
        ({"mask": torch.ones(2, 4, dtype=torch.bool)}, r"mask has shape \[2, 4\], expected \[2, 5\]"),
        ({"mask": torch.ones(2, 5)}, r"mask is torch.float32, expected torch.bool"),
        ({"k": torch.zeros(2, 5, 4, dtype=torch.int64)}, r"k is torch.int64, q is torch.float32"),
        ({"k": torch.zeros(2, 5, 4, dtype=torch.float64)}, r"k is torch.float64, q is torch.float32"),
        ({"state": torch.zeros(2, 4, 4, dtype=torch.bfloat16)}, r"state is torch.bfloat16, expected torch.float32"),
        ({"v": torch.zeros(2, 5, 4, device="meta")}, r"v is on meta, q on cpu"),
        ({"state": torch.zeros(2, 4, 4, device="meta")}, r"state is on meta, q on cpu"),
        ({"backend": "cuda"}, r"backend 'cuda' is unknown; choose one of auto, naive, chunked, compiled, triton"),
    ],
)
def test_scan_refuses(change, message):
    arguments = {x: torch.zeros(2, 5, 4) for x in NAMES} | {"state": torch.zeros(2, 4, 4)}

    with pytest.raises(ValueError, match=message):
        delta_scan(**(arguments | change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"q": torch.zeros(2, 1, 4)}, r"q has shape \[2, 1, 4\], expected \[N, R\]"),
        ({"write": torch.zeros(2, 5)}, r"write has shape \[2, 5\], q has \[2, 4\]"),
        ({"pool": torch.zeros(9, 4, 5)}, r"pool has shape \[9, 4, 5\], expected \[9, 4, 4\]"),
        ({"pool": torch.zeros(9, 4, 4, dtype=torch.float16)}, r"pool is torch.float16, expected torch.float32"),
        ({"slots": torch.zeros(3, dtype=torch.int64)}, r"slots has shape \[3\], expected \[2\]"),
        ({"slots": torch.zeros(2, dtype=torch.int32)}, r"slots is torch.int32, expected torch.int64"),
    ],
)
def test_step_refuses(change, message):
    arguments = {x: torch.zeros(2, 4) for x in NAMES}
    arguments |= {"pool": torch.zeros(9, 4, 4), "slots": torch.tensor([0, 1])}

    with pytest.raises(ValueError, match=message):
        delta_step(**(arguments | change))


@pytest.mark.parametrize(
    ("options", "rank", "reason"),
    [
        ({"dtype": torch.float64}, 8, "it computes in float32, the tensors are float64; use 'naive', 'chunked' or"),
        ({"device": "meta"}, 8, "it runs on the CPU, the tensors are on meta"),
        ({}, 65, "it takes ranks up to 64, the tensors have 65; use 'chunked' or 'auto'"),
    ],
)
@pytest.mark.usefixtures("need_compiled")
def test_compiled_by_name_says_why_it_cannot_run(options, rank, reason):
    inputs = [torch.zeros(1, 2, rank, **options) for _ in NAMES]

    with pytest.raises(RuntimeError, match=f"backend 'compiled' cannot run: {reason}"):
        delta_scan(*inputs, torch.zeros(1, rank, rank, **options), backend="compiled")


def test_triton_by_name_says_why_it_cannot_run(make_scan, triton):
    arguments = make_scan(1, 5, 8).float()
    assert torch.equal(delta_scan(*arguments, backend="triton")[0], delta_scan(*arguments, backend="naive")[0])
    with pytest.raises(RuntimeError, match="backend 'triton' cannot run: it computes in float32"):
        delta_scan(*make_scan(1, 5, 8).inputs, arguments[6].double(), backend="triton")
    with pytest.raises(RuntimeError, match="backend 'triton' cannot run: it takes ranks up to 64"):
        delta_scan(*make_scan(1, 5, 65).float(), backend="triton")
    triton.unavailable = lambda device: f"no kernels for {device}"
    with pytest.raises(RuntimeError, match="backend 'triton' cannot run: no kernels for cpu"):
        delta_scan(*arguments, backend="triton")


def test_without_triton(make_scan, monkeypatch):
    for module in ("triton", "deltamem_kernels.gpu.scan", "deltamem_kernels.gpu.scan_kernels"):
        monkeypatch.setitem(sys.modules, module, None)
    backends._triton_scan.cache_clear()
    try:
        assert explain_backend("cuda").startswith("chunked: ") and "install triton" in explain_backend("cuda")
        with pytest.raises(RuntimeError, match="backend 'triton' cannot run: Triton cannot be imported"):
            delta_scan(*make_scan(1, 5, 8).float(), backend="triton")
    finally:
        backends._triton_scan.cache_clear()


def test_without_the_library(make_scan, no_library, error, ran):
    scan = make_scan(1, 5, 4)

    assert explain_backend().startswith("chunked: ") and "no C compiler" in explain_backend()
    assert error(delta_scan(*scan.float())[0], scan.oracle()[0]) < 1e-6
    assert ran == ["chunked", "naive"]
    with pytest.raises(RuntimeError, match=r"backend 'compiled' cannot run: .*no C compiler"):
        delta_scan(*scan.float(), backend="compiled")
    no_library.write_bytes(b"not a library")
    compiled._library.cache_clear()
    assert "cannot be loaded" in explain_backend()


def test_import_brings_in_torch_alone():
    code = (
        "import sys, torch\n"
        "before = set(sys.modules)\n"
        "import deltamem_kernels\n"
        "print([x for x in set(sys.modules) - before if not x.startswith('deltamem_kernels')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
