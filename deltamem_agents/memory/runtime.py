"""`Runtime`: the parts of one open `DeltaMem`, shared by the memories of its agents."""

from __future__ import annotations

import math
import os
import threading
from typing import TYPE_CHECKING, Any, NoReturn, Self

from deltamem_agents.errors import ClosedError, refuse_pickle
from deltamem_agents.failures import Failures
from deltamem_agents.memory.backbone import Backbone
from deltamem_agents.memory.background import CLOSE_SECONDS, Background, CallPool
from deltamem_agents.memory.folding import Folder
from deltamem_agents.memory.results import MemoryStats
from deltamem_agents.processes import check_process
from deltamem_agents.recall import Embedder, Retriever
from deltamem_agents.store import Store

if TYPE_CHECKING:
    from deltamem_agents.engine.engine import Engine

CALLS = 8  # blocking calls of async methods that run at once; the model runs in its own thread


class Shared:
    """Base of objects that a copy shares, as a database cannot be copied; pickling raises NotPicklableError."""

    __slots__ = ()

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __reduce__(self) -> NoReturn:
        refuse_pickle("DeltaMem", "open the same url where it is needed")


class Runtime(Shared):
    """A database, a retriever, a backbone if there is one, and the threads that fold, embed and run async calls.

    Args:
        backbone: Closed by `close`, like the store and the retriever.
        embedder: None searches by words alone.
        notes: Notes that every recall carries for the user, such as that there is no embedder.
        embed_seconds: How long one recall may spend on embedding; None for no limit.
    """

    def __init__(
        self,
        backbone: Backbone,
        store: Store,
        embedder: Embedder | None,
        notes: tuple[str, ...],
        embed_seconds: float | None,
    ) -> None:
        self.backbone = backbone
        self.store = store
        self.notes = notes
        self.failures = Failures()
        self._process = os.getpid()
        self._closed = False
        self._lock = threading.Lock()
        self.folder = Folder(store, backbone, self._is_closed)
        self.retriever = Retriever(
            store.records,
            embedder,
            failures=self.failures,
            stopping=self._is_closed,
            embed_seconds=math.inf if embed_seconds is None else embed_seconds,
            later=lambda agent: self.background.embed_later(agent),
        )
        self.background = Background(self.folder, self.retriever, self.failures, self._is_closed)
        self._pool = CallPool(CALLS)

    @property
    def engine(self) -> Engine:
        """The engine that runs the backbone.

        Raises:
            ConfigError: The memory was opened without a backbone.
        """
        return self.backbone.engine("an engine")

    @property
    def pool(self) -> CallPool:
        """The threads that async methods run in.

        Raises:
            ForkedError: The process that this one was forked from opened the memory; the threads exist only there.
        """
        check_process(self._process, "DeltaMem")
        return self._pool

    def check_open(self) -> None:
        """Raise unless the memory is open in this process.

        Raises:
            ClosedError: The memory was closed.
            ForkedError: The process that this one was forked from opened it.
        """
        check_process(self._process, "DeltaMem")
        if self._closed:
            raise ClosedError("this DeltaMem was closed; open it again with DeltaMem.open")

    def stats(self) -> MemoryStats:
        """See `DeltaMem.stats`.

        Raises:
            StoreError: The database cannot be read.
        """
        return MemoryStats(
            engine=self.engine.stats() if self.backbone.present else None,
            folding=self.failures.stats("folding"),
            embedding=self.failures.stats("embedding"),
            refused=self.retriever.refused,
            waiting=self.background.waiting,
            backlog=self.store.backlog(self.backbone.fingerprint, self.retriever.model),
        )

    def close(self) -> None:
        """See `DeltaMem.close`."""
        if self._process != os.getpid():
            return
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self.background.close(CLOSE_SECONDS)
        self.folder.wait(CLOSE_SECONDS)
        self._pool.close(CLOSE_SECONDS)
        self.backbone.close()
        self.retriever.close()
        self.store.close()

    def _is_closed(self) -> bool:
        return self._closed
