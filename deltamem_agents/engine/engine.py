"""`Engine`: one backbone with its adapter as a service. Folds segments into states, generates and scores under them.

One thread runs the model; callers get futures, so that no caller's thread or event loop is blocked unless it chooses to
wait. States come and go as plain float32 tensors on the CPU, without a batch axis.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar, cast

import torch
from transformers import DynamicCache

from deltamem_agents.core import State, attach, backbone_fingerprint, stack_states, unstack_states
from deltamem_agents.engine.generation import CallbackStreamer, Cancellation, Generation, Sampling, without_stop
from deltamem_agents.engine.hot import HotSegment, HotSegments
from deltamem_agents.engine.loading import Loaded
from deltamem_agents.engine.rendering import Rendering
from deltamem_agents.engine.segments import Segment
from deltamem_agents.errors import ClosedError, ContextLengthError, StateMismatchError

P = ParamSpec("P")
T = TypeVar("T")

HOT_BYTES = 256 << 20  # of keys and values of open segments that are kept


class Engine:
    """A loaded backbone with its adapter attached; see `loading.load`.

    Args:
        hot_bytes: For keys and values of open segments, so that appending runs the new tokens only; 0 keeps none.

    Raises:
        UnsupportedModelError: The backbone's family or chat format is unknown.
        AdapterMismatchError: The adapter was trained for another backbone, or the model carries one already.
    """

    def __init__(self, loaded: Loaded, *, hot_bytes: int = HOT_BYTES) -> None:
        self.name = loaded.name
        self.tokenizer = loaded.tokenizer
        self.rendering = Rendering(loaded.tokenizer)
        self.config = loaded.adapter.config
        self._model = loaded.model
        self._generator: Callable[..., torch.Tensor] = cast(Any, loaded.model).generate
        self._attached = attach(loaded.model, loaded.adapter)
        facts = (
            loaded.adapter.fingerprint(),
            backbone_fingerprint(loaded.model, loaded.tokenizer),
            self.rendering.facts(),
        )
        self.fingerprint = hashlib.sha256("\n".join(facts).encode()).hexdigest()
        self._zero = unstack_states(self._attached.zero_state(1))[0]
        self.hot = HotSegments(hot_bytes)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="deltamem-engine")
        self._closed = False

    @property
    def window(self) -> int:
        """The most tokens of prompt and answer together."""
        return int(self._model.config.get_text_config().max_position_embeddings)

    @property
    def state_bytes(self) -> int:
        """Size of one agent's state."""
        return sum(tensor.numel() * 4 for tensor in self._zero.values())

    def count(self, text: str) -> int:
        """Tokens of a text."""
        return len(self.tokenizer.encode(text, add_special_tokens=False)) if text else 0

    def zero_state(self) -> State:
        """The state of an agent that was told nothing."""
        return {name: tensor.clone() for name, tensor in self._zero.items()}

    def fold(
        self, state: State | None, segments: Sequence[Segment], *, open_for: tuple[Hashable, int] | None = None
    ) -> Future[list[State]]:
        """Write segments one after another, each in a causal context of its own.

        Args:
            open_for: Agent and epoch whose last segment may go on: it stays hot, and where the first one goes on from
                what is hot, only its new tokens run.

        Returns:
            The state after each segment.

        Raises:
            StateMismatchError: The state is another adapter's, or not finite.
            InertAdapterError: The adapter wrote nothing.
        """
        return self._submit(self._fold, state, list(segments), open_for)

    def generate(
        self,
        prompt: Sequence[int],
        state: State | None = None,
        sampling: Sampling | None = None,
        *,
        on_text: Callable[[str], None] | None = None,
        cancellation: Cancellation | None = None,
    ) -> Future[Generation]:
        """Continue a prompt under a state, which is read and not written.

        Args:
            prompt: Token ids.
            state: None is the zero state.
            on_text: Called in the engine's thread with each piece of text as it comes.

        Raises:
            ContextLengthError: Prompt and answer do not fit the window.
            StateMismatchError: The state is another adapter's.
        """
        chosen = sampling or Sampling()
        if not prompt:
            raise ContextLengthError("the prompt is empty; give at least one token")
        if len(prompt) + chosen.max_tokens > self.window:
            raise ContextLengthError(
                f"a prompt of {len(prompt)} tokens and {chosen.max_tokens} new ones exceed the window of {self.name}, "
                f"{self.window}; shorten the messages, recall fewer records, or lower max_tokens"
            )
        return self._submit(self._generate, list(prompt), state, chosen, on_text, cancellation)

    def score(self, items: Sequence[tuple[Sequence[int], State | None]], answer: Sequence[int]) -> Future[list[float]]:
        """How likely an answer is after each prompt and under each state: its tokens' mean log-probability.

        All items run in one padded forward.
        """
        return self._submit(self._score, [(list(prompt), state) for prompt, state in items], list(answer))

    def close(self) -> None:
        """Finish what is under way, take the adapter off the model; calling it again does nothing."""
        self._closed = True
        self._thread.shutdown(wait=True)
        self._attached.detach()

    def _submit(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        if self._closed:
            raise ClosedError("this DeltaMem was closed; open it again")
        return self._thread.submit(function, *args, **kwargs)

    @torch.inference_mode()
    def _fold(self, state: State | None, segments: list[Segment], open_for: tuple[Hashable, int] | None) -> list[State]:
        current = self._batched([state])
        states: list[State] = []
        for number, segment in enumerate(segments):
            hot = self.hot.take(*open_for) if open_for and number == 0 else None
            if hot is not None and not hot.begins(current, segment.ids):
                hot = None
            goes_on = open_for is not None and self.hot.enabled and number == len(segments) - 1
            cache = hot.cache if hot else DynamicCache(config=self._model.config) if goes_on else None
            before, current = current, self._write(current, segment, hot, cache)
            states.append(_to_cpu(unstack_states(current)[0]))
            if goes_on and open_for is not None and cache is not None:
                agent, epoch = open_for
                self.hot.put(agent, HotSegment(epoch, list(segment.ids), before, current, cache))
        self._attached.check()
        return states

    def _write(self, before: State, segment: Segment, hot: HotSegment | None, cache: DynamicCache | None) -> State:
        """The state after a segment; of a hot one only what is new runs."""
        done = len(hot.ids) if hot else 0
        if hot is not None and done == len(segment.ids):
            return hot.after
        device, spans = self._model.device, self.config.write != "token"
        ids = torch.tensor([segment.ids[done:]], device=device)
        _, after = self._attached.forward(
            state=hot.after if hot else before,
            # Where spans are written, every token of a segment reads the state from before the segment.
            read_state=before if hot and spans else None,
            write=True,
            input_ids=ids,
            attention_mask=torch.ones(1, len(segment.ids), dtype=torch.int64, device=device),
            message_ids=torch.tensor([segment.messages[done:]]) if spans else None,
            sentence_ids=torch.tensor([segment.sentences[done:]]) if spans else None,
            use_cache=cache is not None,
            past_key_values=cache,
            logits_to_keep=1,
        )
        return after

    @torch.inference_mode()
    def _generate(
        self,
        prompt: list[int],
        state: State | None,
        sampling: Sampling,
        on_text: Callable[[str], None] | None,
        cancellation: Cancellation | None,
    ) -> Generation:
        started = time.perf_counter()
        streamer = CallbackStreamer(self.tokenizer, sampling.stop, on_text)
        ids = torch.tensor([prompt], device=self._model.device)
        arguments: dict[str, Any] = sampling.arguments(self.tokenizer)
        if cancellation is not None:
            arguments["stopping_criteria"] = [cancellation]
        with torch.random.fork_rng(enabled=sampling.seed is not None), self._attached.bind(self._batched([state])):
            if sampling.seed is not None:
                torch.manual_seed(sampling.seed)
            output = self._generator(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                streamer=streamer,
                pad_token_id=self._pad(),
                **arguments,
            )
        ended = time.perf_counter()
        answer = output[0, len(prompt) :].tolist()
        text = str(self.tokenizer.decode(answer, skip_special_tokens=True))
        return Generation(
            text=without_stop(text, sampling.stop).strip(),
            ids=tuple(answer),
            prompt_tokens=len(prompt),
            first_token_seconds=(streamer.first_token or ended) - started,
            seconds=ended - started,
            finished=bool(answer) and (answer[-1] in self._ends() or any(each in text for each in sampling.stop)),
        )

    @torch.inference_mode()
    def _score(self, items: list[tuple[list[int], State | None]], answer: list[int]) -> list[float]:
        longest = max(len(prompt) for prompt, _ in items) + len(answer)
        device = self._model.device
        ids = torch.full((len(items), longest), self._pad(), device=device)
        mask = torch.zeros_like(ids)
        for row, (prompt, _) in enumerate(items):
            tokens = [*prompt, *answer]
            ids[row, longest - len(tokens) :] = torch.tensor(tokens, device=device)
            mask[row, longest - len(tokens) :] = 1
        output, _ = self._attached.forward(
            state=self._batched([state for _, state in items]),
            write=False,
            input_ids=ids,
            attention_mask=mask,
            use_cache=False,
            logits_to_keep=len(answer) + 1,
        )
        likely = output.logits[:, :-1].float().log_softmax(-1)
        picked = likely.gather(-1, ids[:, -len(answer) :].unsqueeze(-1)).squeeze(-1)
        return [float(each) for each in picked.mean(-1)]

    def _batched(self, states: Sequence[State | None]) -> State:
        chosen = [self._zero if state is None else state for state in states]
        for state in chosen:
            if state.keys() != self._zero.keys():
                raise StateMismatchError("the state names other modules than this adapter; fold the journal again")
        device = self._model.device
        return {name: tensor.to(device) for name, tensor in stack_states(chosen).items()}

    def _ends(self) -> set[int]:
        ends = self._model.generation_config.eos_token_id if self._model.generation_config else None
        ends = ends if ends is not None else self.tokenizer.eos_token_id
        return set(ends) if isinstance(ends, list) else {ends} if ends is not None else set()

    def _pad(self) -> int:
        pad = self.tokenizer.pad_token_id
        return pad if pad is not None else next(iter(self._ends()), 0)


def _to_cpu(state: State) -> State:
    return {name: tensor.cpu() for name, tensor in state.items()}
