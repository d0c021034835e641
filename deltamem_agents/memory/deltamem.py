"""`DeltaMem`: a backbone, or none, a database and a retriever, opened together."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Self
from weakref import WeakKeyDictionary

from deltamem_agents import arguments
from deltamem_agents.engine.limits import HOT_BYTES, Limits
from deltamem_agents.errors import refuse_pickle
from deltamem_agents.memory.agent import AgentMemory
from deltamem_agents.memory.async_methods import twin
from deltamem_agents.memory.backbone import Backbone, check_backbone, open_backbone
from deltamem_agents.memory.background import CallPool
from deltamem_agents.memory.opening import Opening
from deltamem_agents.memory.results import MemoryStats
from deltamem_agents.memory.runtime import Runtime
from deltamem_agents.processes import ProcessLock
from deltamem_agents.recall import (
    AnyEmbedder,
    Cutting,
    Embedder,
    Reindexed,
    Retriever,
    choose_embedder,
    default_embedder,
)
from deltamem_agents.store import AgentInfo, Progress, Retention, Store, check_id

if TYPE_CHECKING:
    import sqlalchemy
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from deltamem_agents.core import Adapter
    from deltamem_agents.engine.engine import Engine

EMBED_SECONDS = 0.3  # that a recall embeds


_lock = ProcessLock()
_opened: WeakKeyDictionary[DeltaMem, None] = WeakKeyDictionary()  # in the order they were opened


class DeltaMem:
    """Memories of many agents, on one backbone and in one database. Safe to share among threads; a context manager."""

    def __init__(
        self,
        backbone: Backbone,
        store: Store,
        embedder: Embedder | None,
        notes: tuple[str, ...] = (),
        embed_seconds: float | None = EMBED_SECONDS,
    ) -> None:
        self.runtime = Runtime(backbone, store, embedder, notes, embed_seconds)
        with _lock:
            _opened[self] = None

    @classmethod
    def open(
        cls,
        backbone: str | Path | None = "tiny",
        *,
        url: str | None = None,
        engine: sqlalchemy.Engine | None = None,
        adapter: str | Path | Adapter | None = None,
        model: PreTrainedModel | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        device: str = "auto",
        dtype: str = "auto",
        embedder: AnyEmbedder | bool | None = None,
        name: str | None = None,
        schema: str | None = None,
        retention: Retention = "thin",
        hot_bytes: int = HOT_BYTES,
        quantization: str | None = None,
        attention: str | None = None,
        limits: Limits | None = None,
        embed_seconds: float | None = EMBED_SECONDS,
    ) -> Self:
        """Open a database and load a backbone with its adapter, or open the database alone.

        Args:
            backbone: "tiny" (the bundled model), a folder, or a hub id. None loads no model and imports no torch:
                journal, retrieval, erasure and time travel work, mode "hybrid" gives records and a note, and what
                needs the model raises ConfigError. Whoever opens the database with a backbone later folds the rest.
            url: A SQLAlchemy URL, of SQLite or PostgreSQL; ``sqlite:///memory.db`` by default. Created where it does
                not exist.
            engine: An existing SQLAlchemy engine in place of ``url``; it is not closed.
            adapter: A folder or hub id, ours or the authors' format; by default the one in the backbone's folder.
            model: A loaded model in place of ``backbone``, with its ``tokenizer``.
            device: "auto", "cpu", "cuda" or "cuda:n".
            dtype: "auto", "float32", "bfloat16" or "float16"; states are float32 in any case.
            embedder: A sentence-transformers name or folder, LangChain's ``Embeddings``, LlamaIndex's
                ``BaseEmbedding``, an object with ``name``, ``dim`` and ``embed``, or a callable from texts to vectors;
                None takes the local one where it is installed and there is a backbone, False none. A local one is
                loaded, and torch with it, when the first text is embedded. `load_embedder` takes a limit besides.
            name: Of the embedder's model, stored with its vectors: another model needs another name. By default what
                `load_embedder` makes of the embedder.
            schema: Of PostgreSQL, where the tables are; made where there is none.
            retention: Which stored states are kept: "thin" (all of the last day, then one a day), "all", or the newest
                so many of each agent.
            quantization: "int8" or "int4" by bitsandbytes, or "int8-torchao"; None for none.
            attention: Transformers' ``attn_implementation``; its own choice by default.
            limits: How much the engine runs at once; by default what suits the device.
            hot_bytes: For keys and values of messages that may be continued, so that appending runs new tokens only.
            embed_seconds: How long a recall may embed records that have no embedding yet, the newest first. It finds
                what is left by words alone, a note says so, and the background embeds it. The first eight records,
                more than an ordinary turn has, are embedded in any case, unless it is 0. None waits for all.

        Raises:
            DeltaMemError: Something cannot be opened; the message says what and how to mend it. Nothing stays open.

        A process that was forked opens one of its own: one that its parent opened raises ForkedError there.
        """
        arguments.whole(hot_bytes, "hot_bytes")
        arguments.instance(limits, "limits", Limits, optional=True)
        arguments.seconds(embed_seconds, "embed_seconds")
        options: dict[str, Any] = {
            "device": device,
            "dtype": dtype,
            "quantization": quantization,
            "attention": attention,
        }
        check_backbone(backbone, adapter, model, tokenizer, options)
        Store.check_opening(url, engine, schema, retention)
        chosen, note = choose_embedder(embedder, name, local=backbone is not None)
        # The model first: a database is made only when everything else is there.
        loaded = open_backbone(backbone, adapter, model, tokenizer, options, limits, hot_bytes)
        try:
            store = Store.open(
                url, engine=engine, schema=schema, split=Cutting(chosen or default_embedder()[0]), retention=retention
            )
        except BaseException:
            loaded.close()
            raise
        return cls(loaded, store, chosen, (note,) if note else (), embed_seconds)

    @classmethod
    def aopen(cls, *args: Any, **options: Any) -> Opening[Self]:
        """Async twin of `open`, with its arguments; never blocks the event loop.

        ``mem = await DeltaMem.aopen(…)``, or ``async with DeltaMem.aopen(…) as mem:``, which closes it at the end.
        """
        return Opening(partial(cls.open, *args, **options))

    @property
    def engine(self) -> Engine:
        """What runs the backbone.

        Raises:
            ConfigError: This was opened without a backbone.
        """
        return self.runtime.engine

    @property
    def backbone(self) -> Backbone:
        """The model with its adapter, or that there is none."""
        return self.runtime.backbone

    @property
    def store(self) -> Store:
        """The database."""
        return self.runtime.store

    @property
    def retriever(self) -> Retriever:
        """What finds records."""
        return self.runtime.retriever

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know of each recall, such as that there is no embedder."""
        return self.runtime.notes

    @property
    def pool(self) -> CallPool:
        """Where async methods run.

        Raises:
            ForkedError: This was opened by the process that this one was forked from; the pool's threads are there.
        """
        return self.runtime.pool

    def agent(self, agent_id: str) -> AgentMemory:
        """A handle on one agent's memory; nothing is read or written yet.

        Raises:
            InvalidAgentError: The id is not a non-empty string of at most 255 characters.
        """
        self.check_open()
        return AgentMemory(self.runtime, check_id(agent_id))

    def agents(self) -> list[AgentInfo]:
        """All agents that were ever written to, by id."""
        self.check_open()
        return self.store.agents()

    def purge(self) -> str | None:
        """Take what was erased out of the database's files, where a receipt said "pending".

        Returns:
            Why that still has to wait, or None where nothing erased is left there.

        Raises:
            StoreError: The database cannot be reached.
        """
        self.check_open()
        return self.store.purge()

    def export(self, agent: str, path: str | Path, *, overwrite: bool = False, progress: Progress | None = None) -> int:
        """Write an agent's journal, states and embeddings to one file; how many messages.

        Args:
            overwrite: Whether a file that is there may be replaced.
            progress: Called with what is being done, how many, of how many (0: not known).

        Raises:
            UnknownAgentError: No such agent.
            ConfigError: The file is there, or it is one of the database's own, which is never written over.
            StoreError: The file cannot be written.
        """
        self.check_open()
        return self.store.export(agent, arguments.path(path), progress, overwrite=overwrite)

    def import_(self, path: str | Path, *, agent: str | None = None, progress: Progress | None = None) -> AgentMemory:
        """Make an agent of a file that `export` wrote. All of it is checked before any of it is stored.

        Its journal is folded anew at the first use, as the states in a file are not believed; its embeddings are taken
        over.

        Args:
            agent: Its name here; by default that in the file.

        Raises:
            ArchiveError: The file is damaged, or no such file.
            ConfigError: There is such an agent already.
        """
        self.check_open()
        return self.agent(self.store.import_(arguments.path(path), agent, progress))

    def reindex(
        self, agent: str | None = None, *, prune: bool = False, progress: Callable[[int, int], None] | None = None
    ) -> dict[str, Reindexed]:
        """Embed records that have no embedding under the present embedder, of one agent or of all, and wait for it.

        First, messages that were cut for another embedder, or before version 0007 of the tables, are cut anew.

        Args:
            prune: Whether to delete embeddings of other models afterwards.
            progress: Called with how many of an agent's records have been embedded, of how many.

        Raises:
            ConfigError: There is no embedder.
            EmbedderError: The embedder failed; what was embedded before is stored, and calling this again goes on.
        """
        arguments.function(progress, "progress")
        prune = arguments.flag(prune, "prune")
        if agent is not None:
            check_id(agent)
        self.check_open()
        agents = [each.id for each in self.store.agents()] if agent is None else [agent]
        return {each: self.retriever.reindex(each, prune=prune, progress=progress) for each in agents}

    def stats(self) -> MemoryStats:
        """What the engine does, what has failed since this was opened, and what there is left to fold and to index.

        Counts in the whole database, so ask now and then, not at each call.

        Raises:
            StoreError: The database cannot be read.
        """
        self.check_open()
        return self.runtime.stats()

    def close(self) -> None:
        """Finish the calls under way and close everything; calling it again does nothing.

        What is journalled stays journalled. Nothing more is folded or embedded: what is waiting is dropped, what is
        under way stops at its next step, and the next recall after opening does the rest. Other calls under way are
        waited for, ten seconds at most; what then still runs fails with ClosedError. In a process that was forked
        meanwhile it does nothing: what is open belongs to the parent.
        """
        self.runtime.close()

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Itself: a copy of what holds a memory shares the memory, as a database has no copy."""
        return self

    def __reduce__(self) -> NoReturn:
        refuse_pickle("DeltaMem", "open the same url where it is needed")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    aagents = twin(agents)
    apurge = twin(purge)
    aexport = twin(export)
    aimport_ = twin(import_)
    areindex = twin(reindex)
    astats = twin(stats)

    async def aclose(self) -> None:
        """Async twin of `close`; never blocks the event loop."""
        import asyncio

        await asyncio.to_thread(self.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def check_open(self) -> None:
        """Refuse what cannot work.

        Raises:
            ClosedError: This was closed.
            ForkedError: It was opened by the process that this one was forked from.
        """
        self.runtime.check_open()


def opened() -> list[DeltaMem]:
    """Those that this process has opened and still holds, in the order in which they were opened."""
    with _lock:
        return list(_opened)
