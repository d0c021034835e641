"""`Memories`: one database, opened as far as a call needs it: words alone, then an embedder, then a backbone.

A server for coding agents starts often and is asked little. Opening the database takes longer than starting, and an
embedder or a backbone takes seconds and hundreds of megabytes. Each is opened once, in a thread, by the first call
that needs it. All of them are handles on the same database, which keeps them consistent as it does for processes.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from deltamem_agents.errors import ClosedError, DeltaMemError

if TYPE_CHECKING:
    from deltamem_agents.memory import DeltaMem

T = TypeVar("T")

log = logging.getLogger(__name__)


class Lazy(Generic[T]):
    """Makes a value once, in a thread, for all who wait. After a failure, the next one who asks tries again."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._future: Future[T] | None = None

    @property
    def made(self) -> T | None:
        """The value, if it is there already."""
        future = self._future
        return future.result() if future and future.done() and future.exception() is None else None

    def start(self) -> Future[T]:
        """Begin to make it, unless it is made or being made."""
        with self._lock:
            if self._future is None or (self._future.done() and self._future.exception() is not None):
                self._future = Future()
                threading.Thread(target=self._run, args=(self._future,), name="deltamem-mcp-open").start()
            return self._future

    async def get(self) -> T:
        """The value. A caller who is cancelled meanwhile does not cancel it for the others."""
        waiting: asyncio.Future[T] = asyncio.wrap_future(self.start())
        return await asyncio.shield(waiting)

    def _run(self, future: Future[T]) -> None:
        try:
            future.set_result(self._make())
        except BaseException as error:  # whoever waits gets it, whatever it is
            future.set_exception(error)


class Memories:
    """The memories of one database, opened on first use.

    Args:
        options: Keyword arguments of `DeltaMem.open` for the database: ``url``, ``schema``.
        model: Keyword arguments of `DeltaMem.open` for the backbone; None if there is none.
        embedder: As for `DeltaMem.open`: None for the local model, False for none.
    """

    def __init__(
        self, options: dict[str, Any], model: dict[str, Any] | None = None, embedder: str | bool | None = None
    ) -> None:
        self._options = options
        self._model = model
        self._embedder = embedder
        self._closed = False
        self._words = Lazy(self._open_words)
        self._embedded = Lazy(self._open_embedded)
        self._modelled = Lazy(self._open_modelled)

    @property
    def has_model(self) -> bool:
        """Whether a backbone can be loaded."""
        return self._model is not None

    @property
    def model_loaded(self) -> bool:
        """Whether it is loaded already."""
        return self._modelled.made is not None

    async def ready(self) -> DeltaMem:
        """The memory that knows most of those that are open; loads no model.

        Raises:
            DeltaMemError: The database cannot be opened.
        """
        return self._modelled.made or self._embedded.made or await self._words.get()

    async def searching(self) -> DeltaMem:
        """As `ready`; the embedder is loaded meanwhile, for later searches. Until then words are searched.

        Raises:
            DeltaMemError: The database cannot be opened.
        """
        if self._embedder is not False and not self._modelled.made:
            self._embedded.start()
        return await self.ready()

    @property
    def hints(self) -> list[str]:
        """What a client should know of a search at this moment."""
        if self._modelled.made or (self._embedded.made and self._embedded.made is not self._words.made):
            return []
        if self._embedder is False or self._embedded.made:
            return ["searched by words alone: there is no embedder"]
        return ["searched by words alone: the embedder is being loaded"]

    async def modelled(self) -> DeltaMem:
        """The memory with a backbone, which is loaded first.

        Raises:
            ConfigError: There is none.
            DeltaMemError: It cannot be loaded, or the database cannot be opened.
        """
        return await self._modelled.get()

    def close(self) -> None:
        """Close what is open; what is being opened is closed as soon as it is."""
        self._closed = True
        for each in (self._modelled.made, self._embedded.made, self._words.made):
            if each is not None:
                each.close()

    def _open_words(self) -> DeltaMem:
        return self._opened(backbone=None, embedder=False)

    def _open_embedded(self) -> DeltaMem:
        from deltamem_agents.recall import default_embedder, load_embedder

        embedder = default_embedder()[0] if self._embedder is None else load_embedder(str(self._embedder))
        if embedder is None:  # none is installed: words are all there is
            return self._words.start().result()
        try:
            embedder.embed(["memory"])  # loads it; the first search would wait for that
        except DeltaMemError as error:
            log.warning("no embedder, so memory is searched by words alone: %s", error)
            return self._words.start().result()
        return self._opened(backbone=None, embedder=embedder)

    def _open_modelled(self) -> DeltaMem:
        from deltamem_agents.errors import ConfigError

        if self._model is None:
            raise ConfigError("this server has no backbone, so memory gives no answer; start it with --backbone tiny")
        return self._opened(**self._model, embedder=self._embedder)

    def _opened(self, **options: Any) -> DeltaMem:
        from deltamem_agents.memory import DeltaMem

        opened = DeltaMem.open(**self._options, **options)
        if self._closed:
            opened.close()
            raise ClosedError("the server ends")
        return opened
