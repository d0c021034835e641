"""What one forward of an attached model reads, writes and leaves behind. Knows states and masks, nothing about modules.

A *frame* is what a caller sets up: `Attached.forward` for one forward, `Attached.bind` for the forwards inside it. A
*pass* is one run of the decoder under a frame. A pass never changes a given state, as checkpointed backward runs, beam
search and retries may run its layers again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor

from deltamem_agents.core.adapter import Adapter
from deltamem_agents.core.masks import token_validity
from deltamem_agents.core.spans import SpanPlan, plan_spans
from deltamem_agents.core.state import state_key
from deltamem_agents.errors import InertAdapterError, StateMismatchError

T = TypeVar("T")


@dataclass(slots=True)
class Pass:
    """One run of the decoder. States are by layer number.

    Args:
        valid: [B, T] bool; None if every token is real.
        spans: Write spans; None for token writes.
        after: The state that each layer left, filled in by the layers.
        steered: Number of corrections applied, to detect projections that were never called.
        differentiable: Whether autograd was on when the pass began.
        inputs: Filled with each layer's input [B, T, D] by its number, if given.
    """

    state: Mapping[int, Tensor]
    read_state: Mapping[int, Tensor] | None
    write: bool
    batch: int
    valid: Tensor | None
    spans: SpanPlan | None
    differentiable: bool
    inputs: dict[int, Tensor] | None = None
    after: dict[int, Tensor] = field(default_factory=dict)
    steered: int = 0

    def run(self, index: int, layer: Callable[..., T], x: Tensor) -> T:
        """Apply ``layer`` (an `AdapterLayer` or a callable with its arguments) to its input x [B, T, D]."""
        if self.inputs is not None:
            self.inputs[index] = x
        return layer(
            x,
            self.state[index],
            None if self.read_state is None else self.read_state[index],
            write=self.write,
            valid=None if self.valid is None else self.valid.to(x.device),
            spans=self.spans,
        )

    def check_reached(self, adapter: Adapter) -> None:
        """Check that no layer or projection was bypassed. Costs no device work.

        Raises:
            InertAdapterError: One was.
        """
        missing = [index for index in adapter.layer_indices if index not in self.after]
        wanted = len(adapter.layer_indices) * len(adapter.config.corrections)
        if missing or self.steered != wanted:
            where = f"layers {missing}" if missing else f"{wanted - self.steered} of {wanted} corrected projections"
            raise InertAdapterError(
                f"the forward did not pass through {where} of the attached adapter; something replaced those modules "
                "or calls their weights directly: detach, undo that, and attach again"
            )

    def unwritten(self) -> Tensor:
        """Scalar bool on the device: tokens should have been written, and every state is zero before and after.

        A state that is not zero may rightly stay the same: repeating one text leads to a fixed point.
        """
        intended = self.valid if self.spans is None else self.spans.mask
        same = [(self.after[index].eq(0) & self.state[index].eq(0)).all() for index in self.after]
        device = same[0].device
        verdict = torch.stack([each.to(device) for each in same]).all()
        return verdict if intended is None else verdict & intended.any().to(device)


@dataclass(slots=True)
class Frame:
    """A caller's setup, and its current state.

    Args:
        state: By layer number; None for the zero state, with as many rows as the input has.
        stop_ids: For bound writes only: ids after which a generated row is finished.
        inputs: See `Pass`.
    """

    owner: object
    adapter: Adapter
    state: dict[int, Tensor] | None
    read_state: dict[int, Tensor] | None
    write: bool
    bound: bool
    message_ids: Tensor | None = None
    sentence_ids: Tensor | None = None
    stop_ids: Tensor | None = None
    inputs: dict[int, Tensor] | None = None
    finished: Tensor | None = None
    passes: int = 0
    last: Pass | None = None

    def begin(self, inputs: Mapping[str, Any]) -> Pass | None:
        """Start a pass from the decoder's arguments; None if it would read only zeros.

        Raises:
            ConfigError: Span ids are incomplete or have another shape.
            StateMismatchError: The state has another number of rows, or the mask does not fit.
            UnsupportedModelError: The mask has an unsupported form.
        """
        tokens = tokens_of(inputs)
        if tokens is None:
            return None
        return self.start(tokens, validity(inputs), inputs.get("input_ids"))

    def start(self, tokens: Tensor, valid: Tensor | None, input_ids: Tensor | None) -> Pass | None:
        """Start a pass like `begin`, with known validity.

        Args:
            tokens: [B, T] or [B, T, D], with the input's shape and device.
            valid: [B, T] bool; None if every token is real.
            input_ids: [B, T], to detect rows that have ended; None if there are none.
        """
        batch, length = tokens.shape[:2]
        if self.state is None and not self.write and not torch.is_grad_enabled() and self.read_state is None:
            return None
        state = by_layer(self.adapter, self.adapter.zero_state(batch)) if self.state is None else self.state
        if self.bound and self.write:
            valid = self._without_finished(input_ids, valid)
        spans = None
        if self.write:
            config = self.adapter.config
            shape = (batch, length)
            spans = plan_spans(config.write, self.message_ids, self.sentence_ids, valid, shape, tokens.device)
        return Pass(
            state=self._rows(state, batch),
            read_state=None if self.read_state is None else self._rows(self.read_state, batch),
            write=self.write,
            batch=batch,
            valid=valid,
            spans=spans,
            differentiable=torch.is_grad_enabled(),
            inputs=self.inputs,
        )

    def commit(self, done: Pass) -> None:
        """Take over the state that a successful pass left."""
        if done.write:
            self.state = {index: done.after[index] for index in self.adapter.layer_indices}
        self.last = done
        self.passes += 1

    def _rows(self, state: dict[int, Tensor], batch: int) -> dict[int, Tensor]:
        """``state`` with one row per input row; in reads, beams and returned sequences share their prompt's row."""
        rows = next(iter(state.values())).shape[0]
        if rows == batch:
            return state
        if self.bound and not self.write and batch % rows == 0:
            return {index: tensor.repeat_interleave(batch // rows, dim=0) for index, tensor in state.items()}
        raise StateMismatchError(
            f"state has {rows} rows, the input {batch}; give one row each"
            + (" (beam search and several sequences a prompt cannot write)" if self.bound and self.write else "")
        )

    def _without_finished(self, tokens: Tensor | None, valid: Tensor | None) -> Tensor | None:
        """Validity without the rows that generation has ended, which it keeps feeding with a mask of ones."""
        if self.stop_ids is None or tokens is None or self.passes == 0 or tokens.shape[1] != 1:
            return valid
        stopped = torch.isin(tokens[:, 0], self.stop_ids.to(tokens.device))
        self.finished = stopped if self.finished is None else self.finished | stopped
        going = ~self.finished.unsqueeze(1)
        return going if valid is None else valid & going


def tokens_of(inputs: Mapping[str, Any]) -> Tensor | None:
    """The decoder argument with the input's shape and device: ids [B, T], or embeddings [B, T, D]."""
    ids: Tensor | None = inputs.get("input_ids")
    return inputs.get("inputs_embeds") if ids is None else ids


def validity(inputs: Mapping[str, Any]) -> Tensor | None:
    """Validity [B, T] of the decoder's tokens from its arguments; None if all are valid, or there are none."""
    tokens = tokens_of(inputs)
    if tokens is None:
        return None
    batch, length = tokens.shape[:2]
    return token_validity(inputs.get("attention_mask"), inputs.get("past_key_values"), batch, length, tokens.device)


def by_layer(adapter: Adapter, state: Mapping[str, Tensor]) -> dict[int, Tensor]:
    """A state by layer number, each tensor on its layer's device."""
    return {index: state[state_key(index)].to(adapter.layer(index).memory.device) for index in adapter.layer_indices}


def by_key(state: Mapping[int, Tensor]) -> dict[str, Tensor]:
    """A state by module name."""
    return {state_key(index): tensor for index, tensor in state.items()}
