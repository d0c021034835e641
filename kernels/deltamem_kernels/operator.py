"""The scan as one opaque operator, for ``torch.compile``. Eager calls bypass it, as they need no dispatcher.

A tracer cannot follow ctypes, and would unroll the loop over chunks for one length. The operator chooses its backend
when it runs, saves only its inputs, and scans again in the backward.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from deltamem_kernels import backends

_TENSORS = "Tensor q, Tensor k, Tensor v, Tensor keep, Tensor erase, Tensor write, Tensor state, Tensor? mask"

_library = torch.library.Library("deltamem_kernels", "FRAGMENT")  # type: ignore[no-untyped-call]
_library.define(  # type: ignore[no-untyped-call]
    f"scan({_TENSORS}, str backend) -> (Tensor, Tensor)"
)
_library.define(  # type: ignore[no-untyped-call]
    f"scan_backward({_TENSORS}, str backend, Tensor? d_reads, Tensor? d_state) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
)


def scan(backend: str, inputs: tuple[Tensor, ...], state: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """`backends.scan` as an operator in a graph."""
    reads, state = torch.ops.deltamem_kernels.scan(*inputs, state, mask, backend)
    return reads, state


@torch.library.impl(_library, "scan", "CompositeExplicitAutograd")
def _scan(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    keep: Tensor,
    erase: Tensor,
    write: Tensor,
    state: Tensor,
    mask: Tensor | None,
    backend: str,
) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        reads, state = backends.scan(backend, (q, k, v, keep, erase, write), state, mask)
    return reads.contiguous(), state.contiguous()


def _scan_shapes(*arguments: Any) -> tuple[Tensor, Tensor]:
    q, state = arguments[0], arguments[6]
    return q.new_empty(q.shape, dtype=state.dtype), state.new_empty(state.shape)


@torch.library.impl(_library, "scan_backward", "CompositeExplicitAutograd")
def _scan_backward(*arguments: Any) -> tuple[Tensor, ...]:
    *tensors, mask, backend, d_reads, d_state = arguments
    with torch.enable_grad():
        leaves = [x.detach().requires_grad_() for x in tensors]
        outputs = backends.scan(backend, leaves[:6], leaves[6], mask)
    # Outputs that depend on no input have no gradient.
    given = [(x, d) for x, d in zip(outputs, (d_reads, d_state), strict=True) if d is not None and x.requires_grad]
    found = torch.autograd.grad([x for x, _ in given], leaves, [d for _, d in given], materialize_grads=True)
    return (*(x.contiguous() for x in found[:6]), found[6].clone(memory_format=torch.contiguous_format))


def _scan_backward_shapes(*arguments: Any) -> tuple[Tensor, ...]:
    return tuple(x.new_empty(x.shape) for x in arguments[:7])


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.backend = inputs
    ctx.save_for_backward(*tensors)


def _gradients(ctx: Any, d_reads: Tensor | None, d_state: Tensor | None) -> tuple[Tensor | None, ...]:
    found = torch.ops.deltamem_kernels.scan_backward(*ctx.saved_tensors, ctx.backend, d_reads, d_state)
    return *found, None, None


torch.library.register_fake("deltamem_kernels::scan", _scan_shapes, lib=_library)
torch.library.register_fake("deltamem_kernels::scan_backward", _scan_backward_shapes, lib=_library)
torch.library.register_autograd("deltamem_kernels::scan", _gradients, setup_context=_save, lib=_library)
