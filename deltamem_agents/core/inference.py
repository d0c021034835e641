"""One adapted layer for inference: weights in the fastest forms, corrections added in place.

`AdapterLayer` holds the parameters and defines what is computed; this computes the same without autograd. Copies of
weights are renewed whenever a parameter has changed.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deltamem_agents.core.layer import AdapterLayer
from deltamem_agents.core.packing import PackedProjections, packable
from deltamem_agents.core.spans import SpanPlan
from deltamem_agents.errors import ConfigError
from deltamem_kernels.decode import Correction, ProductLayout
from deltamem_kernels.precision import full_precision


class InferenceLayer:
    """An adapted layer on one attention module.

    Args:
        layer: The adapter's layer, on the module's device.
        inputs: The modules that project the attention's input: q, k and v, or one packed module.
        columns: The columns [start, stop) of each corrected one of q, k and v in the inputs' joint output.
        adds: Whether the output projection can take its correction as the addend of its own product.
    """

    def __init__(
        self,
        layer: AdapterLayer,
        inputs: Sequence[nn.Module],
        columns: dict[str, tuple[int, int]],
        *,
        adds: bool,
    ) -> None:
        self.layer = layer
        self._adds = adds
        self._columns = columns
        plain = packable(inputs)
        self._packed = None if plain is None else PackedProjections(plain, layer.memory.shape[0])
        # Where to find the parameters that were copied: a parameter may be replaced by another.
        self._watched = [
            *((layer._parameters, name) for name in ("memory", "scale") if name in layer._parameters),
            *((layer.corrections._parameters, name) for name in layer.config.corrections),
            *((linear._parameters, "weight") for linear in plain or ()),
        ]
        self._stamp: tuple[object, ...] = ()
        # Set by _prepare for inputs of one dtype.
        self._dtype: torch.dtype | None = None
        self._through: PackedProjections | None = None
        self._corrections: dict[str, Correction] = {}
        self._layout: ProductLayout | None = None

    @property
    def packs(self) -> bool:
        """Whether the input modules' weights are packed with the memory's."""
        return self._packed is not None

    def restore(self) -> None:
        """Restore the backbone's weights."""
        if self._packed is not None:
            self._packed.restore()
            self._packed = None

    def refresh(self) -> None:
        """Detect parameters, the adapter's or the backbone's, that have changed since the last pass."""
        found = [parameters.get(name) for parameters, name in self._watched]
        # An inference tensor has no version counter, and cannot be changed in place either.
        stamp = tuple(
            [(each.data_ptr(), 0 if each.is_inference() else each._version) for each in found if each is not None]
        )
        if stamp != self._stamp:
            self._stamp, self._dtype = stamp, None

    def read(
        self,
        x: Tensor,
        state: Tensor,
        read_state: Tensor | None,
        *,
        write: bool,
        valid: Tensor | None,
        spans: SpanPlan | None,
    ) -> tuple[Tensor, Tensor, tuple[Tensor, ...] | None, Tensor | None]:
        """Read, write if asked, and correct q, k and v if they are packed. Arguments as in `AdapterLayer`.

        Returns:
            Reads [B, T, W] float32; the state after; the input modules' outputs in order, followed by the memory's
            columns, or None if the modules compute their own; and, in decoding, the addend [B, out] of the output
            projection's product, or None if `correct` must add it.
        """
        if self._dtype != x.dtype:
            if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
                raise ConfigError(
                    f"a graph is being captured, and the adapter has no weights in {x.dtype} ready; run one forward "
                    "outside of the capture first, and again after the adapter has changed"
                )
            self._prepare(x.dtype)
        layer, packed, layout = self.layer, self._through, self._layout
        rows = layer.memory.shape[0] if write else layer.config.width
        if packed is not None:
            product = packed.project(x, rows)
            outputs = packed.split(product)
        else:
            with full_precision(x.device):
                product, outputs = F.linear(x.to(layer.memory.dtype), layer.memory[:rows]), None
        if layout is not None and spans is None and x.shape[1] == 1:
            after = layout.write(product, state, layer.gate_bias, valid) if write else state
            if after is not None:
                read = state if write or read_state is None else read_state
                reads, output_addend = layout.read_and_correct(product, read, valid)
                return reads, after, outputs, output_addend
        projected = product if packed is None else product[..., packed.offsets[-1] :]
        reads, after = layer.read_and_write(projected.float(), state, read_state, write=write, valid=valid, spans=spans)
        if packed is not None:
            for name, (start, stop) in self._columns.items():
                self._corrections[name].add(product[..., start:stop], reads)
        return reads, after, outputs, None

    def correct(self, name: str, output: Tensor, reads: Tensor) -> Tensor:
        """``output`` [B, T, out] of a projection plus its correction, in place if possible."""
        correction = self._corrections.get(name)
        if correction is None or output.dtype != self._dtype or not output.is_contiguous():
            return self.layer.correct(name, output, reads)
        correction.add(output, reads)
        return output

    def _prepare(self, dtype: torch.dtype) -> None:
        """Make the copies for inputs of this dtype."""
        layer, config, packed = self.layer, self.layer.config, self._packed
        through = packed if packed is not None and packed.dtype == dtype and packed.intact() else None
        if through is not None:
            through.fill(layer.memory)
        corrections = {
            name: Correction(layer.scaled(name), dtype)
            for name in config.corrections
            if name != "o" or layer.o_norm is None
        }
        layout = ProductLayout(
            heads=config.heads,
            rank=config.rank,
            normalize=config.normalize_qk,
            queries=0 if through is None else through.offsets[-1],
            corrections={} if through is None else {self._columns[each]: corrections[each] for each in self._columns},
            output_addend=corrections.get("o") if self._adds and through is not None else None,
            gates={"update": config.update, "own_lambda": config.own_lambda, "rankwise": config.rankwise_gates},
            dtype=layer.memory.dtype if through is None else dtype,
        )
        self._through, self._corrections, self._layout, self._dtype = through, corrections, layout, dtype
