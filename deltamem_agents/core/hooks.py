"""Hooks on one model: where a pass begins and ends, where it reads and writes, where corrections are added.

The decoder's hooks find the caller's frame through a context variable, so threads and tasks do not see each other's;
from there to the layers the pass travels in thread-local memory. Backward runs of checkpointed layers happen on other
threads and after the forward has ended: for these it travels in the layers' keyword arguments instead.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from deltamem_agents.core.adapter import Adapter
from deltamem_agents.core.families import Backbone
from deltamem_agents.core.layer import AdapterLayer
from deltamem_agents.core.passes import Frame, Pass
from deltamem_agents.errors import UnsupportedModelError

FRAMES: ContextVar[tuple[Frame, ...]] = ContextVar("deltamem_frames", default=())
_KWARG = "deltamem_pass"


class _Running(threading.local):
    """The pass this thread is in, and the reads of the attention module it is in."""

    frame: Frame | None = None
    current: Pass | None = None
    steering: Pass | None = None
    reads: Tensor | None = None


class Hooks:
    """All hooks of one adapter on one model.

    Args:
        on_end: Called with the frame and the pass after each successful run of the decoder.
    """

    def __init__(self, backbone: Backbone, adapter: Adapter, on_end: Callable[[Frame, Pass], None]) -> None:
        self._running = _Running()
        self._on_end = on_end
        self._parameters = list(inspect.signature(type(backbone.decoder).forward).parameters)[1:]
        self._checkpointed = [backbone.decoder, *backbone.decoder.get_submodule("layers").children()]
        decoder = backbone.decoder
        self._handles: list[RemovableHandle] = [
            decoder.register_forward_pre_hook(self._begin, with_kwargs=True),
            decoder.register_forward_hook(self._end, always_call=True),
        ]
        for index in adapter.layer_indices:
            self._hook_layer(index, backbone, adapter.layer(index))

    def remove(self) -> None:
        """Leave the model as it was."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _hook_layer(self, index: int, backbone: Backbone, layer: AdapterLayer) -> None:
        attention = backbone.attentions[index]
        names = layer.config.corrections
        self._handles.append(attention.register_forward_pre_hook(self._reader(index, layer), with_kwargs=True))
        if backbone.family.packed:
            inputs = tuple(name for name in names if name != "o")
            widths = [backbone.shapes[index].outputs[name] for name in ("q", "k", "v")]
            if inputs:
                packed = attention.get_submodule("qkv_proj")
                self._handles.append(packed.register_forward_hook(self._packed_corrector(layer, inputs, widths)))
            names = tuple(name for name in names if name == "o")
        for name in names:
            projection = attention.get_submodule(f"{name}_proj")
            self._handles.append(projection.register_forward_hook(self._corrector(layer, name)))

    def _begin(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Before the decoder: start a pass if a frame of this attachment is open in this context."""
        running = self._running
        running.frame = running.current = running.steering = running.reads = None
        frame = next((each for each in reversed(FRAMES.get()) if each.owner is self), None)
        if frame is None:
            return None
        inputs = dict(zip(self._parameters, args, strict=False)) | kwargs
        running.current = frame.begin(inputs)
        running.frame = frame
        if running.current is not None and self._will_checkpoint():
            return args, {**kwargs, _KWARG: running.current}
        return None

    def _end(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """After the decoder, failed or not; ``output`` is None where it failed."""
        running = self._running
        frame, done = running.frame, running.current
        running.frame = running.current = running.steering = running.reads = None
        if frame is not None and done is not None and output is not None:
            self._on_end(frame, done)

    def _will_checkpoint(self) -> bool:
        if not torch.is_grad_enabled():
            return False
        return any(each.training and getattr(each, "gradient_checkpointing", False) for each in self._checkpointed)

    def _reader(self, index: int, layer: AdapterLayer) -> Callable[..., Any]:
        running = self._running

        def read(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            carried = kwargs.pop(_KWARG, None)
            current = running.current if carried is None else carried
            if current is None:
                running.reads = None
                return None
            if current.differentiable and not torch.is_grad_enabled():
                raise UnsupportedModelError(
                    "reentrant gradient checkpointing cuts the state off from autograd; call "
                    "gradient_checkpointing_enable(gradient_checkpointing_kwargs={'use_reentrant': False})"
                )
            x = args[0] if args else kwargs["hidden_states"]
            running.reads, current.after[index] = layer(
                x,
                current.state[index],
                None if current.read_state is None else current.read_state[index],
                write=current.write,
                valid=None if current.valid is None else current.valid.to(x.device),
                spans=current.spans,
            )
            running.steering = current
            return None if carried is None else (args, kwargs)

        return read

    def _corrector(self, layer: AdapterLayer, name: str) -> Callable[..., Any]:
        running = self._running

        def correct(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
            if running.reads is None or running.steering is None:
                return None
            running.steering.steered += 1
            corrected = layer.correct(name, output, running.reads)
            if name == "o":
                running.reads = None
            return corrected

        return correct

    def _packed_corrector(self, layer: AdapterLayer, names: tuple[str, ...], widths: list[int]) -> Callable[..., Any]:
        running = self._running

        def correct(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
            reads = running.reads
            if reads is None or running.steering is None:
                return None
            running.steering.steered += len(names)
            parts = zip(("q", "k", "v"), torch.split(output, widths, dim=-1), strict=True)
            return torch.cat([layer.correct(name, part, reads) if name in names else part for name, part in parts], -1)

        return correct
