"""One matrix product for a backbone's q, k, v and the memory's projections of the same input.

The packed buffer [q + k + v + memory, D] holds the backbone's own weights, which become views of it: no second copy
remains, and an unbound forward multiplies by the same numbers as before. Knows nothing about states.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PackedProjections:
    """Projections of one attention module, followed by a copy of the memory's rows.

    Args:
        linears: The modules whose weights move into the buffer, see `packable`.
        memory_rows: Number of rows reserved for the memory's projections.
    """

    def __init__(self, linears: Sequence[nn.Linear], memory_rows: int) -> None:
        self._linears = tuple(linears)
        self._widths = widths = [linear.out_features for linear in linears]
        self.offsets = [sum(widths[:i]) for i in range(len(widths) + 1)]
        first = linears[0].weight
        self._buffer = torch.zeros(
            self.offsets[-1] + memory_rows, first.shape[1], dtype=first.dtype, device=first.device
        )
        for linear, at in zip(linears, self.offsets, strict=False):
            rows = self._buffer[at : at + linear.out_features]
            rows.copy_(linear.weight.detach())
            linear.weight.data = rows
        self._views: dict[int, tuple[Tensor, list[int]]] = {}
        self._addresses = [linear.weight.data_ptr() for linear in linears]

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the backbone's weights, in which the memory's rows are computed too."""
        return self._buffer.dtype

    def intact(self) -> bool:
        """Whether the backbone still uses the buffer: moving or converting a model gives it new weights."""
        return all(map(self._holds, self._linears, self._addresses))

    def fill(self, memory: Tensor) -> None:
        """Copy the memory's rows [M, D], rounded to the backbone's dtype."""
        self._buffer[self.offsets[-1] :].copy_(memory.detach())

    def project(self, x: Tensor, memory_rows: int) -> Tensor:
        """Multiply x [B, T, D] by the backbone's rows and the first ``memory_rows`` of the memory's: [B, T, …]."""
        weight, _ = self._parts(memory_rows)
        return F.linear(x, weight)

    def split(self, product: Tensor) -> tuple[Tensor, ...]:
        """Views of a product: the output of each backbone module, then the memory's columns."""
        _, sizes = self._parts(product.shape[-1] - self.offsets[-1])
        return product.split_with_sizes(sizes, -1)

    def _parts(self, memory_rows: int) -> tuple[Tensor, list[int]]:
        """The buffer's first rows and their split sizes; cached, since decoding needs them at every token."""
        found = self._views.get(memory_rows)
        if found is None:
            rows = self._buffer[: self.offsets[-1] + memory_rows]
            found = self._views[memory_rows] = rows, [*self._widths, memory_rows]
        return found

    def restore(self) -> None:
        """Give each projection that still uses the buffer its own weight again, bit for bit the same."""
        for linear, address in zip(self._linears, self._addresses, strict=True):
            if self._holds(linear, address):
                linear.weight.data = linear.weight.detach().clone()

    @staticmethod
    def _holds(linear: nn.Linear, address: int) -> bool:
        weight = linear._parameters.get("weight")  # none if it was parametrised or pruned
        return weight is not None and weight.data_ptr() == address


def packable(linears: Sequence[nn.Module]) -> list[nn.Linear] | None:
    """The modules if their weights can share one buffer, else None.

    They can if all are plain ``nn.Linear`` without bias (not quantised, not wrapped, with their class's forward and no
    pre-hook, not made in inference mode), of one dtype and device.
    """
    plain = [each for each in linears if isinstance(each, nn.Linear) and _plain(each)]
    kinds = {(each.weight.dtype, each.weight.device, each.in_features) for each in plain}
    return plain if len(plain) == len(linears) and len(kinds) == 1 else None


def _plain(linear: nn.Linear) -> bool:
    return (
        type(linear) is nn.Linear
        and linear.bias is None
        and "forward" not in linear.__dict__
        and not linear._forward_pre_hooks
        and not hasattr(linear, "parametrizations")
        and linear.weight.is_floating_point()
        and not linear.weight.is_inference()
        and linear.weight.device.type != "meta"
    )
