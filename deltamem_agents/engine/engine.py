"""`Engine`: one backbone with its adapter as a service for many agents. Folds segments, generates and scores.

One thread runs the model and batches the requests of many callers; callers get futures, so a caller's thread or event
loop blocks only if it chooses to wait. States are passed as plain float32 tensors on the CPU, without a batch axis. The
result for one agent does not depend on which others are being served.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from weakref import WeakSet

from deltamem_agents import arguments
from deltamem_agents.core import State, attach, backbone_fingerprint, state_norm, unstack_states
from deltamem_agents.core.diagnostics import LayerHealth, examine, measure
from deltamem_agents.engine.drawing import Drawing
from deltamem_agents.engine.failures import told
from deltamem_agents.engine.generation import Cancellation, Generation, Sampling
from deltamem_agents.engine.hot import HotSegments
from deltamem_agents.engine.loading import Loaded, settle_after_fork
from deltamem_agents.engine.options import CPU_LIMITS, GPU_LIMITS, HOT_BYTES, Limits, deadline_seconds, shown, whole
from deltamem_agents.engine.pool import check_state
from deltamem_agents.engine.rendering import Rendering
from deltamem_agents.engine.requests import Fold, Generate, Score
from deltamem_agents.engine.scheduler import Scheduler
from deltamem_agents.engine.segments import AgentKey, Segment, StateKey
from deltamem_agents.engine.statistics import Stats
from deltamem_agents.errors import ConfigError, ContextLengthError
from deltamem_agents.processes import check_process

_made: WeakSet[Engine] = WeakSet()
_NOBODY: StateKey = (AgentKey(None, "", 0), 0)  # the zero state


class Engine:
    """A loaded backbone with its adapter attached; see `loading.load`.

    Args:
        limits: How much runs at once; by default, limits that suit the device.
        hot_bytes: Budget for keys and values of open segments, so that appending runs only the new tokens; 0 for none.

    Raises:
        UnsupportedModelError: The backbone's family or chat format is unknown.
        AdapterMismatchError: The adapter was trained for another backbone, or the model carries one already.
        ChatTemplateError: The chat template fails on a plain dialogue, is not allowed, or takes too long.
        ConfigError: ``hot_bytes`` is not a number of bytes, or the device has too little memory for the states.
    """

    def __init__(self, loaded: Loaded, *, limits: Limits | None = None, hot_bytes: int = HOT_BYTES) -> None:
        settle_after_fork()
        self.name = loaded.name
        self.tokenizer = loaded.tokenizer
        self.rendering = Rendering(loaded.tokenizer)
        self._end = set(self.rendering.end())
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
        if limits is None:
            limits = GPU_LIMITS if self._attached.device.type == "cuda" else CPU_LIMITS
        self._vocabulary = _rows_of(loaded.model.get_input_embeddings(), len(loaded.tokenizer))
        try:
            self.hot = HotSegments(whole("hot_bytes", hot_bytes, 0, 1 << 50))
            self._scheduler = Scheduler(self._attached, loaded.tokenizer, self._ends, limits, self.hot)
        except BaseException:
            self._attached.detach()
            raise
        _made.add(self)

    @property
    def failure(self) -> str | None:
        """Why the engine has stopped by itself; None while it runs."""
        return self._scheduler.failure

    @property
    def usable(self) -> bool:
        """Whether it takes requests: it was opened in this process, and has neither failed nor been closed."""
        return self._scheduler.usable

    @property
    def window(self) -> int:
        """Maximum number of tokens in prompt and answer together."""
        return int(self._model.config.get_text_config().max_position_embeddings)

    @property
    def state_bytes(self) -> int:
        """Size of one agent's state, in bytes."""
        return sum(tensor.numel() * 4 for tensor in self._zero.values())

    def count(self, text: str) -> int:
        """Number of tokens in a text.

        Raises:
            ConfigError: ``text`` is not a string.
        """
        if not isinstance(text, str):
            raise ConfigError(f"text is {shown(text)}; give a string")
        plain = text.encode("utf-8", "replace").decode()  # no tokenizer accepts lone surrogates
        return len(self.tokenizer.encode(plain, add_special_tokens=False)) if plain else 0

    def norm(self, state: State) -> float:
        """Norm of all of a state's matrices together; it measures how full the state is, see `core.calibration`."""
        return state_norm(state)

    def check(self, state: State, agent: str | None = None) -> None:
        """Check a state.

        Raises:
            StateMismatchError: The state belongs to another adapter, or is not finite.
        """
        check_state(state, self._zero, agent)

    def zero_state(self) -> State:
        """The state of an agent without any messages."""
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
        """Write segments one after another, each in its own causal context.

        Args:
            open_for: Agent whose last segment may continue: it stays hot, and if the first segment continues a hot one,
                only its new tokens run.
            timeout: Seconds until the future fails with EngineTimeoutError, waiting included; None for no limit.
            wait: Whether to wait while the queue is full.

        Returns:
            The state after each segment.

        Raises:
            StateMismatchError: The state belongs to another adapter, or is not finite.
            InertAdapterError: From the future: the adapter wrote nothing.
            ConfigError: A segment has no tokens or token ids unknown to the backbone, or another argument is invalid.
            EngineBusyError: The queue is full.
            EngineFailedError, ForkedError, ClosedError: The engine takes no requests; see `Scheduler.check`.
        """
        self._scheduler.check()
        deadline = _after(timeout)
        arguments.instance(open_for, "open_for", AgentKey, optional=True)
        _check_key(open_for)
        if isinstance(segments, str) or not isinstance(segments, Sequence):
            raise ConfigError(f"segments are {shown(segments)}; give a list of segments")
        for each in segments:
            arguments.instance(each, "one of segments", Segment)
        for segment in segments:
            self._check_ids("a segment", segment.ids)
            if not len(segment.ids) == len(segment.messages) == len(segment.sentences):
                raise ConfigError("a segment needs one message and one sentence for each of its tokens; use cut")
        before = self._checked(state, open_for.agent if open_for else None)
        request = Fold(state=before, segments=list(segments), open_for=open_for, deadline=deadline)
        if request.segments:
            self._scheduler.submit(request, wait=arguments.flag(wait, "wait"))
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
        """Continue a prompt with a state, which is read and not changed.

        An adapter that was trained to write while answering (`answer_writes`) writes the prompt and the answer into a
        scratch copy of the state, which is discarded with the request.

        Args:
            prompt: Token ids.
            state: None for the zero state.
            key: Names the state, which then stays on the device for the next request, unless answers write.
            on_text: Called in the engine's thread with each piece of text as it comes.
            timeout: Seconds until the future fails with EngineTimeoutError, waiting included; None for no limit.
            wait: Whether to wait while the queue is full.

        Raises:
            ContextLengthError: The prompt is empty, or prompt and answer do not fit the window.
            StateMismatchError: The state belongs to another adapter, or is not finite.
            ConfigError: The prompt holds a token id unknown to the backbone, or another argument is invalid.
            EngineBusyError: The queue is full.
            EngineFailedError, ForkedError, ClosedError: The engine takes no requests; see `Scheduler.check`.
        """
        self._scheduler.check()
        deadline = _after(timeout)
        chosen = Sampling() if sampling is None else sampling
        if not isinstance(chosen, Sampling):
            raise ConfigError(f"sampling is {shown(chosen)}; give a Sampling")
        if on_text is not None and not callable(on_text):
            raise ConfigError(f"on_text is {shown(on_text)}; give a function of a text")
        arguments.instance(cancellation, "cancellation", Cancellation, optional=True)
        if key is not None and not (isinstance(key, tuple) and len(key) == 2 and isinstance(key[0], AgentKey)):
            raise ConfigError(f"key is {shown(key)}; give an AgentKey and a position, or None")
        _check_key(key)
        if isinstance(prompt, str | bytes) or not isinstance(prompt, Sequence):
            raise ConfigError(f"the prompt is {shown(prompt)}; give a list of token ids")
        if len(prompt) == 0:
            raise ContextLengthError("the prompt is empty; give at least one token")
        if len(prompt) + chosen.max_tokens > self.window:
            raise ContextLengthError(
                f"a prompt of {len(prompt)} tokens and {chosen.max_tokens} new ones exceed the window of {self.name}, "
                f"{self.window}; shorten the messages, recall fewer records, or lower max_tokens"
            )
        self._check_ids("the prompt", prompt)
        request = Generate(
            ids=list(prompt),
            state=self._checked(state, key[0].agent if key else None),
            sampling=chosen,
            drawing=Drawing(chosen, self.tokenizer, self._attached.device, self._ends(), len(prompt)),
            key=None if self.config.answer_writes else _NOBODY if state is None else key,
            on_text=on_text,
            prompt_tokens=len(prompt),
            deadline=deadline,
            cancellation=cancellation or Cancellation(),
        )
        self._scheduler.submit(request, wait=arguments.flag(wait, "wait"))
        return request.answer

    def score(
        self,
        items: Sequence[tuple[Sequence[int], State | None]],
        answer: Sequence[int],
        *,
        timeout: float | None = None,
        wait: bool = True,
    ) -> Future[list[float]]:
        """Score an answer after each prompt and state: the mean log-probability of its tokens.

        All items run in one padded batch, read-only or on scratch copies as in `generate`.

        Raises:
            ConfigError: There are no items, a prompt or the answer is empty, or a token id is unknown to the backbone.
            StateMismatchError: A state belongs to another adapter, or is not finite.
            EngineBusyError: The queue is full.
            EngineFailedError, ForkedError, ClosedError: The engine takes no requests; see `Scheduler.check`.
        """
        self._scheduler.check()
        deadline = _after(timeout)
        if isinstance(items, str | bytes) or not isinstance(items, Sequence):
            raise ConfigError(f"items are {shown(items)}; give a list of pairs of prompt and state")
        if not all(isinstance(each, tuple) and len(each) == 2 for each in items):
            raise ConfigError(f"items are {shown(items)}; each is a pair of prompt and state")
        if len(items) == 0:
            raise ConfigError("there is nothing to score; give at least one prompt")
        for each in (*(prompt for prompt, _ in items), answer):
            self._check_ids("a prompt or answer", each)
        checked = [(list(prompt), self._checked(state)) for prompt, state in items]
        request = Score(items=checked, ids=list(answer), deadline=deadline)
        self._scheduler.submit(request, wait=arguments.flag(wait, "wait"))
        return request.answer

    def fullness(self, state: State) -> float | None:
        """‖S‖ relative to `Calibration.full`, above which a state harms more than it helps; None if that is unknown."""
        full = self.calibration.full
        return self.norm(state) / full if full else None

    def measure(self, state: State) -> dict[str, LayerHealth]:
        """What can be told of a state alone: the norm and the saturation of each layer, by module name."""
        return measure(state)

    def examine(self, before: State | None, segment: Segment) -> dict[str, LayerHealth]:
        """Run a segment from the state before it, and measure the state after it, in the caller's thread.

        Raises:
            StateMismatchError: The state belongs to another adapter, or is not finite.
            ConfigError: The segment has no tokens or token ids unknown to the backbone.
            InertAdapterError: The adapter wrote nothing.
            EngineMemoryError: The device has too little memory.
            EngineFailedError, ForkedError, ClosedError: The engine takes no requests; see `Scheduler.check`.
        """
        self._scheduler.check()
        arguments.instance(segment, "segment", Segment)
        self._check_ids("a segment", segment.ids)
        try:
            return examine(self._attached, self._checked(before), segment.ids, segment.messages, segment.sentences)
        except RuntimeError as error:
            raise told(error) from error

    def forget(self, owner: Hashable, agent: str) -> None:
        """Drop the keys and values held for an agent. Its states on the device are not requested again.

        Raises:
            ConfigError: ``agent`` is not a valid string, or ``owner`` cannot be hashed.
            ForkedError: The engine belongs to the process that this one was forked from.
        """
        check_process(self._scheduler.process, "engine")
        arguments.text(agent, "agent")
        if not isinstance(owner, Hashable):
            raise ConfigError(f"owner is {shown(owner)}; give what an AgentKey was made with")
        self.hot.drop(owner, agent)

    def stats(self) -> Stats:
        """What the engine has done so far and is doing now.

        Raises:
            ForkedError: The engine belongs to the process that this one was forked from.
        """
        check_process(self._scheduler.process, "engine")
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
            failure=scheduler.failure,
        )

    def close(self) -> None:
        """Finish the current step, fail waiting requests and detach the adapter.

        Does nothing when called again, or in a process forked from the engine's.
        """
        if self._scheduler.process == os.getpid():
            self._scheduler.close()
            self._attached.detach()

    def _checked(self, state: State | None, agent: str | None = None) -> State:
        if state is None:
            return self._zero
        check_state(state, self._zero, agent)
        return state

    def _check_ids(self, what: str, ids: Sequence[int]) -> None:
        """Check token ids: a bad id would fail the other requests of a batch, and break CUDA for the whole process.

        Raises:
            ConfigError: These are not token ids of the backbone.
        """
        if isinstance(ids, str | bytes) or not isinstance(ids, Sequence):
            raise ConfigError(f"{what} is {shown(ids)}; give a list of token ids")
        if len(ids) == 0:
            raise ConfigError(f"{what} has no tokens; give at least one")
        for each in ids:
            if type(each) is not int or not 0 <= each < self._vocabulary:
                raise ConfigError(
                    f"{what} holds {shown(each)}; give token ids of {self.name}, integers from 0 to "
                    f"{self._vocabulary - 1}"
                )

    def _ends(self) -> set[int]:
        ends = self._model.generation_config.eos_token_id if self._model.generation_config else None
        ends = ends if ends is not None else self.tokenizer.eos_token_id
        own = set(ends) if isinstance(ends, list) else {ends} if ends is not None else set()
        return own | self._end


def _rows_of(embeddings: object, otherwise: int) -> int:
    return int(getattr(embeddings, "num_embeddings", otherwise))


def stopped_engines() -> list[str]:
    """The backbone of each engine in this process that has stopped by itself, and the reason."""
    return [f"{each.name}: {each.failure}" for each in list(_made) if each.failure is not None]


def _after(timeout: float | None) -> float | None:
    seconds = deadline_seconds(timeout)
    return None if seconds is None else time.monotonic() + seconds


def _check_key(key: object) -> None:
    try:
        hash(key)
    except TypeError as error:
        raise ConfigError(f"the key {shown(key)} cannot be hashed ({error}); make it of strings and numbers") from error
