"""Run coroutines for sync callers, and detect calls from within an agent's run."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any, TypeVar

from llama_index.core.instrumentation.span import active_span_id

T = TypeVar("T")


def in_run() -> bool:
    """Whether a step of a workflow (an agent's run) is calling, rather than the user's own code."""
    return active_span_id.get() is not None


def finished(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in a new event loop and return its result; in a new thread if this one has a running loop.

    Errors pass through unchanged. LlamaIndex's `asyncio_run` would replace those of our errors that are RuntimeErrors.
    """

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
