"""Opening a memory without blocking an event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Generator
from contextvars import copy_context
from typing import Any, Generic, Protocol, TypeVar


class Closable(Protocol):
    """Something that can be opened and closed."""

    def close(self) -> None:
        """Close it."""

    async def aclose(self) -> None:
        """Close it without blocking the event loop."""


M = TypeVar("M", bound=Closable)


class Opening(Generic[M]):
    """Opens something in a thread when awaited or entered by ``async with``, which closes it at the end.

    If it is cancelled meanwhile, what the thread opens is closed.

    Args:
        work: The blocking function that opens it.
    """

    def __init__(self, work: Callable[[], M]) -> None:
        self._work = work
        self._lock = threading.Lock()
        self._opened: M | None = None
        self._given_up = False

    def __await__(self) -> Generator[Any, None, M]:
        return self._open().__await__()

    async def __aenter__(self) -> M:
        return await self._open()

    async def __aexit__(self, *_: object) -> None:
        if self._opened is not None:
            await self._opened.aclose()

    async def _open(self) -> M:
        loop, context = asyncio.get_running_loop(), copy_context()
        try:
            return await loop.run_in_executor(None, context.run, self._in_thread)
        except asyncio.CancelledError:
            with self._lock:
                self._given_up, opened = True, self._opened
            if opened is not None:
                loop.run_in_executor(None, opened.close)
            raise

    def _in_thread(self) -> M:
        opened = self._work()
        with self._lock:
            self._opened, given_up = opened, self._given_up
        if given_up:
            opened.close()
        return opened
