"""The backends of the scan by name: which one can run what, which one "auto" takes, and why. Checks no shapes.

Triton and the modules that need it are imported on first use for a device that they support.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from functools import cache
from types import ModuleType
from typing import Literal, get_args

import torch
from torch import Tensor

from deltamem_kernels import chunked, naive
from deltamem_kernels.cpu import compiled, decoding
from deltamem_kernels.precision import full_precision

Backend = Literal["auto", "naive", "chunked", "compiled", "triton"]

_BACKENDS: tuple[str, ...] = get_args(Backend)
_KERNELS = {"cpu": "compiled", "cuda": "triton"}  # the fastest backend for each kind of device
_CHUNKED = "chunked: PyTorch operations over chunks of tokens"


def scan(backend: str, inputs: Sequence[Tensor], state: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Run a scan on the named backend. Arguments as in `naive.scan`, in any of the dtypes of `delta_scan`.

    Returns:
        The reads and the new state, both in the state's dtype.

    Raises:
        RuntimeError: The named backend cannot run this.
    """
    chosen = choose(backend, inputs[0])
    if chosen == "compiled":
        return compiled.scan(inputs, state, mask)
    if chosen == "triton":
        reads, state = _require(_triton_scan()).scan(inputs, state, mask)
        return reads, state
    inputs = [x.to(state.dtype) for x in inputs]
    with full_precision(state.device):
        return naive.scan(inputs, state, mask) if chosen == "naive" else chunked.scan(inputs, state, mask)


def step(inputs: Sequence[Tensor], pool: Tensor, slots: Tensor) -> Tensor:
    """Run one token of each stream on the fastest backend available; arguments as in `naive.step`."""
    if pool.is_cuda and _step_fits(pool):
        reads: Tensor = _require(_triton_decode()).step(inputs, pool, slots)
        return reads
    if pool.device.type == "cpu" and pool.dtype == torch.float32 and pool.is_contiguous() and _compiled():
        return decoding.step(inputs, pool, slots)
    with full_precision(pool.device):
        return naive.step([x.to(pool.dtype) for x in inputs], pool, slots)


def check_name(backend: str) -> None:
    """Raise ValueError for an unknown backend."""
    if backend not in _BACKENDS:
        raise ValueError(f"backend {backend!r} is unknown; choose one of {', '.join(_BACKENDS)}")


def choose(backend: str, q: Tensor) -> str:
    """The name of the backend that runs inputs like q.

    Raises:
        RuntimeError: The named backend cannot run this; the message says why.
    """
    if backend == "auto":
        if q.dtype == torch.float64:
            return "naive"
        kernel = _KERNELS.get(q.device.type)
        return "chunked" if kernel is None or _refusal(kernel, q) is not None else kernel
    if backend in ("compiled", "triton"):
        reason = _refusal(backend, q)
        if reason is not None:
            raise RuntimeError(f"backend {backend!r} cannot run: {reason}")
    return backend


def explain(device: torch.device) -> str:
    """One line: which backend "auto" takes for float32 tensors on a device, and why."""
    if device.type == "cpu":
        reason = compiled.unavailable()
        if reason is not None:
            return f"{_CHUNKED}; {reason}"
        count = torch.get_num_threads()
        threads = f"{count} thread{'s' * (count != 1)}"
        return f"compiled: C scan with {compiled.targets()[-1]} instructions, up to {threads}"
    if device.type != "cuda":
        return f"{_CHUNKED}; there is no kernel for {device.type} tensors"
    module = _triton_scan()
    reason = module if isinstance(module, str) else module.unavailable(device)
    if reason is not None:
        return f"{_CHUNKED}; {reason}"
    return f"triton: kernels on {torch.cuda.get_device_name(device)}"


def _refusal(kernel: str, q: Tensor) -> str | None:
    """Why a kernel cannot run inputs like q; None if it can."""
    if kernel == "compiled":
        limit = compiled.MAX_RANK
        reason = compiled.unavailable()
        if q.device.type != "cpu":
            reason = f"it runs on the CPU, the tensors are on {q.device}"
    else:
        module = _triton_scan()
        if isinstance(module, str):
            return module
        limit = module.MAX_RANK
        reason = module.unavailable(q.device)
    if q.dtype == torch.float64:
        return "it computes in float32, the tensors are float64; use 'naive', 'chunked' or float32"
    if q.shape[-1] > limit:
        return f"it takes ranks up to {limit}, the tensors have {q.shape[-1]}; use 'chunked' or 'auto'"
    return reason


def _step_fits(pool: Tensor) -> bool:
    """Whether the Triton step supports a pool on a CUDA device."""
    module = _triton_decode()
    if isinstance(module, str) or module.unavailable(pool.device) is not None:
        return False
    rank = pool.shape[-1]
    limit: int = importlib.import_module("deltamem_kernels.gpu.launching").MAX_RANK
    return pool.dtype == torch.float32 and pool.stride()[1:] == (rank, 1) and 1 <= rank <= limit


def _compiled() -> bool:
    return not torch.compiler.is_compiling() and compiled.unavailable() is None


@cache
def _triton_scan() -> ModuleType | str:
    return _imported("deltamem_kernels.gpu.scan")


@cache
def _triton_decode() -> ModuleType | str:
    return _imported("deltamem_kernels.gpu.decode")


def _imported(name: str) -> ModuleType | str:
    """A module that needs Triton, or the reason why it cannot be imported."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        return f"Triton cannot be imported ({error}); install triton"


def _require(module: ModuleType | str) -> ModuleType:
    if isinstance(module, str):
        raise RuntimeError(module)
    return module
