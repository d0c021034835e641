"""What hooks and wrappers do while ``torch.compile`` traces them: no graph break, and never another thread's state.

A tracer follows neither context variables nor thread-local memory (it bakes in the current values of the latter). There
are two cases:

- `Attached.forward` itself is traced. Its frame is a plain attribute during the trace, and everything that is computed
  lands in the graph, gradients included.
- Only the model is traced, and forwards run it inside `Attached.bind`, or without it. Which state to read is known only
  at run time, so a layer's read and write is one opaque operator that looks it up then. Unbound, it reads zeros.
"""

from __future__ import annotations

import itertools
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from deltamem_agents.core.adapter import Adapter
from deltamem_agents.core.forward_pass import Frame, Pass, validity
from deltamem_agents.core.layer import AdapterLayer

_numbers = itertools.count(1)
_owners: WeakValueDictionary[int, Tracing] = WeakValueDictionary()


class Tracing:
    """The tracing side of one attached adapter.

    Args:
        innermost: Returns, at run time, the frame that is open in the calling context.
        on_end: Called with the frame and the pass after each successful decoder run.
    """

    def __init__(
        self, adapter: Adapter, innermost: Callable[[], Frame | None], on_end: Callable[[Frame, Pass], None]
    ) -> None:
        self._adapter = adapter
        self._innermost = innermost
        self._on_end = on_end
        self._number = next(_numbers)
        _owners[self._number] = self
        # Used during a trace; set and cleared within it.
        self.frame: Frame | None = None
        self._current: Pass | None = None
        self._valid: Tensor | None = None
        self._ids: Tensor | None = None
        self._reads: Tensor | None = None
        # Used while an opaque operator's graph runs, between its first and last layer.
        self._bound: dict[int, tuple[Frame, Pass]] = {}

    def begin(self, inputs: Mapping[str, Any]) -> None:
        """Start a pass before the decoder."""
        if self.frame is None:
            self._valid, self._ids = validity(inputs), inputs.get("input_ids")
        else:
            self._current = self.frame.begin(inputs)

    def end(self) -> None:
        """End the pass after the decoder."""
        frame, done = self.frame, self._current
        self._current = self._valid = self._ids = self._reads = None
        if frame is not None and done is not None:
            self._on_end(frame, done)

    def read(self, index: int, x: Tensor) -> None:
        """Read, and write if asked, before attention; x [B, T, D] is its input."""
        current = self._current
        if self.frame is None:
            width = self._adapter.config.width
            self._reads = torch.ops.deltamem.read(x, self._valid, self._ids, self._number, index, width)
        elif current is None:
            self._reads = None
        else:
            self._reads, current.after[index] = current.run(index, self._adapter.layer(index), x)

    def correct(self, layer: AdapterLayer, name: str, output: Tensor) -> Tensor:
        """``output`` of a projection plus its correction."""
        if self._reads is None:
            return output
        if self._current is not None:
            self._current.steered += 1
        return layer.correct(name, output, self._reads)

    def read_bound(self, index: int, x: Tensor, valid: Tensor | None, ids: Tensor | None) -> Tensor:
        """At run time, in the calling thread: the reads [B, T, W] of one layer under the currently open frame."""
        thread = threading.get_ident()
        indices = self._adapter.layer_indices
        if index == indices[0]:
            self._bound.pop(thread, None)
            frame = self._innermost()
            current = None if frame is None else frame.start(x, valid, ids)
            if frame is not None and current is not None:
                self._bound[thread] = frame, current
        if thread not in self._bound:
            return _zeros(x, self._adapter.config.width)
        frame, current = self._bound[thread]
        reads, current.after[index] = current.run(index, self._adapter.layer(index), x)
        if index == indices[-1]:
            del self._bound[thread]
            current.steered = len(indices) * len(self._adapter.config.corrections)  # the corrections are in the graph
            self._on_end(frame, current)
        done: Tensor = reads
        return done


@torch.library.custom_op("deltamem::read", mutates_args=(), tags=(torch.Tag.cudagraph_unsafe,))
def _read(x: Tensor, valid: Tensor | None, ids: Tensor | None, owner: int, layer: int, width: int) -> Tensor:
    tracing = _owners.get(owner)
    if tracing is None:
        return _zeros(x, width)
    return tracing.read_bound(layer, x, valid, ids)


@_read.register_fake
def _(x: Tensor, valid: Tensor | None, ids: Tensor | None, owner: int, layer: int, width: int) -> Tensor:
    return _zeros(x, width)


def _zeros(x: Tensor, width: int) -> Tensor:
    return x.new_zeros((x.shape[0], x.shape[1], width), dtype=torch.float32)


def forget_compiled() -> None:
    """Drop compiled code, which does not notice when hooks are added or removed."""
    if "torch._dynamo" in sys.modules:
        torch.compiler.reset()
