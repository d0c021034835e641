"""Async twins: they run the sync method in the memory's thread pool, so that no coroutine blocks its event loop.

A thread cannot be stopped. When a twin is cancelled, its error therefore says what the thread has journalled, and the
thread journals nothing more.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from contextvars import ContextVar, copy_context
from functools import partial, wraps
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

SETTLE_SECONDS = 1.0  # how long a cancelled call waits for a running transaction
NAMED = 100  # the most ids that a note names

P = ParamSpec("P")
T = TypeVar("T")

_calls: ContextVar[AsyncCall | None] = ContextVar("deltamem_call", default=None)


class Pooled(Protocol):
    """Something with a thread pool for its blocking calls."""

    @property
    def pool(self) -> ThreadPoolExecutor:
        """The threads that the twins run in."""


S = TypeVar("S", bound=Pooled)


class AsyncCall:
    """A call that a coroutine awaits and a thread runs."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self._lock = threading.Lock()
        self._cancelled = False
        self._transaction: Future[None] | None = None
        self._on_cancel: list[Callable[[], None]] = []

    @contextmanager
    def transaction(self) -> Iterator[list[str]]:
        """A context for one transaction, with a list to which the caller adds the ids that it journals.

        Raises:
            CancelledError: The call was cancelled, so nothing more may be journalled.
        """
        with self._lock:
            if self._cancelled:
                raise CancelledError
            mine = self._transaction = Future()
        try:
            yield self.ids
        finally:
            with self._lock:
                self._transaction = None
            mine.set_result(None)

    def on_cancel(self, stop: Callable[[], None]) -> None:
        """Call ``stop`` when the call is cancelled; at once if it already was."""
        with self._lock:
            self._on_cancel.append(stop)
            cancelled = self._cancelled
        if cancelled:
            stop()

    async def cancelled(self, error: asyncio.CancelledError, name: str, begun: bool) -> None:
        """Note on the error what is journalled; waits up to `SETTLE_SECONDS` for a running transaction."""
        with self._lock:
            self._cancelled, transaction, stops = True, self._transaction, list(self._on_cancel)
        for stop in stops:
            stop()
        if transaction is not None:
            with suppress(asyncio.CancelledError):  # a second cancellation
                await asyncio.wait([asyncio.wrap_future(transaction)], timeout=SETTLE_SECONDS)
        known = transaction is None or transaction.done()
        note_on(error, _told(name, self.ids, known, begun), self.ids if known else None)


def transaction() -> Any:
    """`AsyncCall.transaction` of the async call that this thread runs, or of a fresh one if it runs none."""
    call = _calls.get()
    return AsyncCall().transaction() if call is None else call.transaction()


def on_cancel(stop: Callable[[], None]) -> None:
    """Call ``stop`` when the async call that this thread runs is cancelled."""
    call = _calls.get()
    if call is not None:
        call.on_cancel(stop)


def note_on(error: BaseException, note: str, journalled: Sequence[str] | None) -> None:
    """Attach to an error what is journalled: as a note, and as the attribute ``journalled`` (None: not known)."""
    error.add_note(note)
    error.journalled = None if journalled is None else tuple(journalled)  # type: ignore[attr-defined]


def ids_shown(ids: Sequence[str]) -> str:
    """The ids for a note, at most `NAMED` of them."""
    return f"{', '.join(ids[:NAMED])}{', …' if len(ids) > NAMED else ''}"


async def in_pool(pool: ThreadPoolExecutor, name: str, work: Callable[[], T]) -> T:
    """Run ``work`` in a thread of the pool and return its result; see the module on cancellation.

    Args:
        name: The call's name in notes.
    """
    call, context = AsyncCall(), copy_context()
    context.run(_calls.set, call)
    future = pool.submit(context.run, work)
    try:
        return await asyncio.wrap_future(future)
    except asyncio.CancelledError as error:
        await call.cancelled(error, name, begun=not future.cancelled())
        raise


def twin(method: Callable[Concatenate[S, P], T]) -> Callable[Concatenate[S, P], Coroutine[Any, Any, T]]:
    """A coroutine function that runs ``method`` in the object's pool, with the same arguments, result and errors."""
    name = f"a{method.__name__}"

    @wraps(method)
    async def run(self: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await in_pool(self.pool, name, partial(method, self, *args, **kwargs))

    run.__name__ = name
    run.__qualname__ = method.__qualname__.replace(method.__name__, run.__name__)
    run.__doc__ = f"Async twin of `{method.__name__}`; never blocks the event loop."
    return run


def _told(name: str, ids: Sequence[str], known: bool, begun: bool) -> str:
    if not known:
        return (
            f"{name} was cancelled while the database was being written: whether its messages are journalled is not "
            f"known after {SETTLE_SECONDS:g} s; look for them in log()"
        )
    if ids:
        return (
            f"{name} was cancelled; {len(ids)} of its messages are journalled, so do not write them again. Their ids: "
            f"{ids_shown(ids)}"
        )
    besides = "; what it does besides goes on in its thread" if begun else ""
    return f"{name} was cancelled; it has journalled nothing, and will not{besides}"
