"""The wrappers of an adapted layer: its attention reads and writes the state, its projections add the corrections.

Memory reads the attention module's own input, whatever other libraries' wrappers do to a projection's input. Which pass
is running is known from thread-local memory. Backward runs of checkpointed layers happen on other threads after the
forward has ended; for these the pass travels in the layers' keyword arguments. Code traced by ``torch.compile`` uses
neither way, see ``tracing``.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from deltamem_agents.core.forward_pass import Frame, Pass
from deltamem_agents.core.inference import InferenceLayer
from deltamem_agents.core.layer import AdapterLayer
from deltamem_agents.core.tracing import Tracing
from deltamem_agents.core.wrappers import Wrapper
from deltamem_agents.errors import UnsupportedModelError

PASS_KEYWORD = "deltamem_pass"


class Running(threading.local):
    """The current pass of this thread, and what its current attention module has read and projected."""

    frame: Frame | None = None
    current: Pass | None = None
    in_place: bool = False
    # Of layer `at`, from its attention's input to its last projection:
    at: int = -1
    steering: Pass | None = None
    input: Tensor | None = None
    reads: Tensor | None = None
    outputs: tuple[Tensor, ...] | None = None
    output_addend: Tensor | None = None  # to be added to the output projection's product

    def clear(self) -> None:
        """End the pass."""
        self.frame = self.current = None
        self.in_place = False
        self.leave()

    def leave(self) -> None:
        """End the layer."""
        self.at = -1
        self.steering = self.input = self.reads = self.outputs = self.output_addend = None


@dataclass(slots=True)
class LayerSite:
    """What the wrappers of one adapted layer share.

    Args:
        fast: ``layer`` for inference.
        attached: False once the adapter is detached; a wrapper that is still in the model then does nothing.
    """

    index: int
    layer: AdapterLayer
    fast: InferenceLayer
    running: Running
    tracing: Tracing
    attached: bool = True

    def read(self, x: Tensor, carried: Pass | None) -> None:
        """Read the state, and write if asked, at the attention's input x [B, T, D].

        Raises:
            UnsupportedModelError: Gradient checkpointing is reentrant.
        """
        running = self.running
        current = running.current if carried is None else carried
        if current is None:
            if running.at != -1:
                running.leave()
            return
        if current.differentiable and not torch.is_grad_enabled():
            raise UnsupportedModelError(
                "reentrant gradient checkpointing cuts the state off from autograd; call "
                "gradient_checkpointing_enable(gradient_checkpointing_kwargs={'use_reentrant': False})"
            )
        running.at, running.steering, running.input = self.index, current, x
        running.in_place = running.in_place and carried is None
        if running.in_place:
            found = current.run(self.index, self.fast.read, x)
            running.reads, current.after[self.index], running.outputs, running.output_addend = found
        else:
            running.reads, current.after[self.index] = current.run(self.index, self.layer, x)
            running.outputs = running.output_addend = None


@dataclass(slots=True)
class ProjectionSite:
    """What the wrapper of a projection knows.

    Args:
        parts: Names and widths of the parts of its output: one of q, k, v and o, or q, k and v together.
        position: Its index among the attention's input projections.
    """

    layer: LayerSite
    parts: Mapping[str, int]
    position: int = 0
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self.names = tuple(name for name in self.parts if name in self.layer.layer.config.corrections)

    def each(self, output: Tensor, correct: Callable[[str, Tensor], Tensor]) -> Tensor:
        """``output`` with its corrected parts."""
        if len(self.parts) == 1:
            return correct(self.names[0], output)
        pieces = zip(self.parts, torch.split(output, list(self.parts.values()), dim=-1), strict=True)
        return torch.cat([correct(name, piece) if name in self.names else piece for name, piece in pieces], -1)

    def trace(self, output: Tensor) -> Tensor:
        """``output`` plus its corrections, in code that is being traced."""
        site = self.layer
        if not self.names or not site.attached:
            return output
        return self.each(output, lambda name, piece: site.tracing.correct(site.layer, name, piece))

    def correct(self, output: Tensor, steering: Pass, reads: Tensor) -> Tensor:
        """``output`` plus its corrections."""
        steering.steered += len(self.names)
        site = self.layer
        if site.running.in_place and len(self.parts) == 1:
            return site.fast.correct(self.names[0], output, reads)
        return self.each(output, lambda name, piece: site.layer.correct(name, piece, reads))


class DeltaAttention(Wrapper):
    """An attention module with memory."""

    __slots__ = ()
    delta_site: LayerSite

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Read the state, and write if asked, and then attend."""
        site = self.delta_site
        if torch.compiler.is_compiling():
            if site.attached:
                site.tracing.read(site.index, args[0] if args else kwargs["hidden_states"])
            return self.delta_inner(*args, **kwargs)
        carried = kwargs.pop(PASS_KEYWORD, None)
        site.read(args[0] if args else kwargs["hidden_states"], carried)
        return self.delta_inner(*args, **kwargs)

    def extra_repr(self) -> str:
        """The size of the state."""
        config = self.delta_site.layer.config
        return ", ".join(filter(None, [super().extra_repr(), f"heads={config.heads}, rank={config.rank}"]))


class DeltaInput(Wrapper):
    """A projection of the attention's input."""

    __slots__ = ()
    delta_site: ProjectionSite

    def forward(self, input: Tensor) -> Tensor:
        """The projection plus the corrections, taken from the joint product with the memory's if there is one."""
        site = self.delta_site
        output: Tensor
        if torch.compiler.is_compiling():
            output = self.delta_inner(input)
            return site.trace(output)
        running = site.layer.running
        if running.at == site.layer.index:
            outputs = running.outputs
            if outputs is not None and running.input is input:  # unchanged by other libraries' wrappers
                running.steering.steered += len(site.names)  # type: ignore[union-attr]
                return outputs[site.position]
            if site.names and running.reads is not None and running.steering is not None:
                return site.correct(self.delta_inner(input), running.steering, running.reads)
        output = self.delta_inner(input)
        return output


class DeltaOutput(Wrapper):
    """The projection of the attention's output."""

    __slots__ = ()
    delta_site: ProjectionSite

    def forward(self, input: Tensor) -> Tensor:
        """The projection plus the correction, as the addend of its product if that is possible."""
        site = self.delta_site
        output: Tensor
        if torch.compiler.is_compiling():
            output = self.delta_inner(input)
            return site.trace(output)
        running = site.layer.running
        steering, reads, output_addend = running.steering, running.reads, running.output_addend
        if running.at != site.layer.index or steering is None or reads is None:
            output = self.delta_inner(input)
            return output
        running.leave()
        if output_addend is not None and input.dtype == output_addend.dtype:
            steering.steered += 1
            weight: Tensor = self.weight  # type: ignore[assignment]
            return torch.addmm(output_addend, input.flatten(0, 1), weight.t()).unsqueeze(1)
        return site.correct(self.delta_inner(input), steering, reads)
