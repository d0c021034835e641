"""Folding and indexing after a write, at once or in the background.

Neither can make a write fail: what is journalled is durable. A failure here is counted and logged once, and the next
recall does the work.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

from deltamem_agents.errors import ClosedError
from deltamem_agents.failures import Failures
from deltamem_agents.memory.folding import Folder
from deltamem_agents.recall import Retriever

THREADS = 4  # agents that are folded and embedded at once
CLOSE_SECONDS = 10.0  # how long closing waits for running calls

log = logging.getLogger(__name__)


class CallPool(ThreadPoolExecutor):
    """Threads for the blocking calls of async twins; raises our own error once it is shut down."""

    def __init__(self, threads: int) -> None:
        super().__init__(threads, thread_name_prefix="deltamem-call")
        self._calls: dict[Future[None], asyncio.AbstractEventLoop] = {}
        self._running: set[Future[Any]] = set()
        self._closing = False

    def admit(self, call: Future[None]) -> None:
        """Count a call of this event loop as under way until its future is done. It may submit several pieces of work.

        Raises:
            ClosedError: The pool accepts no more calls.
        """
        if self._closing:
            raise ClosedError("this DeltaMem was closed; open it again with DeltaMem.open")
        self._calls[call] = asyncio.get_running_loop()
        call.add_done_callback(lambda _: self._calls.pop(call, None))

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Submit a piece of work, as `ThreadPoolExecutor.submit` does.

        Raises:
            ClosedError: The pool was shut down, or the interpreter is ending.
        """
        try:
            future = super().submit(fn, *args, **kwargs)
        except RuntimeError as error:
            raise ClosedError(f"this DeltaMem was closed ({error}); open it again with DeltaMem.open") from None
        self._running.add(future)
        future.add_done_callback(self._running.discard)
        return future

    def close(self, seconds: float) -> None:
        """Accept no more calls, wait for those under way, for at most so many seconds, and shut down.

        Calls of an event loop that runs in this thread are not waited for: they cannot go on before this returns.
        """
        self._closing = True
        try:
            blocked = asyncio.get_running_loop()
        except RuntimeError:
            blocked = None
        calls = [call for call, loop in list(self._calls.items()) if loop is not blocked]
        wait([*calls, *list(self._running)], timeout=seconds)
        self.shutdown(wait=False)


class Background:
    """Folds and embeds what was journalled.

    Args:
        closing: Returns True once the memory is being closed.
    """

    def __init__(self, folder: Folder, retriever: Retriever, failures: Failures, closing: Callable[[], bool]) -> None:
        self._folder = folder
        self._retriever = retriever
        self._failures = failures
        self._closing = closing
        self._waiting: dict[str, bool] = {}  # agents in the order of their requests; True if they are folded too
        self._embedding: set[str] = set()  # agents that are being embedded without being folded
        self._threads: set[threading.Thread] = set()
        self._lock = threading.Lock()

    @property
    def waiting(self) -> int:
        """How many agents are waiting."""
        return len(self._waiting)

    @property
    def busy(self) -> bool:
        """Whether any work is waiting or running."""
        return bool(self._threads)

    def now(self, agent: str, stopping: Callable[[], bool] | None = None) -> None:
        """Fold and embed what is new, so that the next recall need not. Raises no `Exception`."""
        if self._folder.able:
            self._fold(agent, stopping)
        self._embed(agent, stopping)

    def _embed(self, agent: str, stopping: Callable[[], bool] | None) -> None:
        try:
            self._retriever.catch_up(agent, stopping)
        except ClosedError as error:
            log.debug("embedding of agent %r is left to the next recall: %s", agent, error)

    def _fold(self, agent: str, stopping: Callable[[], bool] | None) -> None:
        try:
            self._folder.current(agent, stopping=stopping)
        except ClosedError as error:
            log.debug("folding of agent %r is left to the next recall: %s", agent, error)
        except Exception as error:  # whatever a model, a device or a database may raise
            self._failures.failed("folding", agent, error)
        else:
            self._failures.succeeded("folding", agent)

    def later(self, agent: str) -> None:
        """Do `now` in a thread, once for all writes until it starts; nothing if the memory is being closed."""
        self._add(agent, fold=True)

    def embed_later(self, agent: str) -> None:
        """Embed in a thread, without folding; do nothing if that is waiting or running already."""
        self._add(agent, fold=False)

    def _add(self, agent: str, *, fold: bool) -> None:
        with self._lock:
            known = self._waiting.get(agent)
            if self._stopping() or known or known == fold or (agent in self._embedding and not fold):
                return
            self._waiting[agent] = fold
            if known is not None or len(self._threads) >= THREADS:
                return
            thread = threading.Thread(target=self._work, name="deltamem-background", daemon=False)
            try:
                thread.start()
            except RuntimeError as error:  # the interpreter is ending
                self._waiting.clear()
                log.debug("folding of agent %r is left to the next recall: %s", agent, error)
            else:
                self._threads.add(thread)

    def close(self, seconds: float) -> None:
        """Drop waiting work, and wait for running work, which stops after its current step."""
        with self._lock:
            self._waiting.clear()
            threads = [each for each in self._threads if each is not threading.current_thread()]
        for thread in threads:
            thread.join(seconds)

    def _stopping(self) -> bool:
        """Whether to stop. True at the end of the process too: the next recall does the work anyway."""
        return self._closing() or not threading.main_thread().is_alive()

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._waiting or self._stopping():
                    self._waiting.clear()
                    self._threads.discard(threading.current_thread())
                    return
                agent = next(iter(self._waiting))
                fold = self._waiting.pop(agent)  # messages written from here on need another run
                if not fold:
                    self._embedding.add(agent)
            if fold:
                self.now(agent, self._stopping)
                continue
            try:
                self._embed(agent, self._stopping)
            finally:
                with self._lock:
                    self._embedding.discard(agent)
