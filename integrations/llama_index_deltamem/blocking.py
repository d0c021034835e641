"""How calls come in: coroutines run to their end for sync callers, and whether an agent's run is what calls."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any, TypeVar

from llama_index.core.instrumentation.span import active_span_id

T = TypeVar("T")


def in_run() -> bool:
    """Whether this is called from within a workflow's step, as agents are made of, and not by the user's own code."""
    return active_span_id.get() is not None


def finished(coroutine: Coroutine[Any, Any, T]) -> T:
    """The coroutine's result, from a loop of its own; in a thread of its own where this one has a running loop.

    Errors come through as they are: LlamaIndex's `asyncio_run` replaces those of ours that are RuntimeErrors.
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
