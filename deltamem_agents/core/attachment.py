"""An adapter attached to a model: forwards that take and return states, states bound around `generate`, and detach."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary, ref

import torch
from torch import Tensor, nn

from deltamem_agents import arguments
from deltamem_agents.core.adapter import Adapter, place, placed
from deltamem_agents.core.families import inspect_backbone
from deltamem_agents.core.forward_pass import Frame, Pass, by_key, by_layer
from deltamem_agents.core.hooks import Hooks, opened
from deltamem_agents.core.spans import SpanPlan
from deltamem_agents.core.state import State, select_state, validate_state
from deltamem_agents.errors import AdapterMismatchError, ClosedError, InertAdapterError
from deltamem_agents.processes import ProcessLock

_lock = ProcessLock()
_attached: WeakKeyDictionary[nn.Module, ref[Attached]] = WeakKeyDictionary()


class Bound:
    """The states in effect inside ``Attached.bind``."""

    def __init__(self, frame: Frame) -> None:
        self._frame = frame

    @property
    def state(self) -> State | None:
        """The current state, batched, by module name; None before the first input if it began as the zero state."""
        return None if self._frame.state is None else by_key(self._frame.state)


class Written(NamedTuple):
    """What `Attached.write` did.

    Args:
        state: The state after it, batched, by module name.
        inputs: Each layer's input [B, T, D], by layer number.
        spans: The spans that were written; None if every token was.
    """

    state: State
    inputs: dict[int, Tensor]
    spans: SpanPlan | None


class Attached:
    """An adapter on a model; made by `attach`. Thread-safe: each thread runs its own forward.

    Raises:
        ConfigError: ``adapter`` is not an `Adapter`.
        UnsupportedModelError: The model's family is unknown.
        AdapterMismatchError: The adapter is for another backbone, or the model already carries one.
    """

    def __init__(self, model: nn.Module, adapter: Adapter) -> None:
        arguments.instance(adapter, "adapter", Adapter)
        backbone = inspect_backbone(model)
        adapter.check_fits(backbone)
        with _lock:
            earlier = _attached.get(backbone.decoder)
            if earlier is not None and earlier() is not None:
                raise AdapterMismatchError("this model has an adapter attached; detach it first, a model carries one")
            place(adapter, backbone)
            self.model = model
            self.adapter = adapter
            self.keys = adapter.keys
            self._backbone = backbone
            with torch.inference_mode(False):
                self._hooks: Hooks | None = Hooks(model, backbone, adapter, self._ended)
            self._trainable = [each for each in model.parameters() if each.requires_grad]
            for parameter in self._trainable:
                parameter.requires_grad_(False)
            self._doubts: deque[tuple[Tensor, torch.cuda.Event | None]] = deque()
            _attached[backbone.decoder] = ref(self)

    def forward(
        self,
        state: Mapping[str, Tensor] | None = None,
        read_state: Mapping[str, Tensor] | None = None,
        write: bool = True,
        message_ids: Tensor | None = None,
        sentence_ids: Tensor | None = None,
        **model_kwargs: Any,
    ) -> tuple[Any, State]:
        """Run the model once with a state.

        Args:
            state: Module name to [B, R, R] or [B, H, R, R] float32; None for the zero state. Not changed.
            read_state: The state before the segment, which span writes and read-only forwards read instead. Token
                writes read the running state and ignore it.
            write: Whether the tokens are written. If not, no scan runs.
            message_ids: [B, T] span of each token for sentence and message adapters, −1 for none; token adapters
                ignore ids. Without any ids such adapters write per token. Keep them on the CPU, which is faster.
            sentence_ids: Likewise.
            model_kwargs: The model's own arguments (``input_ids``, ``attention_mask``, ``past_key_values``, …). A row
                whose mask is 0 for a token does not write it.

        Returns:
            The model's output, and the state after it (the given one if nothing is written). Differentiable with
            respect to the adapter's parameters and the given state.

        Raises:
            StateMismatchError: The state belongs to another adapter or batch size, or the mask does not fit.
            ConfigError: Span ids are incomplete or have another shape.
            UnsupportedModelError: The mask is a FlexAttention block mask, or gradient checkpointing is reentrant.
            InertAdapterError: The forward bypassed the adapter, or should have written and left zeros (on a GPU
                this is raised by a later call, as checking at once would wait for the device).
            ClosedError: The adapter was detached.
        """
        frame = self._frame(state, read_state, write=write, bound=False)
        frame.message_ids, frame.sentence_ids = message_ids, sentence_ids
        with opened(frame):
            output = self.model(**model_kwargs)
        if frame.last is None and (write or state is not None):
            raise _bypassed()
        if frame.state is None:
            return output, self.adapter.zero_state(self._batch(model_kwargs))
        return output, by_key(frame.state)

    def write(self, state: State, input_ids: Tensor, message_ids: Tensor, sentence_ids: Tensor) -> Written:
        """Write tokens as `forward` does, and keep what each layer saw.

        Raises:
            StateMismatchError, ConfigError, InertAdapterError, ClosedError: As for `forward`.
        """
        frame = self._frame(state, None, write=True, bound=False)
        frame.message_ids, frame.sentence_ids = message_ids, sentence_ids
        frame.inputs = {}
        with opened(frame):
            self.model(input_ids=input_ids, use_cache=False, logits_to_keep=1)
        if frame.last is None or frame.state is None:
            raise _bypassed()
        return Written(by_key(frame.state), frame.inputs, frame.last.spans)

    @contextmanager
    def bind(
        self,
        states: Mapping[str, Tensor] | None,
        slots: Tensor | Sequence[int] | None = None,
        write: bool = False,
        *,
        eos_token_id: int | Sequence[int] | None = None,
    ) -> Iterator[Bound]:
        """Apply states to forwards that other code runs in this thread or task, such as ``model.generate``.

        Args:
            states: As in `forward`; with ``slots``, a pool of P rows.
            slots: [B] row of the pool for each input row; −1 is the zero state.
            write: Whether tokens are written; `Bound.state` is then the state so far. In generation, a row that has
                produced an end-of-sequence or padding token writes nothing more. Beam search cannot write.
            eos_token_id: Tokens that end a row; by default, those of the model's generation config.

        Raises:
            StateMismatchError: The state belongs to another adapter, or, inside, lacks a row for an input row.
            ClosedError: The adapter was detached.
        """
        chosen = select_state(states, slots) if states is not None and slots is not None else states
        frame = self._frame(chosen, None, write=write, bound=True)
        if write:
            frame.stop_ids = self._stop_ids(eos_token_id)
        with opened(frame):
            yield Bound(frame)

    @property
    def device(self) -> torch.device:
        """Device of the first adapted layer."""
        return self.adapter.layer(self.adapter.layer_indices[0]).memory.device

    def zero_state(self, batch: int) -> State:
        """A batched state of agents without any messages."""
        return self.adapter.zero_state(batch)

    def check(self) -> None:
        """Wait for the device and check past forwards.

        Raises:
            InertAdapterError: A past forward should have written and did not.
        """
        self._settle(wait=True)

    def detach(self) -> None:
        """Remove the adapter; the model is as before, bit for bit. Detaching again does nothing.

        What others have put on the model since stays, also where it replaced or wraps a module of the adapter's.
        """
        with _lock:
            if self._hooks is None:
                return
            self._hooks.remove()
            self._hooks = None
            _attached.pop(self._backbone.decoder, None)
            for parameter in self._trainable:
                parameter.requires_grad_(True)
            self._trainable = []

    def _frame(
        self,
        state: Mapping[str, Tensor] | None,
        read_state: Mapping[str, Tensor] | None,
        *,
        write: bool,
        bound: bool,
    ) -> Frame:
        if self._hooks is None:
            raise ClosedError("this adapter was detached; attach it again")
        self._settle(wait=False)
        if not torch.compiler.is_compiling() and not placed(self.adapter, self._backbone):
            place(self.adapter, self._backbone)
        found: list[dict[int, Tensor] | None] = []
        for given in (state, read_state):
            if given is not None:
                validate_state(given, self.keys, self.adapter.config.state_shape)
            found.append(None if given is None else by_layer(self.adapter, given))
        return Frame(self._hooks, self.adapter, found[0], found[1], write, bound)

    def _ended(self, frame: Frame, done: Pass) -> None:
        """Handle the end of a successful decoder run."""
        done.check_reached(self.adapter)
        if done.write:
            self._doubt(done)
        frame.commit(done)

    def _doubt(self, done: Pass) -> None:
        """Check that a zero state did not stay zero: at once on a CPU, on a GPU when the device has got that far."""
        first = self.adapter.layer_indices[0]
        with torch.no_grad():
            if torch.compiler.is_compiling():
                self._doubts.append((done.unwritten(), None))  # checked by the next call
                return
            if done.after[first].device.type != "cuda":
                if not done.after[first].any() and bool(done.unwritten()):
                    raise _inert()
                return
            if torch.cuda.is_current_stream_capturing():
                return  # a graph has no result to check yet, and may allocate nothing on the host
            verdict = torch.empty((), dtype=torch.bool, device="cpu", pin_memory=True)
            unwritten = done.unwritten()
            verdict.copy_(unwritten, non_blocking=True)
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            # The copy runs on the stream of the tensor's device, which need not be the current one.
            event.record(torch.cuda.current_stream(unwritten.device))
            self._doubts.append((verdict, event))

    def _settle(self, *, wait: bool) -> None:
        while self._doubts and not torch.compiler.is_compiling():
            with _lock:
                if not self._doubts:
                    return
                verdict, event = self._doubts[0]
                if event is not None and not wait and not event.query():  # type: ignore[no-untyped-call]
                    return
                self._doubts.popleft()
            if event is not None:
                event.synchronize()
            if bool(verdict):
                raise _inert()

    def _stop_ids(self, given: int | Sequence[int] | None) -> Tensor | None:
        config = getattr(self.model, "generation_config", None)
        ids: list[int] = []
        for each in (getattr(config, "eos_token_id", None) if given is None else given, _pad(config)):
            ids += [] if each is None else [each] if isinstance(each, int) else [int(one) for one in each]
        device = self.adapter.layer(self.adapter.layer_indices[0]).memory.device
        return torch.tensor(ids, device=device) if ids else None

    @staticmethod
    def _batch(model_kwargs: Mapping[str, Any]) -> int:
        tokens = model_kwargs.get("input_ids")
        return int((model_kwargs["inputs_embeds"] if tokens is None else tokens).shape[0])


def attach(model: nn.Module, adapter: Adapter) -> Attached:
    """Attach an adapter to a loaded causal LM; the model's parameters are frozen until `Attached.detach`.

    The adapted attention modules and their projections are wrapped in place, see ``wrappers``. The model's state dict
    and the names of its modules and parameters stay as they are. A copy or a pickle of the model is one of the backbone
    alone, without the adapter. PEFT's adapters and the wrappers and hooks of others may be added before or after, and
    removed in any order.

    Raises:
        ConfigError: ``adapter`` is not an `Adapter`.
        UnsupportedModelError: The model's family is unknown.
        AdapterMismatchError: The adapter is for another width, depth or family, or the model already carries one.
    """
    return Attached(model, adapter)


def _pad(config: object) -> int | None:
    pad = getattr(config, "pad_token_id", None)
    return pad if isinstance(pad, int) else None


def _bypassed() -> InertAdapterError:
    return InertAdapterError(
        "the model's forward did not run the decoder the adapter is attached to; detach and attach again"
    )


def _inert() -> InertAdapterError:
    return InertAdapterError(
        "the attached adapter was to write and left a state of zeros as it was; its value projection or gates "
        "are zero, or its file is damaged: train it, or load it again"
    )
