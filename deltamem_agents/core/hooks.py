"""Hooks on one model: they begin and end a pass, read and write the state, and add the corrections.

The decoder's hooks find the caller's frame through a context variable, so threads and tasks do not see each other's.
From there the pass reaches the layers in thread-local memory. Backward runs of checkpointed layers happen on other
threads after the forward has ended; for these the pass travels in the layers' keyword arguments. Code traced by
``torch.compile`` uses neither way, see ``tracing``.
"""

from __future__ import annotations

import inspect
import itertools
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from deltamem_agents.core.adapter import Adapter
from deltamem_agents.core.families import Backbone
from deltamem_agents.core.forward_pass import Frame, Pass, tokens_of
from deltamem_agents.core.inference import InferenceLayer
from deltamem_agents.core.layer import AdapterLayer
from deltamem_agents.core.packing import packable
from deltamem_agents.core.tracing import Tracing, forget_compiled
from deltamem_agents.errors import UnsupportedModelError

_FRAMES: ContextVar[tuple[Frame, ...]] = ContextVar("deltamem_frames", default=())
_KWARG = "deltamem_pass"
Corrector = Callable[[nn.Module, tuple[Any, ...], Tensor], Tensor | None]


class _Running(threading.local):
    """The current pass of this thread, and what its current attention module has read and projected."""

    frame: Frame | None = None
    current: Pass | None = None
    carried: Pass | None = None  # passed in a checkpointed layer's keyword arguments
    in_place: bool = False
    # Of layer `at`, from its first projection to its last:
    at: int = -1
    steering: Pass | None = None
    reads: Tensor | None = None
    outputs: tuple[Tensor, ...] | None = None
    output_addend: Tensor | None = None  # to be added to the output projection's product

    def clear(self) -> None:
        self.frame = self.current = self.carried = self.steering = self.reads = self.outputs = self.output_addend = None
        self.in_place, self.at = False, -1


class Hooks:
    """All hooks of one adapter on one model.

    Args:
        on_end: Called with the frame and the pass after each successful decoder run.
    """

    def __init__(self, backbone: Backbone, adapter: Adapter, on_end: Callable[[Frame, Pass], None]) -> None:
        self._running = _Running()
        self._on_end = on_end
        self.tracing = Tracing(adapter, self._innermost, on_end)
        self._parameters = list(inspect.signature(type(backbone.decoder).forward).parameters)[1:]
        self._checkpointed = [backbone.decoder, *backbone.decoder.get_submodule("layers").children()]
        self._layers: list[InferenceLayer] = []
        self._replaced: list[nn.Module] = []
        self._uncarried: list[nn.Module] = []  # attention modules without the `_carry` hook
        decoder = backbone.decoder
        self._handles: list[RemovableHandle] = [
            decoder.register_forward_pre_hook(self._begin, with_kwargs=True),
            decoder.register_forward_hook(self._end, always_call=True),
        ]
        for index in adapter.layer_indices:
            self._hook_layer(index, backbone, adapter.layer(index))
        forget_compiled()

    def remove(self) -> None:
        """Restore the model."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        for module in self._replaced:
            del module.forward
        self._replaced.clear()
        for layer in self._layers:
            layer.restore()
        self._layers.clear()
        forget_compiled()

    def _hook_layer(self, index: int, backbone: Backbone, layer: AdapterLayer) -> None:
        attention, names = backbone.attentions[index], layer.config.corrections
        widths = {name: backbone.shapes[index].outputs[name] for name in ("q", "k", "v")}
        # The parts of each input projection's output, in order: one of q, k and v, or all three.
        modules = (
            {"qkv_proj": widths}
            if backbone.family.packed
            else {f"{each}_proj": {each: widths[each]} for each in widths}
        )
        inputs = [attention.get_submodule(path) for path in modules]
        ends = list(itertools.accumulate(widths.values()))
        columns = {each: (end - widths[each], end) for each, end in zip(widths, ends, strict=True) if each in names}
        output = attention.get_submodule("o_proj")
        adds = "o" in names and packable([output]) is not None
        fast = InferenceLayer(layer, inputs, columns, adds=adds)
        self._layers.append(fast)
        if fast.packs:
            self._uncarried.append(attention)
            for position, (module, parts) in enumerate(zip(inputs, modules.values(), strict=True)):
                correct = self._corrector(layer, fast, parts) if any(each in names for each in parts) else None
                module.forward = self._taken(module, position, index, fast, correct)
                self._replaced.append(module)
        else:
            self._handles.append(attention.register_forward_pre_hook(self._before(index, fast), with_kwargs=True))
            for module, parts in zip(inputs, modules.values(), strict=True):
                if any(each in names for each in parts):
                    self._handles.append(module.register_forward_hook(self._corrector(layer, fast, parts)))
        if "o" in names:
            correct = self._corrector(layer, fast, {"o": backbone.shapes[index].outputs["o"]})
            if adds:
                output.forward = self._followed(output, correct)  # cheaper than a hook, which slows decoding noticeably
                self._replaced.append(output)
            else:
                self._handles.append(output.register_forward_hook(correct))

    def _innermost(self) -> Frame | None:
        return next((each for each in reversed(_FRAMES.get()) if each.owner is self), None)

    def _begin(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Before the decoder: start a pass if a frame of this attachment is open in this context."""
        inputs = dict(zip(self._parameters, args, strict=False)) | kwargs
        if torch.compiler.is_compiling():
            self.tracing.begin(inputs)
            return None
        running = self._running
        running.clear()
        frame = self._innermost()
        if frame is None:
            return None
        running.current = frame.begin(inputs)
        running.frame = frame
        tokens = tokens_of(inputs)
        if tokens is not None and running.current is not None and not torch.is_grad_enabled():
            running.in_place = not torch.is_autocast_enabled(tokens.device.type)
        if running.in_place and tokens is not None and not (frame.passes and tokens.shape[1] == 1):
            for layer in self._layers:  # skipped for the later tokens of an answer: weights do not change within one
                layer.refresh()
        if running.current is not None and self._will_checkpoint():
            self._carry_through_checkpoints()
            return args, {**kwargs, _KWARG: running.current}
        return None

    def _end(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """After the decoder, whether or not it failed; ``output`` is None if it failed."""
        if torch.compiler.is_compiling():
            self.tracing.end()
            return
        running = self._running
        frame, done = running.frame, running.current
        running.clear()
        if frame is not None and done is not None and output is not None:
            self._on_end(frame, done)

    def _will_checkpoint(self) -> bool:
        if not torch.is_grad_enabled():
            return False
        return any(each.training and getattr(each, "gradient_checkpointing", False) for each in self._checkpointed)

    def _carry_through_checkpoints(self) -> None:
        """From now on, take the pass out of the arguments of packed layers."""
        while self._uncarried:
            self._handles.append(self._uncarried.pop().register_forward_pre_hook(self._carry, with_kwargs=True))

    def _read(self, index: int, fast: InferenceLayer, x: Tensor) -> None:
        """Read the state, and write if asked, at a layer's input x [B, T, D]."""
        running = self._running
        carried, running.carried = running.carried, None
        current = running.current if carried is None else carried
        running.at, running.steering = index, current
        running.outputs = running.reads = running.output_addend = None
        if current is None:
            return
        if current.differentiable and not torch.is_grad_enabled():
            raise UnsupportedModelError(
                "reentrant gradient checkpointing cuts the state off from autograd; call "
                "gradient_checkpointing_enable(gradient_checkpointing_kwargs={'use_reentrant': False})"
            )
        running.in_place = running.in_place and carried is None
        if running.in_place:
            found = current.run(index, fast.read, x)
            running.reads, current.after[index], running.outputs, running.output_addend = found
        else:
            running.reads, current.after[index] = current.run(index, fast.layer, x)

    def _before(self, index: int, fast: InferenceLayer) -> Callable[..., Any]:
        """A pre-hook for an attention module whose projections are not packed."""
        running, tracing = self._running, self.tracing

        def read(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            x = args[0] if args else kwargs["hidden_states"]
            if torch.compiler.is_compiling():
                tracing.read(index, x)
                return None
            running.carried = carried = kwargs.pop(_KWARG, None)
            self._read(index, fast, x)
            return None if carried is None else (args, kwargs)

        return read

    def _carry(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A pre-hook for attention modules under gradient checkpointing."""
        if _KWARG not in kwargs:
            return None
        self._running.carried = kwargs.pop(_KWARG)
        return args, kwargs

    def _taken(
        self, module: nn.Module, position: int, index: int, fast: InferenceLayer, correct: Corrector | None
    ) -> Callable[[Tensor], Tensor]:
        """The forward of a packed projection: its part of the product, after the first of them has read at their input.

        A hook on the attention module instead would slow decoding noticeably.
        """
        running, tracing, own = self._running, self.tracing, module.forward

        def forward(x: Tensor) -> Tensor:
            if torch.compiler.is_compiling():
                if position == 0:
                    tracing.read(index, x)
            elif running.current is not None or running.carried is not None:
                if running.at != index or running.carried is not None:
                    self._read(index, fast, x)
                outputs = running.outputs
                if outputs is not None:
                    if correct is not None:
                        correct(module, (x,), outputs[position])  # only counts; the product is already corrected
                    return outputs[position]
            output: Tensor = own(x)
            corrected = None if correct is None else correct(module, (x,), output)
            return output if corrected is None else corrected

        return forward

    def _followed(self, module: nn.Module, correct: Corrector) -> Callable[[Tensor], Tensor]:
        """The forward of the output projection with its correction, added inside its product if already known."""
        running, own = self._running, module.forward

        def forward(x: Tensor) -> Tensor:
            output_addend = None if torch.compiler.is_compiling() else running.output_addend
            if output_addend is not None and running.steering is not None and x.dtype == output_addend.dtype:
                running.steering.steered += 1
                running.reads = running.outputs = running.output_addend = None
                running.at = -1
                weight: Tensor = module.weight  # type: ignore[assignment]
                return torch.addmm(output_addend, x.flatten(0, 1), weight.t()).unsqueeze(1)
            output: Tensor = own(x)
            corrected = correct(module, (x,), output)
            return output if corrected is None else corrected

        return forward

    def _corrector(self, layer: AdapterLayer, fast: InferenceLayer, parts: Mapping[str, int]) -> Corrector:
        """A forward hook of a projection whose output holds ``parts``: names with their widths."""
        running, tracing = self._running, self.tracing
        names = [name for name in parts if name in layer.config.corrections]

        def each(output: Tensor, correct: Callable[[str, Tensor], Tensor]) -> Tensor:
            if len(parts) == 1:
                return correct(names[0], output)
            pieces = zip(parts, torch.split(output, list(parts.values()), dim=-1), strict=True)
            return torch.cat([correct(name, piece) if name in names else piece for name, piece in pieces], -1)

        def correct(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
            if torch.compiler.is_compiling():
                return each(output, lambda name, piece: tracing.correct(layer, name, piece))
            reads = running.reads
            if reads is None or running.steering is None:
                return None
            running.steering.steered += len(names)
            if names == ["o"]:
                running.reads = running.outputs = running.output_addend = None
                running.at = -1
            elif running.outputs is not None:
                return None  # the product is already corrected
            if running.in_place and len(parts) == 1:
                return fast.correct(names[0], output, reads)
            return each(output, lambda name, piece: layer.correct(name, piece, reads))

        return correct


@contextmanager
def opened(frame: Frame) -> Iterator[None]:
    """Apply a frame in this context (thread or task), or to the code being traced."""
    hooks = frame.owner
    assert isinstance(hooks, Hooks)
    if torch.compiler.is_compiling():
        outer, hooks.tracing.frame = hooks.tracing.frame, frame
        try:
            yield
        finally:
            hooks.tracing.frame = outer
        return
    token = _FRAMES.set((*_FRAMES.get(), frame))
    try:
        yield
    finally:
        _FRAMES.reset(token)
