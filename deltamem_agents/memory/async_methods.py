"""Async twins of blocking methods, so that no coroutine blocks its event loop.

SQL runs in the memory's thread pool. A method that waits for the engine is written once, as `Steps`: a generator that
yields the futures it waits for. `run` waits for them in the caller's thread; `AsyncCall.steps` awaits them, and no
thread is held meanwhile.

A thread cannot be stopped. When a call is cancelled, its error therefore says what is journalled, and its thread
journals nothing more. Its requests to the engine are cancelled.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable, Coroutine, Generator, Iterator, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager, suppress
from contextvars import ContextVar, copy_context
from functools import partial, wraps
from typing import Any, Concatenate, NamedTuple, ParamSpec, Protocol, Self, TypeAlias, TypeVar

from deltamem_agents.engine.generation import Cancellation
from deltamem_agents.memory.background import CallPool

SETTLE_SECONDS = 1.0  # how long a cancelled call waits for a running transaction
NAMED = 100  # the most ids that a note names

P = ParamSpec("P")
T = TypeVar("T")
Steps: TypeAlias = Generator[Future[Any], Any, T]

_calls: ContextVar[AsyncCall | None] = ContextVar("deltamem_call", default=None)


class Pooled(Protocol):
    """Something with a thread pool for its blocking calls."""

    @property
    def pool(self) -> CallPool:
        """The threads that the twins run in."""


S = TypeVar("S", bound=Pooled)


class _Ended(NamedTuple):
    """The result of `Steps` that have ended."""

    value: Any


class AsyncCall:
    """A call that a coroutine awaits, and whose blocking parts run in threads: an async context manager.

    Args:
        name: The call's name in the note on its cancellation.

    Raises:
        ClosedError: The memory was closed.
    """

    def __init__(self, pool: CallPool, name: str) -> None:
        self.ids: list[str] = []
        self._pool = pool
        self._name = name
        self._lock = threading.Lock()
        self._cancelled = False
        self._transaction: Future[None] | None = None
        self._on_cancel: list[Callable[[], None]] = []
        self._thread: Future[Any] | None = None
        self._context = copy_context()
        self._context.run(_calls.set, self)
        self._done: Future[None] = Future()
        pool.admit(self._done)

    async def thread(self, work: Callable[[], T]) -> T:
        """Run ``work`` in a thread of the pool and return its result."""
        self._thread = self._pool.submit(self._context.run, work)
        return await asyncio.wrap_future(self._thread)

    async def steps(self, steps: Steps[T]) -> T:
        """Run steps in threads of the pool; await what they wait for."""
        advance: Callable[[], Future[Any]] = partial(next, steps)
        while True:
            waited = await self.thread(partial(_advanced, advance))
            if isinstance(waited, _Ended):
                return waited.value  # type: ignore[no-any-return]  # what the steps return
            try:
                advance = partial(steps.send, await asyncio.wrap_future(waited))
            except Exception as error:
                advance = partial(steps.throw, error)

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

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        try:
            if isinstance(error, asyncio.CancelledError):
                await self._cancel(error)
        finally:
            self._done.set_result(None)

    async def _cancel(self, error: asyncio.CancelledError) -> None:
        """Note on the error what is journalled; waits up to `SETTLE_SECONDS` for a running transaction."""
        with self._lock:
            self._cancelled, transaction, stops = True, self._transaction, list(self._on_cancel)
        for stop in stops:
            stop()
        begun = self._thread is not None and not self._thread.done()
        if transaction is not None:
            with suppress(asyncio.CancelledError):  # a second cancellation
                await asyncio.wait([asyncio.wrap_future(transaction)], timeout=SETTLE_SECONDS)
        known = transaction is None or transaction.done()
        note_on(error, _told(self._name, self.ids, known, begun), self.ids if known else None)


def run(steps: Steps[T]) -> T:
    """Run steps in this thread, which waits for each of their futures."""
    advance: Callable[[], Future[Any]] = partial(next, steps)
    while True:
        waited = _advanced(advance)
        if isinstance(waited, _Ended):
            return waited.value  # type: ignore[no-any-return]  # what the steps return
        try:
            advance = partial(steps.send, waited.result())
        except BaseException as error:  # Ctrl-C too: the steps cancel what they asked for
            advance = partial(steps.throw, error)


def _advanced(advance: Callable[[], Future[Any]]) -> Future[Any] | _Ended:
    try:
        return advance()
    except StopIteration as end:
        return _Ended(end.value)


@contextmanager
def cancellable() -> Iterator[Cancellation]:
    """A `Cancellation` for requests to the engine, cancelled with the call that this thread runs, or at the end."""
    cancellation = Cancellation()
    call = _calls.get()
    if call is not None:
        call.on_cancel(cancellation.cancel)
    try:
        yield cancellation
    finally:
        cancellation.cancel()


@contextmanager
def transaction() -> Iterator[list[str]]:
    """`AsyncCall.transaction` of the async call that this thread runs; without one, a list that nobody reads."""
    call = _calls.get()
    if call is None:
        yield []
    else:
        with call.transaction() as ids:
            yield ids


def note_on(error: BaseException, note: str, journalled: Sequence[str] | None) -> None:
    """Attach to an error what is journalled: as a note, and as the attribute ``journalled`` (None: not known)."""
    error.add_note(note)
    error.journalled = None if journalled is None else tuple(journalled)  # type: ignore[attr-defined]


def ids_shown(ids: Sequence[str]) -> str:
    """The ids for a note, at most `NAMED` of them."""
    return f"{', '.join(ids[:NAMED])}{', …' if len(ids) > NAMED else ''}"


def stepped(method: Callable[Concatenate[S, P], Steps[T]]) -> Callable[Concatenate[S, P], T]:
    """A method that runs the steps that ``method`` returns, in the caller's thread."""

    @wraps(method)
    def blocking(self: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return run(method(self, *args, **kwargs))

    signature = inspect.signature(method)
    result = str(signature.return_annotation).removeprefix("Steps[").removesuffix("]")
    blocking.__signature__ = signature.replace(return_annotation=result)  # type: ignore[attr-defined]
    blocking.steps = method  # type: ignore[attr-defined]
    return blocking


def twin(method: Callable[Concatenate[S, P], T]) -> Callable[Concatenate[S, P], Coroutine[Any, Any, T]]:
    """A coroutine function for a blocking or `stepped` method, with the same arguments, result and errors."""
    name = f"a{method.__name__}"
    steps: Callable[Concatenate[S, P], Steps[T]] | None = getattr(method, "steps", None)

    @wraps(method)
    async def asynchronous(self: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
        async with AsyncCall(self.pool, name) as call:
            if steps is not None:
                return await call.steps(steps(self, *args, **kwargs))
            return await call.thread(partial(method, self, *args, **kwargs))

    asynchronous.__name__ = name
    asynchronous.__qualname__ = method.__qualname__.replace(method.__name__, name)
    asynchronous.__doc__ = f"Async twin of `{method.__name__}`; never blocks the event loop."
    return asynchronous


def _told(name: str, ids: Sequence[str], known: bool, begun: bool) -> str:
    if not known:
        return (
            f"{name} was cancelled while the database was being written: after {SETTLE_SECONDS:g} s it is not known "
            f"whether its messages are journalled; look for them in log()"
        )
    if ids:
        return (
            f"{name} was cancelled; {len(ids)} of its messages are journalled, so do not write them again. Their ids: "
            f"{ids_shown(ids)}"
        )
    besides = "; the rest of its work goes on in its thread" if begun else ""
    return f"{name} was cancelled; it has journalled nothing, and will not{besides}"
