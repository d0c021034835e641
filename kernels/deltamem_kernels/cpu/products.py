"""Products of few rows with a large weight, as a model computes them when several sequences get one token each.

PyTorch's libraries are made for many rows, or for one. With eight rows and a bfloat16 weight, on a processor without
bfloat16 arithmetic, they take almost seven times as long as with one row (AMD Zen 3); the compiled form, limited by
reading the weight, takes less than twice as long. Results are float32 sums, rounded once.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear
from torch.overrides import TorchFunctionMode

from deltamem_kernels.cpu import compiled

FEW = 32  # with more float32 rows, PyTorch is as fast
MANY = 96  # from this many rows on, it pays to convert a bfloat16 weight to float32
STEP = 32  # a row's length must be a multiple of it
LARGE = 1 << 16  # smallest number of weight elements for which a call pays
_THREAD_WORK = 1 << 21  # multiplications that justify another thread


class _Product(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_long) for name in ("M", "N", "K", "stride", "bf16")),
        *((name, ctypes.c_void_p) for name in ("x", "weight", "out")),
    )


@cache
def native_bfloat16() -> bool:
    """Whether this processor has bfloat16 arithmetic."""
    known: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # missing in the oldest supported torch
    return any(known.get(name, False) for name in ("avx512_bf16", "amx_bf16", "sve_bf16", "bf16"))


def is_faster(x: Tensor, weight: Tensor) -> bool:
    """Whether `product` can and should replace ``linear(x, weight)``."""
    if x.dtype is not weight.dtype or x.device.type != "cpu" or weight.numel() < LARGE or weight.dim() != 2:
        return False
    rows = x.numel() // max(1, x.shape[-1])
    if weight.dtype is torch.bfloat16:
        wanted = rows > 1 and not native_bfloat16()
    else:
        wanted = weight.dtype is torch.float32 and 1 < rows <= FEW
    plain = type(weight) in (Tensor, torch.nn.Parameter) and not (
        torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    )
    return wanted and plain and weight.shape[1] % STEP == 0 and weight.is_contiguous() and len(compiled.targets()) > 1


def product(x: Tensor, weight: Tensor, target: str | None = None) -> Tensor:
    """x @ weight.T with the compiled library; many rows of bfloat16 with PyTorch in float32.

    Args:
        x: [..., K], any strides.
        weight: [N, K], contiguous, K a multiple of `STEP`; same dtype as x, float32 or bfloat16.
        target: One of `compiled.targets`; None for the fastest.

    Returns:
        [..., N], in the same dtype.

    Raises:
        MemoryError: There is no memory for a copy of x in float32.
    """
    columns, length = weight.shape
    rows = x.reshape(-1, length)
    if weight.dtype is torch.bfloat16 and len(rows) >= MANY:
        return linear(x.float(), weight.float()).to(weight.dtype)
    if rows.stride(1) != 1:
        rows = rows.contiguous()
    out = torch.empty(len(rows), columns, dtype=weight.dtype, device="cpu")  # whatever the default device is
    threads = max(1, min(torch.get_num_threads(), len(rows) * weight.numel() // _THREAD_WORK))
    call = _Product(
        len(rows),
        columns,
        length,
        rows.stride(0),
        weight.dtype is torch.bfloat16,
        rows.data_ptr(),
        weight.data_ptr(),
        out.data_ptr(),
    )
    if _library().deltamem_product(compiled.level(target), ctypes.byref(call), threads) != 0:
        raise MemoryError(f"no memory for {len(rows)} rows of {length} numbers in float32")
    return out.view(*x.shape[:-1], columns)


class FewRowProducts(TorchFunctionMode):
    """Inside this context, in this thread, PyTorch's linear layers run as `product` where that is faster."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Replace products of few rows; every other function of PyTorch passes through at once."""
        if func is linear and not kwargs and is_faster(args[0], args[1]):
            result = product(args[0], args[1])
            return result if len(args) < 3 or args[2] is None else result.add_(args[2])
        if func is torch.addmm and not kwargs and is_faster(args[1], args[2].t()):
            return product(args[1], args[2].t()).add_(args[0])
        return func(*args, **(kwargs or {}))


def few_rows(x: Tensor) -> AbstractContextManager[object]:
    """A context for running a model on tokens x [B, T]: on a CPU it makes products of few rows fast."""
    wanted = x.device.type == "cpu" and x.numel() > 1 and len(compiled.targets()) > 1
    return FewRowProducts() if wanted else nullcontext()


@cache
def _library() -> Any:
    found = compiled.required()
    found.deltamem_product.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_long]
    return found
