"""The public calls: they check arguments and return results in the caller's dtype."""

from __future__ import annotations

import torch
from torch import Tensor

from deltamem_kernels import backends
from deltamem_kernels.backends import Backend

_NAMES = ("q", "k", "v", "keep", "erase", "write")


def delta_scan(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    keep: Tensor,
    erase: Tensor,
    write: Tensor,
    state: Tensor,
    mask: Tensor | None = None,
    backend: Backend = "auto",
) -> tuple[Tensor, Tensor]:
    """Run T tokens through N states, each token reading before it writes (arXiv:2605.12357, section 3).

        reads_t[i] = <S_{t-1}[i,:], q_t>
        S_t[i,:]   = keep_t[i] S_{t-1}[i,:] + (write_t[i] v_t[i] - erase_t[i] <S_{t-1}[i,:], k_t>) k_t

    Differentiable once in every argument except the mask (any number of times with "naive"). Under ``torch.compile`` it
    is one operator in the graph.

    Args:
        q, k, v, keep, erase, write: [N, T, R], N = batch × heads, T may be 0; float32, bfloat16 or float16 in any
            mixture, or all float64. Gates are per row i; expand a gate per head.
        state: [N, R, R]; float32, or float64 if the inputs are. Not changed in place.
        mask: [N, T] bool; a False token reads zero and writes nothing.
        backend: "auto" takes the fastest that can run: "naive" for float64; else "compiled" on a CPU and "triton" on
            CUDA, or "chunked" if these cannot. A named backend runs, or raises an error.

    Returns:
        The reads [N, T, R] in q's dtype, and the new state [N, R, R] in the state's dtype.

    Raises:
        ValueError: A shape, dtype or device does not fit, the message names both; or the backend is unknown.
        RuntimeError: The named backend cannot run this; the message says why.
    """
    inputs = (q, k, v, keep, erase, write)
    _check_tensors((*inputs, state) if mask is None else (*inputs, state, mask))
    if q.ndim != 3:
        raise ValueError(f"q has shape {_shape(q)}, expected [N, T, R]")
    n, tokens, rank = q.shape
    _check_inputs(inputs)
    _check("state", state, (n, rank, rank), _state_dtype(q), q.device)
    if mask is not None:
        _check("mask", mask, (n, tokens), torch.bool, q.device)
    backends.check_name(backend)
    if torch.compiler.is_compiling() and backend != "naive" and (backend != "auto" or q.dtype != torch.float64):
        from deltamem_kernels import operator

        reads, state = operator.scan(backend, inputs, state, mask)
    else:
        reads, state = backends.scan(backend, inputs, state, mask)
    return reads.to(q.dtype), state


@torch.no_grad()
def delta_step(
    q: Tensor, k: Tensor, v: Tensor, keep: Tensor, erase: Tensor, write: Tensor, pool: Tensor, slots: Tensor
) -> Tensor:
    """Run one token of each of N streams through its slot in a pool of states, which is changed in place.

    Args:
        q, k, v, keep, erase, write: [N, R]; dtypes as in `delta_scan`.
        pool: [P, R, R]; float32, or float64 if the inputs are.
        slots: [N] int64, distinct, each below P; a stream with slot -1 reads zero and writes nothing.

    Returns:
        The reads [N, R] in q's dtype; no gradient.

    Raises:
        ValueError: A shape, dtype or device does not fit; the message names both.
        IndexError: On a CPU: a slot is not below P; nothing was written.
    """
    inputs = (q, k, v, keep, erase, write)
    _check_tensors((*inputs, pool, slots))
    if q.ndim != 2:
        raise ValueError(f"q has shape {_shape(q)}, expected [N, R]")
    n, rank = q.shape
    _check_inputs(inputs)
    _check("pool", pool, (pool.shape[0] if pool.ndim else 0, rank, rank), _state_dtype(q), q.device)
    _check("slots", slots, (n,), torch.int64, q.device)
    return backends.step(inputs, pool, slots).to(q.dtype)


def explain_backend(device: torch.device | str | None = None) -> str:
    """Say in one line which backend "auto" takes for float32 tensors on a device (the CPU if None), and why."""
    return backends.explain(torch.device(device or "cpu"))


def _state_dtype(q: Tensor) -> torch.dtype:
    return torch.float64 if q.dtype == torch.float64 else torch.float32


def _check_tensors(given: tuple[object, ...]) -> None:
    for name, x in zip((*_NAMES, "state or pool", "mask or slots"), given, strict=False):
        if not isinstance(x, Tensor):
            raise ValueError(f"{name} is a {type(x).__name__}, expected a tensor")


def _check_inputs(inputs: tuple[Tensor, ...]) -> None:
    """Check that all inputs have q's shape and device, and a dtype that goes with q's."""
    q = inputs[0]
    allowed = (torch.float64,) if q.dtype == torch.float64 else (torch.float32, torch.bfloat16, torch.float16)
    for name, x in zip(_NAMES, inputs, strict=True):
        if x.shape != q.shape:
            raise ValueError(f"{name} has shape {_shape(x)}, q has {_shape(q)}; they must be equal")
        if x.dtype not in allowed:
            raise ValueError(f"{name} is {x.dtype}, q is {q.dtype}; allowed together: {', '.join(map(str, allowed))}")
        if x.device != q.device:
            raise ValueError(f"{name} is on {x.device}, q on {q.device}; move one")


def _check(name: str, x: Tensor, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> None:
    if x.shape != shape:
        raise ValueError(f"{name} has shape {_shape(x)}, expected {list(shape)} to go with q")
    if x.dtype != dtype:
        raise ValueError(f"{name} is {x.dtype}, expected {dtype} to go with q")
    if x.device != device:
        raise ValueError(f"{name} is on {x.device}, q on {device}; move one")


def _shape(x: Tensor) -> list[int]:
    return list(x.shape)
