"""Async twins: one implementation, run in the memory's thread pool, so that no coroutine blocks its event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial, wraps
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Pooled(Protocol):
    """Something with a thread pool for its blocking calls."""

    @property
    def pool(self) -> ThreadPoolExecutor:
        """Where the twins run."""


S = TypeVar("S", bound=Pooled)


def twin(method: Callable[Concatenate[S, P], T]) -> Callable[Concatenate[S, P], Coroutine[Any, Any, T]]:
    """The coroutine function that runs ``method`` in the object's pool; same arguments, result and errors."""

    @wraps(method)
    async def run(self: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
        call = partial(method, self, *args, **kwargs)
        return await asyncio.wrap_future(self.pool.submit(copy_context().run, call))

    run.__name__ = f"a{method.__name__}"
    run.__qualname__ = method.__qualname__.replace(method.__name__, run.__name__)
    run.__doc__ = f"Async twin of `{method.__name__}`; never blocks the event loop."
    return run
