"""The hooks of one adapter on one model: they begin and end a pass at the decoder. ``delta_layers`` does the rest.

They find the caller's frame through a context variable, so threads and tasks do not see each other's.
"""

from __future__ import annotations

import contextlib
import inspect
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import nn

from deltamem_agents.core.adapter import Adapter
from deltamem_agents.core.delta_layers import (
    PASS_KEYWORD,
    DeltaAttention,
    DeltaInput,
    DeltaOutput,
    LayerSite,
    ProjectionSite,
    Running,
)
from deltamem_agents.core.families import Backbone
from deltamem_agents.core.forward_pass import Frame, Pass, tokens_of
from deltamem_agents.core.inference import InferenceLayer
from deltamem_agents.core.layer import AdapterLayer
from deltamem_agents.core.packing import packable
from deltamem_agents.core.tracing import Tracing, forget_compiled
from deltamem_agents.core.wrappers import Wrapper, unwrap, wrap

_FRAMES: ContextVar[tuple[Frame, ...]] = ContextVar("deltamem_frames", default=())


class DecoderHook:
    """A hook on the decoder. In a copy or pickle of the model it does nothing, and needs nothing from this package."""

    def __init__(self, run: Callable[..., Any]) -> None:
        self._run = run

    def __call__(self, *args: Any) -> Any:
        """What torch calls."""
        return self._run(*args)

    def __reduce__(self) -> Any:
        return getattr, (contextlib.nullcontext(), "__exit__")


class Hooks:
    """All hooks and wrappers of one adapter on one model.

    Args:
        model: Any module that holds the backbone.
        on_end: Called with the frame and the pass after each successful decoder run.
    """

    def __init__(
        self, model: nn.Module, backbone: Backbone, adapter: Adapter, on_end: Callable[[Frame, Pass], None]
    ) -> None:
        self._running = Running()
        self._on_end = on_end
        self.tracing = Tracing(adapter, self._innermost, on_end)
        decoder = backbone.decoder
        self._parameters = list(inspect.signature(type(decoder).forward).parameters)[1:]
        self._checkpointed = [decoder, *decoder.get_submodule("layers").children()]
        self._roots = (model, decoder)
        self._sites: list[LayerSite] = []
        self._wrappers: list[Wrapper] = []
        self._handles = [
            decoder.register_forward_pre_hook(DecoderHook(self._begin), with_kwargs=True),
            decoder.register_forward_hook(DecoderHook(self._end), always_call=True),
        ]
        try:
            for index in adapter.layer_indices:
                self._wrap_layer(index, backbone, adapter.layer(index))
        except BaseException:
            self.remove()
            raise
        forget_compiled()

    def remove(self) -> None:
        """Remove hooks and wrappers; those of others stay, even around ours."""
        for handle in self._handles:
            handle.remove()
        unwrap(self._roots, self._wrappers)
        for site in self._sites:
            site.attached = False
            site.fast.restore()
        forget_compiled()

    def _wrap_layer(self, index: int, backbone: Backbone, layer: AdapterLayer) -> None:
        attention, names = backbone.attentions[index], layer.config.corrections
        widths = {name: backbone.shapes[index].outputs[name] for name in ("q", "k", "v")}
        # The parts of each input projection's output, in order: one of q, k and v, or all three.
        modules = (
            {"qkv_proj": widths}
            if backbone.family.packed
            else {f"{each}_proj": {each: widths[each]} for each in widths}
        )
        inputs = [_innermost(attention, name) for name in modules]
        output = _innermost(attention, "o_proj")
        ends = list(itertools.accumulate(widths.values()))
        columns = {each: (end - widths[each], end) for each, end in zip(widths, ends, strict=True) if each in names}
        adds = "o" in names and packable([getattr(*output)]) is not None
        fast = InferenceLayer(layer, [getattr(*each) for each in inputs], columns, adds=adds)
        site = LayerSite(index, layer, fast, self._running, self.tracing)
        self._sites.append(site)
        for position, (place, parts) in enumerate(zip(inputs, modules.values(), strict=True)):
            if fast.packs or any(each in names for each in parts):
                self._wrappers.append(wrap(*place, DeltaInput, ProjectionSite(site, parts, position)))
        if "o" in names:
            parts = {"o": backbone.shapes[index].outputs["o"]}
            self._wrappers.append(wrap(*output, DeltaOutput, ProjectionSite(site, parts)))
        self._wrappers.append(wrap(backbone.layers[index], "self_attn", DeltaAttention, site))

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
            for site in self._sites:  # skipped for the later tokens of an answer: weights do not change within one
                site.fast.refresh()
        if running.current is not None and self._will_checkpoint():
            return args, {**kwargs, PASS_KEYWORD: running.current}
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


def _innermost(attention: nn.Module, name: str) -> tuple[nn.Module, str]:
    """Parent and name of a projection. Within a PEFT layer it is the base layer, as if PEFT had come later."""
    parent = attention
    while isinstance(getattr(getattr(parent, name), "base_layer", None), nn.Module):
        parent, name = getattr(parent, name), "base_layer"
    return parent, name


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
