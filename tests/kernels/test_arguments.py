"""What the two calls refuse, and the empty cases they take."""

from __future__ import annotations

import pytest
import torch

from deltamem_kernels import delta_scan, delta_step, explain_backend
from deltamem_kernels.cpu import compiled

NAMES = ["q", "k", "v", "keep", "erase", "write"]
BACKENDS = ["auto", "naive"] + (["compiled"] if compiled.unavailable() is None else [])


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


def test_float64_takes_the_oracle(make_scan):
    scan = make_scan(1, 3, 4)

    reads, state = delta_scan(*scan.inputs, scan.state)

    assert (reads.dtype, state.dtype) == (torch.float64, torch.float64)


def test_ranks_above_the_compiled_scans_take_the_oracle(make_scan, error):
    scan = make_scan(1, 3, 65)

    assert error(delta_scan(*scan.float())[0], scan.oracle()[0]) < 1e-6


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
        ({"backend": "cuda"}, r"backend 'cuda' is unknown; choose one of auto, naive, compiled"),
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


@pytest.mark.usefixtures("need_compiled")
@pytest.mark.parametrize(
    ("options", "rank", "reason"),
    [
        ({"dtype": torch.float64}, 8, "it computes in float32, the tensors are float64"),
        ({"device": "meta"}, 8, "it runs on the CPU, the tensors are on meta"),
        ({}, 65, "it takes ranks up to 64, the tensors have 65"),
    ],
)
def test_backend_by_name_says_why_it_cannot_run(options, rank, reason):
    inputs = [torch.zeros(1, 2, rank, **options) for _ in NAMES]

    with pytest.raises(RuntimeError, match=f"backend 'compiled' cannot run: {reason}"):
        delta_scan(*inputs, torch.zeros(1, rank, rank, **options), backend="compiled")


def test_without_the_library(make_scan, monkeypatch, tmp_path, error):
    scan = make_scan(1, 5, 4)
    monkeypatch.setattr(compiled, "LIBRARY", tmp_path / "_scan.so")
    compiled._library.cache_clear()
    try:
        assert "no C compiler" in explain_backend()
        assert error(delta_scan(*scan.float())[0], scan.oracle()[0]) < 1e-6
        with pytest.raises(RuntimeError, match="no C compiler"):
            delta_scan(*scan.float(), backend="compiled")
        (tmp_path / "_scan.so").write_bytes(b"not a library")
        compiled._library.cache_clear()
        assert "cannot be loaded" in explain_backend()
    finally:
        compiled._library.cache_clear()
