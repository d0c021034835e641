"""Coroutines run to their end for sync callers, whether or not their thread has a running loop."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any, TypeVar

T = TypeVar("T")


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
