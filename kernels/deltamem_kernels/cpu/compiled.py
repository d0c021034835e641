"""The compiled CPU scan: ``scan.c`` behind ctypes and an autograd function. Float32 inside; validates nothing.

The library ``_scan.so`` is built next to this file when the package is built; `unavailable` says why it is missing.
Ctypes releases the interpreter lock during a call.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import pad

MAX_RANK = 64
CHUNK = 64  # tokens between two checkpoints, as in scan.c
LIBRARY = Path(__file__).with_name("_scan.so")

# A token takes about R (R + 64) times this many nanoseconds; a thread needs at least _THREAD_NS of work to pay off.
_FORWARD_NS, _BACKWARD_NS, _THREAD_NS = 0.03, 0.15, 100_000

_INPUTS = "q k v keep erase write"


class _Call(ctypes.Structure):
    _fields_ = (("N", ctypes.c_long), ("T", ctypes.c_long), ("R", ctypes.c_long))


def _call_layout(name: str, pointers: str) -> type[ctypes.Structure]:
    """The C struct of a call: three sizes, then the named pointers."""
    return type(name, (_Call,), {"_fields_": [(pointer, ctypes.c_void_p) for pointer in pointers.split()]})


_Forward = _call_layout("_Forward", f"{_INPUTS} state mask reads state_out checkpoints")
_Backward = _call_layout(
    "_Backward", f"{_INPUTS} mask checkpoints d_reads d_state_out d_q d_k d_v d_keep d_erase d_write d_state"
)


@cache
def _library() -> ctypes.CDLL | str:
    """The loaded library, or the reason why it is unavailable."""
    if not LIBRARY.is_file():
        return f"{LIBRARY.name} was not built: no C compiler when the package was installed; install one and reinstall"
    try:
        library = ctypes.CDLL(str(LIBRARY))
    except OSError as error:
        return f"{LIBRARY.name} cannot be loaded: {error}"
    library.deltamem_scan_target_name.restype = ctypes.c_char_p
    for function in (library.deltamem_scan_forward, library.deltamem_scan_backward):
        function.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_long]
    if (parallel := _openmp()) is not None:
        library.deltamem_share_threads.argtypes = [ctypes.c_void_p]
        library.deltamem_share_threads(ctypes.cast(parallel, ctypes.c_void_p))
    return library


def _openmp() -> Any:
    """``GOMP_parallel`` of this process's only OpenMP library, PyTorch's; None if that is not GNU's."""
    maps = Path("/proc/self/maps")
    if not maps.exists():
        return None
    paths = {line.split(maxsplit=5)[-1] for line in maps.read_text().splitlines() if "/libgomp" in line}
    if len(paths) != 1:
        return None
    return getattr(ctypes.CDLL(paths.pop()), "GOMP_parallel", None)


def required() -> ctypes.CDLL:
    """The loaded library.

    Raises:
        RuntimeError: It is unavailable.
    """
    library = _library()
    if isinstance(library, str):
        raise RuntimeError(f"backend 'compiled' cannot run: {library}")
    return library


def unavailable() -> str | None:
    """Why the compiled scan cannot run on this machine; None if it can."""
    library = _library()
    return library if isinstance(library, str) else None


@cache
def targets() -> tuple[str, ...]:
    """Instruction sets that the library can use here, the fastest last: of "portable", "avx2", "avx512"."""
    library = _library()
    if isinstance(library, str):
        return ()
    return tuple(library.deltamem_scan_target_name(i).decode() for i in range(library.deltamem_scan_targets()))


def level(target: str | None) -> int:
    """Index of an instruction set in `targets`; None for the fastest.

    Raises:
        ValueError: ``target`` is not one of `targets`.
    """
    return len(targets()) - 1 if target is None else targets().index(target)


def scan(
    inputs: Sequence[Tensor], state: Tensor, mask: Tensor | None, target: str | None = None
) -> tuple[Tensor, Tensor]:
    """Read and write T tokens. Same as `naive.scan`, on a CPU, in float32.

    Args:
        inputs: q, k, v, keep, erase, write, each [N, T, R]; any float type up to 32 bits, any strides, R at most 64.
        state: [N, R, R] float32, not changed.
        mask: [N, T] bool or None.
        target: One of `targets`; None for the fastest.

    Returns:
        The reads [N, T, R] and the new state [N, R, R], both float32.
    """
    n, tokens, rank = inputs[0].shape
    if n == 0 or tokens == 0:
        return _empty(n, tokens, rank).zero_(), state.clone()
    # Tiles are 8 or 16 rows wide. Rows and columns of zeros change nothing and stay zero.
    extra = (8 if rank <= 8 else -(-rank // 16) * 16) - rank
    inputs = [x.float() for x in inputs]
    if extra:
        inputs = [pad(x, (0, extra)) for x in inputs]
        state = pad(state, (0, extra, 0, extra))
    if mask is not None:
        mask = mask.contiguous()
    number = level(target)
    arrays = [x.contiguous() for x in (*inputs, state)]
    if torch.is_grad_enabled() and any(x.requires_grad for x in arrays):
        reads, state = _Scan.apply(number, mask, *arrays)  # type: ignore[no-untyped-call]
    else:
        reads, state, _ = _forward(number, mask, arrays, checkpointed=False)
    return (reads[..., :rank], state[:, :rank, :rank].contiguous()) if extra else (reads, state)


class _Scan(torch.autograd.Function):
    """Keeps the inputs and one state every 64 tokens; the backward replays each chunk from its checkpoint."""

    @staticmethod
    def forward(ctx: Any, level: int, mask: Tensor | None, *arrays: Tensor) -> tuple[Tensor, Tensor]:
        reads, state, checkpoints = _forward(level, mask, arrays, checkpointed=True)
        ctx.save_for_backward(mask, checkpoints, *arrays[:6])
        ctx.level = level
        ctx.set_materialize_grads(False)
        return reads, state

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_reads: Tensor | None, d_state_out: Tensor | None) -> tuple[Tensor | None, ...]:
        mask, checkpoints, *inputs = ctx.saved_tensors
        d_reads = torch.zeros_like(inputs[0]) if d_reads is None else d_reads.contiguous()
        d_state_out = None if d_state_out is None else d_state_out.contiguous()
        gradients = [torch.empty_like(x) for x in inputs]
        n, tokens, rank = inputs[0].shape
        d_state = _empty(n, rank, rank)
        pointers = _pointers(*inputs, mask, checkpoints, d_reads, d_state_out, *gradients, d_state)
        call = _Backward(n, tokens, rank, *pointers)
        _run("deltamem_scan_backward", ctx.level, call, _BACKWARD_NS)
        return None, None, *gradients, d_state


def _forward(
    level: int, mask: Tensor | None, arrays: Sequence[Tensor], *, checkpointed: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Reads, new state and, if requested, checkpoints [N, chunks, R, R]. Arrays: q … write, state; contiguous."""
    n, tokens, rank = arrays[0].shape
    reads, state = _empty(n, tokens, rank), _empty(n, rank, rank)
    checkpoints = _empty(n, -(-tokens // CHUNK), rank, rank) if checkpointed else None
    call = _Forward(n, tokens, rank, *_pointers(*arrays, mask, reads, state, checkpoints))
    _run("deltamem_scan_forward", level, call, _FORWARD_NS)
    return reads, state, checkpoints


def _empty(*shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.float32, device="cpu")  # independent of torch's defaults


def _pointers(*tensors: Tensor | None) -> list[int | None]:
    return [None if x is None else x.data_ptr() for x in tensors]


def _run(function: str, level: int, call: Any, cost: float) -> None:
    """Call the library with as many threads as torch allows and the work justifies."""
    work = call.N * call.T * call.R * (call.R + 64) * cost
    threads = max(1, min(torch.get_num_threads(), int(work / _THREAD_NS)))
    if getattr(_library(), function)(level, ctypes.byref(call), threads) != 0:
        raise MemoryError(f"{function}: no memory for the workspace of {threads} threads at rank {call.R}")
