"""One adapted layer when nothing is trained: weights in the forms that are fastest, corrections added in place.

`AdapterLayer` holds the parameters and says what is computed; this computes the same without autograd. Copies are made
again whenever a parameter has changed.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from deltamem_agents.core.layer import AdapterLayer
from deltamem_agents.core.packing import PackedProjections, packable
from deltamem_agents.core.spans import SpanPlan
from deltamem_kernels.decode import Correction, read_and_correct


class InferenceLayer:
    """An adapted layer on one attention module.

    Args:
        layer: The adapter's layer, on the module's device.
        inputs: The modules that project the attention's input: q, k and v, or one packed module.
        names: Which of q, k, v are corrected, and the columns [start, stop) of each among the inputs' outputs.
    """

    def __init__(self, layer: AdapterLayer, inputs: Sequence[nn.Module], names: dict[str, tuple[int, int]]) -> None:
        self._layer = layer
        self._columns = names
        plain = packable(inputs)
        self._packed = None if plain is None else PackedProjections(plain, layer.memory.shape[0])
        self._parameters = list(layer.parameters())
        self._stamp: tuple[object, ...] = ()
        self._corrections: dict[str, Correction] = {}

    @property
    def packs(self) -> bool:
        """Whether the input modules' weights are packed with the memory's."""
        return self._packed is not None

    def restore(self) -> None:
        """Leave the backbone's weights as they were."""
        if self._packed is not None:
            self._packed.restore()
            self._packed = None

    def offset(self, position: int) -> int:
        """First column in the packed product of the input module at ``position``."""
        return 0 if self._packed is None else self._packed.offsets[position]

    def read(
        self,
        x: Tensor,
        state: Tensor,
        read_state: Tensor | None,
        *,
        write: bool,
        valid: Tensor | None,
        spans: SpanPlan | None,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Read, write if asked, and correct q, k and v where they are packed. Arguments as of `AdapterLayer`.

        Returns:
            Reads [B, T, W] float32, the state after, and the packed product [B, T, …] whose columns from `offset` on
            are what the input modules are to return; None where they compute their own.
        """
        layer, config = self._layer, self._layer.config
        packed = self._ready(x)
        rows = layer.memory.shape[0] if write else config.width
        if packed is None:
            product = None
            projected = F.linear(x.to(layer.memory.dtype), layer.memory[:rows])
        else:
            product = packed.project(x, rows)
            projected = product[..., packed.offsets[-1] :]
        targets = (
            []
            if product is None
            else [
                (product[..., start:stop].flatten(0, 1), self._corrections[name])
                for name, (start, stop) in self._columns.items()
            ]
        )
        if x.shape[1] == 1 and not write:
            reads = read_and_correct(
                projected.flatten(0, 1),
                state if read_state is None else read_state,
                targets,
                heads=config.heads,
                normalize=config.normalize_qk,
                valid=None if valid is None else valid.flatten(),
            )
            return reads.unsqueeze(1), state, product
        reads, after = layer.read_and_write(projected.float(), state, read_state, write=write, valid=valid, spans=spans)
        flat = reads.flatten(0, 1)
        for output, correction in targets:
            correction.add(output, flat)
        return reads, after, product

    def correct(self, name: str, output: Tensor, reads: Tensor) -> Tensor:
        """``output`` [B, T, out] of a projection, with its correction added in place where that can be done."""
        correction = self._corrections.get(name)
        if correction is None or output.dtype != correction.weight.dtype or not output.is_contiguous():
            return self._layer.correct(name, output, reads)
        correction.add(output.flatten(0, 1), reads.flatten(0, 1))
        return output

    def _ready(self, x: Tensor) -> PackedProjections | None:
        """Bring the copies up to date; the packed projections, if this input can go through them."""
        # An inference tensor counts no versions, and nobody can change it in place either.
        versions = ((each.data_ptr(), 0 if each.is_inference() else each._version) for each in self._parameters)
        stamp = (x.dtype, *versions)
        packed = self._packed
        if packed is not None and (packed.dtype != x.dtype or not packed.intact()):
            packed = None
        if stamp != self._stamp:
            self._corrections = {
                name: Correction(self._layer.scaled(name), x.dtype)
                for name in self._layer.config.corrections
                if name != "o" or self._layer.o_norm is None
            }
            if self._packed is not None:
                self._packed.fill(self._layer.memory)
            self._stamp = stamp
        return packed
