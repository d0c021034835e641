"""Sync twins of async methods, and whether the user's own code or an agent's run is calling.

LlamaIndex's own twins (`asyncio_run`) replace those of our errors that are RuntimeErrors.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from llama_index.core.instrumentation.span import active_span_id

P = ParamSpec("P")
T = TypeVar("T")


def in_run() -> bool:
    """Whether a step of a workflow (an agent's run) is calling, rather than the user's own code."""
    return active_span_id.get() is not None


def sync_twin(method: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, T]:
    """A function that runs a coroutine method to its end, with the same arguments, result and errors."""

    @wraps(method)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        return finished(method(*args, **kwargs))

    run.__name__ = method.__name__.removeprefix("a")
    run.__qualname__ = method.__qualname__.replace(method.__name__, run.__name__)
    run.__doc__ = f"Sync twin of `{method.__name__}`."
    return run


def finished(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in a new event loop and return its result; in a new thread if this one has a running loop."""

    def run() -> T:
        loop = asyncio.new_event_loop()
        try:
            return loop.run_until_complete(coroutine)
        finally:
            loop.close()

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return run()
    with ThreadPoolExecutor(1, thread_name_prefix="deltamem-sync") as thread:
        return thread.submit(copy_context().run, run).result()
