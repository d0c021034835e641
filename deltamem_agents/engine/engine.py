"""`Engine`: one backbone with its adapter as a service for many agents. Folds segments, generates and scores.

One thread runs the model, in batches of whatever many callers ask for; callers get futures, so that no caller's thread
or event loop is blocked unless it chooses to wait. States come and go as plain float32 tensors on the CPU, without a
batch axis; what one agent computes does not depend on who else is there.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future

from deltamem_agents.core import State, attach, backbone_fingerprint, unstack_states
from deltamem_agents.engine.generation import Cancellation, Generation, Sampling
from deltamem_agents.engine.hot import HotSegments
from deltamem_agents.engine.loading import Loaded
from deltamem_agents.engine.pool import check_state
from deltamem_agents.engine.rendering import Rendering
from deltamem_agents.engine.requests import AgentKey, Fold, Generate, Score, StateKey
from deltamem_agents.engine.scheduler import Limits, Scheduler
from deltamem_agents.engine.segments import Segment
from deltamem_agents.engine.statistics import Stats
from deltamem_agents.errors import ContextLengthError

HOT_BYTES = 256 << 20  # of keys and values of open segments that are kept
CPU_LIMITS = Limits(chunk=64, batch=4096)
GPU_LIMITS = Limits(chunk=2048, batch=65_536)
_NOBODY: StateKey = (AgentKey(None, "", 0), 0)  # the zero state


class Engine:
    """A loaded backbone with its adapter attached; see `loading.load`.

    Args:
        limits: How much runs at once; by default what suits the device.
        hot_bytes: For keys and values of open segments, so that appending runs the new tokens only; 0 keeps none.

    Raises:
        UnsupportedModelError: The backbone's family or chat format is unknown.
        AdapterMismatchError: The adapter was trained for another backbone, or the model carries one already.
    """

    def __init__(self, loaded: Loaded, *, limits: Limits | None = None, hot_bytes: int = HOT_BYTES) -> None:
        self.name = loaded.name
        self.tokenizer = loaded.tokenizer
        self.rendering = Rendering(loaded.tokenizer)
        self.config = loaded.adapter.config
        self.calibration = loaded.adapter.calibration
        self._model = loaded.model
        self._attached = attach(loaded.model, loaded.adapter)
        facts = (
            loaded.adapter.fingerprint(),
            backbone_fingerprint(loaded.model, loaded.tokenizer),
            self.rendering.facts(sentences=self.config.write == "sentence"),
        )
        self.fingerprint = hashlib.sha256("\n".join(facts).encode()).hexdigest()
        self._zero = unstack_states(self._attached.zero_state(1))[0]
        self._zero = {name: tensor.cpu() for name, tensor in self._zero.items()}
        self.hot = HotSegments(hot_bytes)
        if limits is None:
            limits = GPU_LIMITS if self._attached.device.type == "cuda" else CPU_LIMITS
        self._scheduler = Scheduler(self._attached, loaded.tokenizer, self._ends, limits, self.hot)

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

    def check(self, state: State, agent: str | None = None) -> None:
        """Raise StateMismatchError for a state that is another adapter's, or not finite."""
        check_state(state, self._zero, agent)

    def zero_state(self) -> State:
        """The state of an agent that was told nothing."""
        return {name: tensor.clone() for name, tensor in self._zero.items()}

    def fold(
        self,
        state: State | None,
        segments: Sequence[Segment],
        *,
        open_for: AgentKey | None = None,
        timeout: float | None = None,
        wait: bool = True,
    ) -> Future[list[State]]:
        """Write segments one after another, each in a causal context of its own.

        Args:
            open_for: Whose last segment may go on: it stays hot, and where the first one goes on from
                what is hot, only its new tokens run.
            timeout: Seconds until it fails with EngineTimeoutError, waiting included; None for none.
            wait: Whether to wait where the queue is full.

        Returns:
            The state after each segment.

        Raises:
            StateMismatchError: The state is another adapter's, or not finite.
            InertAdapterError: The adapter wrote nothing.
            EngineBusyError: The queue is full.
        """
        before = self._checked(state, open_for.agent if open_for else None)
        request = Fold(state=before, segments=list(segments), open_for=open_for, deadline=_after(timeout))
        if request.segments:
            self._scheduler.submit(request, wait=wait)
        else:
            request.answer.set_result([])
        return request.answer

    def generate(
        self,
        prompt: Sequence[int],
        state: State | None = None,
        key: StateKey | None = None,
        *,
        sampling: Sampling | None = None,
        on_text: Callable[[str], None] | None = None,
        cancellation: Cancellation | None = None,
        timeout: float | None = None,
        wait: bool = True,
    ) -> Future[Generation]:
        """Continue a prompt under a state, which is read and not written.

        Args:
            prompt: Token ids.
            state: None is the zero state.
            key: Names the state: it then stays on the device for the next request.
            on_text: Called in the engine's thread with each piece of text as it comes.
            timeout: Seconds until it fails with EngineTimeoutError, waiting included; None for none.
            wait: Whether to wait where the queue is full.

        Raises:
            ContextLengthError: Prompt and answer do not fit the window.
            StateMismatchError: The state is another adapter's, or not finite.
            EngineBusyError: The queue is full.
        """
        chosen = sampling or Sampling()
        if not prompt:
            raise ContextLengthError("the prompt is empty; give at least one token")
        if len(prompt) + chosen.max_tokens > self.window:
            raise ContextLengthError(
                f"a prompt of {len(prompt)} tokens and {chosen.max_tokens} new ones exceed the window of {self.name}, "
                f"{self.window}; shorten the messages, recall fewer records, or lower max_tokens"
            )
        request = Generate(
            ids=list(prompt),
            state=self._checked(state, key[0].agent if key else None),
            sampling=chosen,
            key=_NOBODY if state is None else key,
            on_text=on_text,
            prompt_tokens=len(prompt),
            deadline=_after(timeout),
            cancellation=cancellation or Cancellation(),
        )
        self._scheduler.submit(request, wait=wait)
        return request.answer

    def score(
        self,
        items: Sequence[tuple[Sequence[int], State | None]],
        answer: Sequence[int],
        *,
        timeout: float | None = None,
        wait: bool = True,
    ) -> Future[list[float]]:
        """How likely an answer is after each prompt and under each state: its tokens' mean log-probability.

        All items run in one padded batch.
        """
        checked = [(list(prompt), self._checked(state)) for prompt, state in items]
        request = Score(items=checked, ids=list(answer), deadline=_after(timeout))
        self._scheduler.submit(request, wait=wait)
        return request.answer

    def forget(self, owner: Hashable, agent: str) -> None:
        """Drop keys and values that are held of an agent. Its states on the device are never asked for again."""
        self.hot.drop(owner, agent)

    def stats(self) -> Stats:
        """What the engine has done and is doing."""
        scheduler = self._scheduler
        batch, rate, first = scheduler.counters.rates()
        return Stats(
            waiting=scheduler.waiting,
            generating=scheduler.generating,
            answered=scheduler.counters.answers,
            batch=batch,
            tokens_per_second=rate,
            first_token_seconds=first,
            tokens_read=scheduler.counters.tokens_read,
            slots=scheduler.pool.slots,
            slots_used=scheduler.pool.used,
            evictions=scheduler.pool.evictions,
            pool_bytes=scheduler.pool.bytes,
            hot_bytes=self.hot.bytes,
        )

    def close(self) -> None:
        """Finish the step under way, fail what is waiting, take the adapter off; calling it again does nothing."""
        self._scheduler.close()
        self._attached.detach()

    def _checked(self, state: State | None, agent: str | None = None) -> State:
        if state is None:
            return self._zero
        check_state(state, self._zero, agent)
        return state

    def _ends(self) -> set[int]:
        ends = self._model.generation_config.eos_token_id if self._model.generation_config else None
        ends = ends if ends is not None else self.tokenizer.eos_token_id
        return set(ends) if isinstance(ends, list) else {ends} if ends is not None else set()


def _after(timeout: float | None) -> float | None:
    return None if timeout is None else time.monotonic() + timeout
