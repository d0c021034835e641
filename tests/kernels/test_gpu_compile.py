"""Every launch of the GPU scan, compiled ahead of time for Hopper: no register spills, no shared memory at rank 8.

`make test-triton` runs this with other versions of Triton too.
"""

from __future__ import annotations

import importlib
import re
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from deltamem_kernels.gpu import scan

triton = pytest.importorskip("triton", reason="Triton is not installed")

POINTERS = {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.float16: "*fp16", torch.bool: "*i1"}
OPTIONS = ("num_warps", "num_stages", "enable_fp_fusion")
MOST_REGISTERS = 224  # at rank 8; a walk keeps all that eight tokens need
MODULES = {"gradients": "scan_gradients", "grams": "scan_maps", "basis_maps": "scan_maps"}


class Launches:
    """Stands in for the kernels and notes what they are launched with."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
        names = ("walk", "chain", "grams", "basis_maps", "gradients")
        self.kernels = SimpleNamespace(**{name: self.kernel(name) for name in names}, interpreted=False)

    def kernel(self, name: str) -> Any:
        def note(*args: Any, **kwargs: Any) -> None:
            self.calls.append((name, args, kwargs))

        class Kernel:
            def __getitem__(self, grid: tuple[int, ...]) -> Any:
                assert 0 < grid[0] < 2**31
                return note

        return Kernel()


def compile_for_hopper(kernel: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[bytes, int]:
    """The sm_90 binary of a launch, arguments specialised as Triton's launcher does, and its bytes of shared memory."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    module = importlib.import_module(f"deltamem_kernels.gpu.{MODULES.get(kernel, 'scan_kernels')}")
    function = getattr(module, kernel)
    signature, constants, hints = {}, {}, {}
    for index, parameter in enumerate(function.params):
        name, special = parameter.name, not parameter.do_not_specialize
        value = args[index] if index < len(args) else kwargs[name]
        if index >= len(args) or value is None or (special and isinstance(value, int) and value == 1):
            signature[name], constants[(index,)] = "constexpr", value
            continue
        signature[name] = POINTERS[value.dtype] if isinstance(value, Tensor) else "i32"
        if special and (value.data_ptr() if isinstance(value, Tensor) else value) % 16 == 0:
            hints[(index,)] = [["tt.divisibility", 16]]
    source = ASTSource(function, signature, constants, hints)
    options = {name: kwargs[name] for name in OPTIONS if name in kwargs}
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    return compiled.asm["cubin"], compiled.metadata.shared


def check(
    rank: int, tokens: int, length: int, dtype: torch.dtype, masked: bool, backward: bool, folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    launches = Launches()
    monkeypatch.setattr(scan, "_kernels", lambda: launches.kernels)
    monkeypatch.setenv("TRITON_CACHE_DIR", str(folder / "cache"))
    inputs = [torch.zeros(2, tokens, rank, dtype=dtype, requires_grad=backward) for _ in range(6)]
    mask = torch.ones(2, tokens, dtype=torch.bool) if masked else None
    reads, state = scan.scan(inputs, torch.zeros(2, rank, rank), mask, length)
    if backward:
        (reads.sum() + state.sum()).backward()
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    for kernel, args, kwargs in launches.calls:
        binary = folder / "kernel.cubin"
        code, shared = compile_for_hopper(kernel, args, kwargs)
        binary.write_bytes(code)
        usage = subprocess.run([tool, "-res-usage", binary], capture_output=True, text=True, check=True).stdout
        found = re.search(r"REG:(\d+) STACK:(\d+) .*LOCAL:(\d+)", usage)
        assert found, usage
        registers, stack, local = map(int, found.groups())
        print(f"triton {triton.__version__} {kernel} {rank=} {kwargs=} {registers=} {stack=} {local=} {shared=}")
        assert (stack, local) == (0, 0), f"{kernel} spills at rank {rank}: {usage}"
        if rank == 8:
            assert shared == 0, f"{kernel} sends numbers through {shared} bytes of shared memory"
            plain = kwargs.get("MAPS") and not kwargs["REVERSE"] and not masked
            assert registers <= (128 if plain else MOST_REGISTERS), usage


def test_compiles_for_hopper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check(8, 64, 64, torch.float32, masked=False, backward=False, folder=tmp_path, monkeypatch=monkeypatch)


@pytest.mark.slow  # compiles seven kernels, ten at ranks from 32
@pytest.mark.parametrize(
    ("rank", "dtype", "masked"),
    [
        (8, torch.float32, True),
        (8, torch.bfloat16, False),
        (16, torch.float32, True),
        (32, torch.float32, False),
        (32, torch.bfloat16, True),
        (64, torch.float32, True),
        (64, torch.bfloat16, False),
    ],
)
def test_every_launch_compiles_for_hopper(
    rank: int, dtype: torch.dtype, masked: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check(rank, 160, 32, dtype, masked, backward=True, folder=tmp_path, monkeypatch=monkeypatch)
