"""An engine in a test's hands: its forwards are watched, fail or pause on request, and its thread is kept busy.

All of it goes by PyTorch's public hooks and by the callbacks that any caller may give, so that no test reaches for an
engine's private attributes. What databases do on request is in `databases`.
"""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import ref

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from deltamem_agents.engine import AgentKey, Cancellation, Engine, Sampling

SECONDS = 60.0  # then something hangs
ONE = Sampling(max_tokens=1)


def model_of(engine: Engine) -> nn.Module:
    """The model that an engine runs."""
    called: list[nn.Module] = []

    def note(module: nn.Module, _arguments: Any, given: dict[str, Any], _output: Any) -> None:
        ids = given.get("input_ids")
        if ids is not None and ids.tolist() == [marker]:
            called.append(module)

    marker = [2, 3, 2, 3, 2]  # in no test's prompt
    handle = register_module_forward_hook(note, with_kwargs=True)
    try:
        engine.score([(marker[:-1], None)], marker[-1:]).result(SECONDS)
    finally:
        handle.remove()
    return called[-1]  # the outermost is through last


@contextmanager
def before_forwards(engine: Engine, act: Callable[[Tensor], object]) -> Iterator[None]:
    """Call ``act`` with the token ids [B, T] before every forward meanwhile; what it raises, the forward raises."""

    def hook(_module: nn.Module, _arguments: Any, given: dict[str, Any]) -> None:
        act(given["input_ids"])

    handle = model_of(engine).register_forward_pre_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def after_forwards(engine: Engine, act: Callable[[Tensor, Any], object]) -> Iterator[None]:
    """Call ``act`` with the token ids [B, T] and the model's output after every forward meanwhile.

    By then the forward has extended its keys and values.
    """

    def hook(_module: nn.Module, _arguments: Any, given: dict[str, Any], output: Any) -> None:
        act(given["input_ids"], output)

    handle = model_of(engine).register_forward_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def endless(engine: Engine) -> Iterator[None]:
    """No answer ends before it has all its tokens, meanwhile."""
    ends = [*engine.rendering.end(), engine.tokenizer.eos_token_id]

    def never(_: Tensor, output: Any) -> None:
        output.logits[..., ends] = -torch.inf

    with after_forwards(engine, never):
        yield


def out_of_memory(*_: Any) -> None:
    raise torch.OutOfMemoryError("no room")


def in_thread(engine: Engine, call: Callable[[], object]) -> None:
    """Call a function in the engine's thread, by a callback that gets text, and wait until it has returned."""
    begun = threading.Event()
    _asked(engine, lambda _: (begun.set(), call())).result(SECONDS)
    assert begun.is_set()


def thread_of(engine: Engine) -> threading.Thread:
    """The thread that runs an engine's model."""
    found: list[threading.Thread] = []
    in_thread(engine, lambda: found.append(threading.current_thread()))
    return found[0]


@contextmanager
def kept_busy(engine: Engine, begin: Callable[[], object] = lambda: None) -> Iterator[None]:
    """Keep the engine's thread in a caller's callback meanwhile: what is asked is found together afterwards.

    Args:
        begin: Called in that thread at the end.
    """
    begun, release = threading.Event(), threading.Event()
    _asked(engine, lambda _: (begun.set(), release.wait(SECONDS), begin()))
    assert begun.wait(SECONDS), "the engine gave no text"
    try:
        yield
    finally:
        release.set()


def _asked(engine: Engine, on_text: Callable[[str], object]) -> Any:
    return engine.generate(engine.rendering.question("Hello"), sampling=ONE, on_text=on_text)


class Broken(Cancellation):
    """A caller's object at which the engine cannot even look: an error outside any step."""

    @property
    def cancelled(self) -> bool:  # type: ignore[override]
        raise ZeroDivisionError("broken")

    @cancelled.setter
    def cancelled(self, _: bool) -> None:
        pass


def await_rest(engine: Engine, *given: ref[Any]) -> None:
    """Wait until an engine has nothing to do, and holds none of the objects that were given to it."""
    until = time.monotonic() + SECONDS
    while (now := engine.stats()).waiting or now.generating:
        assert time.monotonic() < until, "it does not come to rest"
        time.sleep(0.001)
    while any(each() is not None for each in given):
        assert time.monotonic() < until, "it holds what belongs to requests that have ended"
        time.sleep(0.001)
        gc.collect()


def every_slot_is_free(engine: Engine) -> bool:
    """Whether as many states as the pool has slots stay on the device together: no slot is held by a request."""
    slots = engine.stats().slots
    state = engine.zero_state()
    for _ in range(2):
        before = engine.stats().evictions
        asked = [
            engine.generate([5], state, (AgentKey("slots", str(number), 1), 1), sampling=ONE) for number in range(slots)
        ]
        for each in asked:
            each.result(SECONDS)
    return engine.stats().evictions == before
