"""Matrix products that keep the precision of their tensors, whatever autocast and the TF32 switch say.

A state holds what was written long ago in the last bits of float32. Autocast rounds the operands of a product to half
precision, and TF32 to ten bits of mantissa: an error of 3e-4 a read, where 1e-6 is promised.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

_lock = threading.Lock()
_inside = 0  # threads that need TF32 off
_before: bool | str = False  # what the switch was before the first of them


def full_precision(device: torch.device) -> AbstractContextManager[None]:
    """A context in which products of a device's tensors are computed in the dtype of the tensors.

    Other threads' products are computed without TF32 meanwhile: the switch is one for the process.
    """
    kind = device.type
    autocast = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    if kind == "cuda" and not torch.compiler.is_compiling():
        return _on_gpu(autocast)
    return torch.autocast(kind, enabled=False) if autocast else nullcontext()


@contextmanager
def _on_gpu(autocast: bool) -> Iterator[None]:
    with torch.autocast("cuda", enabled=False) if autocast else nullcontext():
        _enter()
        try:
            yield
        finally:
            _leave()


def _enter() -> None:
    global _inside, _before
    with _lock:
        if _inside == 0:
            _before = _switch()
            if _before not in (False, "ieee"):
                _set(False if isinstance(_before, bool) else "ieee")
        _inside += 1


def _leave() -> None:
    global _inside
    with _lock:
        _inside -= 1
        if _inside == 0 and _before not in (False, "ieee"):
            _set(_before)


def _switch() -> bool | str:
    """The TF32 switch of matrix products: PyTorch's older one, or the newer where a program has set that."""
    matmul = torch.backends.cuda.matmul
    try:
        return bool(matmul.allow_tf32)
    except RuntimeError:  # the newer one was set, and the older refuses to be read
        return str(matmul.fp32_precision)


def _set(value: bool | str) -> None:
    matmul = torch.backends.cuda.matmul
    if isinstance(value, bool):
        matmul.allow_tf32 = value
    else:
        matmul.fp32_precision = value


def _after_fork() -> None:
    """A child has none of the threads that were inside, and a lock of its own."""
    global _lock, _inside
    _lock = threading.Lock()
    if _inside and _before not in (False, "ieee"):
        _set(_before)
    _inside = 0


os.register_at_fork(after_in_child=_after_fork)
