"""The decode kernels: arithmetic (``gpu_decode_cases.py``), what they refuse, and what they compile to for Hopper."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from deltamem_kernels.gpu import decode

triton = pytest.importorskip("triton", reason="Triton is not installed")

CASES = Path(__file__).with_name("gpu_decode_cases.py")


def run_cases(*arguments: str, interpret: str) -> None:
    """Triton decides as a kernel is defined whether it is interpreted, so that these have a process of their own."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(CASES), *arguments]
    environment = os.environ | {"TRITON_INTERPRET": interpret, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, cwd=CASES.parents[2], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


@pytest.mark.slow  # the interpreter takes half a minute
def test_interpreted() -> None:
    run_cases(interpret="1")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu() -> None:
    run_cases(interpret="0")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_captured_in_a_graph() -> None:
    pool, slots = torch.randn(4, 8, 8, device="cuda"), torch.tensor([2, -1], device="cuda")
    projected, bias = torch.randn(2, 32, device="cuda"), torch.zeros(8, device="cuda")
    q, o, weight = (torch.zeros(*shape, device="cuda") for shape in ((2, 70), (2, 70), (70, 8)))
    weight.normal_()
    options: Any = dict(update="standard", own_lambda=False, rankwise=True)

    def layer() -> Tensor:
        reads = decode.read_and_correct(projected, pool, slots, [(q, weight)], 1.0, heads=1, normalize=True)
        decode.correct(o, reads, weight, 1.0)
        decode.write(projected, bias, pool, slots, heads=1, normalize=True, **options)
        return reads

    layer()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = layer()
    states = pool.clone(), q.zero_(), o.zero_()
    graph.replay()
    got = captured.clone(), pool.clone(), q.clone(), o.clone()
    pool.copy_(states[0]), q.zero_(), o.zero_()
    wanted = layer(), pool, q, o
    for a, b in zip(got, wanted, strict=True):
        assert torch.equal(a, b)


def arguments(**changes: Any) -> dict[str, Any]:
    """Of `read_and_correct`: two streams, three slots of rank 8."""
    projected, slots = torch.zeros(2, 32), torch.zeros(2, dtype=torch.int64)
    targets = [(torch.zeros(2, 5), torch.zeros(5, 8))]
    given = dict(projected=projected, pool=torch.zeros(3, 8, 8), slots=slots, targets=targets, scale=1.0)
    return given | dict(heads=1, normalize=True) | changes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(projected=torch.zeros(2, 7)), r"projected has shape \[2, 7\], expected at least 8 columns"),
        (dict(projected=torch.zeros(2, 3, 32)), r"projected has shape \[2, 3, 32\], expected \[B, columns\]"),
        (dict(projected=torch.zeros(32, 2).T), r"projected has strides \[1, 2\]"),
        (dict(projected=torch.zeros(2, 32, dtype=torch.float64)), "projected is torch.float64"),
        (dict(heads=2), r"pool has shape \[3, 8, 8\], expected \[slots, 2, R, R\]"),
        (dict(pool=torch.zeros(3, 8, 7)), r"pool has shape \[3, 8, 7\]"),
        (dict(pool=torch.zeros(3, 65, 65)), "rank 65; these kernels take 1 to 64"),
        (dict(pool=torch.zeros(3, 8, 8).mT), "each slot must be contiguous"),
        (dict(pool=torch.zeros(3, 8, 8).bfloat16()), "pool is torch.bfloat16"),
        (dict(slots=None), r"pool has shape \[3, 8, 8\], expected 2 slots, one a stream"),
        (dict(slots=torch.zeros(3, dtype=torch.int64)), r"slots has shape \[3\], expected \[2\]"),
        (dict(slots=torch.zeros(2, dtype=torch.int32)), "slots is torch.int32"),
        (dict(valid=torch.zeros(2, 1, dtype=torch.bool)), r"valid has shape \[2, 1\], expected \[2\]"),
        (dict(targets=[(torch.zeros(2, 5), torch.zeros(5, 9))]), r"\[2, 5\] and a weight of shape \[5, 9\]"),
        (dict(targets=[(torch.zeros(3, 5), torch.zeros(5, 8))]), r"output of shape \[3, 5\]"),
        (dict(targets=[(torch.zeros(2, 5), torch.zeros(8, 5).T)]), "the weight of target 0 has strides"),
        (dict(targets=[(torch.zeros(2, 5), torch.zeros(5, 8))] * 4), "4 targets are given, at most 3"),
        (dict(scale=torch.ones(2)), r"scale has shape \[2\], expected one element, or 1"),
        (dict(scale=torch.ones(1).double()), "scale is torch.float64"),
    ],
)
def test_refuses_what_does_not_fit(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        decode.read_and_correct(**arguments(**changes))


def test_refuses_gates_that_do_not_fit() -> None:
    projected, bias, pool, slots = torch.zeros(2, 32), torch.zeros(8), torch.zeros(3, 8, 8), torch.tensor([0, 1])
    options: Any = dict(heads=1, update="standard", own_lambda=False, rankwise=True, normalize=True)
    for changes, message in (
        (dict(own_lambda=True), r"projected has shape \[2, 32\], expected at least 40 columns"),
        (dict(rankwise=False), r"gate_bias has shape \[8\], expected \[1\]"),
        (dict(update="both"), "update 'both' is unknown; choose one of standard, lambda_outside, no_lambda"),
        (dict(update="no_lambda", own_lambda=True), "which has no λ"),
    ):
        with pytest.raises(ValueError, match=message):
            decode.write(projected, bias, pool, slots, **(options | changes))


def test_says_why_it_cannot_run() -> None:
    assert decode.unavailable("cpu") == "they run on CUDA devices, the tensors are on cpu"
    with pytest.raises(RuntimeError, match="the decode kernels cannot run: they run on CUDA devices"):
        decode.read_and_correct(**arguments())


class Launches:
    """Stands in for the module of kernels, and keeps what the host would have launched."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []

    def __getattr__(self, kernel: str) -> Any:
        calls = self.calls

        class Kernel:
            def __getitem__(self, grid: tuple[int, ...]) -> Any:
                return lambda *args, **kwargs: calls.append((kernel, args, kwargs))

        return Kernel()


def qwen3_4b(rank: int, heads: int) -> None:
    """Every launch of a layer of Qwen3-4B: bf16, hidden 2560, q 4096, k and v 1024, o 2560."""
    width, batch = heads * rank, 4
    packed = torch.empty(batch, 4096 + 1024 + 1024 + 4 * width, dtype=torch.bfloat16)
    q, k, v, memory = packed.split([4096, 1024, 1024, 4 * width], dim=1)
    pool, slots = torch.empty(16, heads, rank, rank), torch.zeros(batch, dtype=torch.int64)
    targets = [(out, torch.empty(out.shape[1], width)) for out in (q, k, v)]
    out, weight, bias = torch.empty(batch, 2560).bfloat16(), torch.empty(2560, width), torch.empty(width)
    options: Any = dict(heads=heads, update="standard", own_lambda=False, rankwise=True, normalize=True)
    decode.read_and_correct(memory, pool, slots, targets[:1], 2.0, heads=heads, normalize=True)
    reads = decode.read_and_correct(memory, pool, slots, targets, 2.0, heads=heads, normalize=True)
    decode.correct(out, reads, weight, 2.0)
    decode.write(memory, bias, pool, slots, **options)
    if heads == 1:
        decode.step([torch.empty(batch, rank)] * 6, pool[:, 0], slots)


def compile_for_hopper(kernel: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
    """The sm_90 binary of a launch, its arguments specialised as Triton's launcher does it."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from deltamem_kernels.gpu import decode_kernels

    pointers = {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.int64: "*i64", torch.bool: "*i1"}
    function = getattr(decode_kernels, kernel)
    options = {name: kwargs.pop(name) for name in ("num_warps", "enable_fp_fusion")}
    signature, constants, hints = {}, {}, {}
    for index, name in enumerate(function.arg_names):
        value = args[index] if index < len(args) else kwargs[name]
        number = value.data_ptr() if isinstance(value, Tensor) else value
        if index >= len(args) or value is None or (isinstance(value, int) and value == 1):
            signature[name], constants[(index,)] = "constexpr", value
            continue
        kind = pointers[value.dtype] if isinstance(value, Tensor) else "fp32" if isinstance(value, float) else "i32"
        signature[name] = kind
        if kind != "fp32" and number % 16 == 0:
            hints[(index,)] = [["tt.divisibility", 16]]
    source = ASTSource(function, signature, constants, hints)
    binary: bytes = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options).asm["cubin"]
    return binary


def check_compiled(rank: int, heads: int, kernels: set[str] | None, folder: Path, patch: pytest.MonkeyPatch) -> None:
    launches = Launches()
    patch.setattr(decode, "_kernels", lambda device: launches)
    patch.setenv("TRITON_CACHE_DIR", str(folder / "cache"))
    qwen3_4b(rank, heads)
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    for kernel, args, kwargs in launches.calls:
        if kernels is None or kernel in kernels:
            binary = folder / "kernel.cubin"
            binary.write_bytes(compile_for_hopper(kernel, args, kwargs))
            usage = subprocess.run([tool, "-res-usage", binary], capture_output=True, text=True, check=True).stdout
            found = re.search(r"REG:(\d+) STACK:(\d+) .*LOCAL:(\d+)", usage)
            assert found, usage
            registers, stack, local = map(int, found.groups())
            assert (stack, local) == (0, 0), f"{kernel} spills: {usage}"
            assert registers <= 128, f"{kernel} takes {registers} registers"


def test_compiles_for_hopper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_compiled(8, 1, {"correct", "write"}, tmp_path, monkeypatch)


@pytest.mark.slow  # compiles some 16 kernels
@pytest.mark.parametrize(("rank", "heads"), [(8, 1), (64, 1), (8, 4)])
def test_all_of_qwen3_4b_compiles_for_hopper(
    rank: int, heads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_compiled(rank, heads, None, tmp_path, monkeypatch)
