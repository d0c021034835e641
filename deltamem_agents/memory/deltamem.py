"""`DeltaMem`: a database, a retriever and an optional backbone, opened together."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from weakref import WeakKeyDictionary

from deltamem_agents import arguments
from deltamem_agents.engine.options import HOT_BYTES, Limits
from deltamem_agents.memory.agent import AgentMemory
from deltamem_agents.memory.async_methods import twin
from deltamem_agents.memory.backbone import Backbone, check_backbone, open_backbone
from deltamem_agents.memory.background import CallPool
from deltamem_agents.memory.migration import Migrated, Source, migrate
from deltamem_agents.memory.opening import Opening
from deltamem_agents.memory.results import MemoryStats
from deltamem_agents.memory.runtime import Runtime, Shared
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
from deltamem_agents.store import AgentInfo, Progress, Retention, Store, check_id, check_place, check_retention
from deltamem_agents.store.database import RETRY_SECONDS

if TYPE_CHECKING:
    import sqlalchemy
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from deltamem_agents.core import Adapter
    from deltamem_agents.engine.engine import Engine

EMBED_SECONDS = 0.3  # the time that one recall may spend on embedding


_lock = ProcessLock()
_opened: WeakKeyDictionary[DeltaMem, None] = WeakKeyDictionary()  # in the order of opening


class DeltaMem(Shared):
    """The memories of many agents, in one database and on one backbone. Threads may share it.

    It is a context manager that closes itself at the end. Methods other than `close` raise ClosedError once it is
    closed, and ForkedError in a process that was forked from the one that opened it; open another one there.
    """

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
        retry_seconds: float = RETRY_SECONDS,
    ) -> Self:
        """Open a database and load a backbone with its adapter, or open the database alone.

        Args:
            backbone: "tiny" (the bundled model), "gemma-3-270m", a folder, or a hub id. None loads no model and does
                not import torch: journal, retrieval, erasure and time travel work, mode "hybrid" returns records and a
                note, and what needs the model raises ConfigError. Opening the database with a backbone later folds the
                rest.
            url: A SQLAlchemy URL of SQLite or PostgreSQL; ``sqlite:///memory.db`` by default. The file and the
                tables are created if missing.
            engine: An existing SQLAlchemy engine to use instead of ``url``; closing the memory leaves it open.
            adapter: A folder or hub id, in our format or the authors'; by default the one in the backbone's folder.
            model: A loaded model to use instead of ``backbone``; give its ``tokenizer`` too.
            device: "auto", "cpu", "cuda" or "cuda:n".
            dtype: "auto", "float32", "bfloat16" or "float16"; states are always float32.
            embedder: A sentence-transformers name or folder, LangChain's ``Embeddings``, LlamaIndex's
                ``BaseEmbedding``, an object with ``name``, ``dim`` and ``embed``, or a callable from texts to vectors.
                None uses the local model if it is installed and there is a backbone; False uses none. A local model,
                and torch with it, is loaded when the first text is embedded. `load_embedder` also takes a limit.
            name: Name of the embedding model, stored with its vectors; a different model needs a different name. By
                default `load_embedder` derives it from the embedder.
            schema: PostgreSQL schema of the tables; created if missing.
            retention: Which stored states are kept: "thin" (all of the last day, then one a day), "all", or a number:
                that many of the newest of each agent.
            quantization: "int8" or "int4" (bitsandbytes), or "int8-torchao"; None for none.
            attention: Transformers' ``attn_implementation``; Transformers chooses by default.
            limits: How much the engine runs at once; by default what suits the device.
            hot_bytes: Bytes for keys and values of messages that may be continued, so that appending to one runs only
                the new tokens.
            embed_seconds: How long one recall may spend embedding records that have no embedding yet, newest first. It
                searches the rest by words alone and says so in a note; a background thread embeds them. Eight records,
                more than an ordinary turn has, are always embedded, unless this is 0. None embeds all before searching.
            retry_seconds: How long a call waits for a database that is unreachable before it fails.

        Raises:
            DeltaMemError: Something cannot be opened; the message says what, and how to fix it. Nothing stays open.
        """
        arguments.whole(hot_bytes, "hot_bytes")
        arguments.instance(limits, "limits", Limits, optional=True)
        arguments.seconds(embed_seconds, "embed_seconds")
        arguments.seconds(retry_seconds, "retry_seconds")
        options: dict[str, Any] = {
            "device": device,
            "dtype": dtype,
            "quantization": quantization,
            "attention": attention,
        }
        check_backbone(backbone, adapter, model, tokenizer, options)
        check_place(url, engine, schema)
        check_retention(retention)
        chosen, note = choose_embedder(embedder, name, local=backbone is not None)
        # The model comes first, so that a database is created only if everything else works.
        loaded = open_backbone(backbone, adapter, model, tokenizer, options, limits, hot_bytes)
        try:
            split = Cutting(chosen or default_embedder()[0])
            store = Store.open(
                url, engine=engine, schema=schema, split=split, retention=retention, retry_seconds=retry_seconds
            )
        except BaseException:
            loaded.close()
            raise
        return cls(loaded, store, chosen, (note,) if note else (), embed_seconds)

    @classmethod
    def aopen(cls, *args: Any, **options: Any) -> Opening[Self]:
        """Async twin of `open`, with the same arguments; never blocks the event loop.

        Use ``mem = await DeltaMem.aopen(…)``, or ``async with DeltaMem.aopen(…) as mem:``, which closes it at the end.
        """
        return Opening(partial(cls.open, *args, **options))

    @property
    def engine(self) -> Engine:
        """The engine that runs the backbone.

        Raises:
            ConfigError: This was opened without a backbone.
        """
        return self.runtime.engine

    @property
    def backbone(self) -> Backbone:
        """The model with its adapter; without a model, its ``present`` is False."""
        return self.runtime.backbone

    @property
    def store(self) -> Store:
        """The database."""
        return self.runtime.store

    @property
    def retriever(self) -> Retriever:
        """The search over records."""
        return self.runtime.retriever

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes that every recall carries for the user, such as that there is no embedder."""
        return self.runtime.notes

    @property
    def pool(self) -> CallPool:
        """The threads that async methods run in.

        Raises:
            ForkedError: The process that this one was forked from opened it; the threads exist only there.
        """
        return self.runtime.pool

    def agent(self, agent_id: str) -> AgentMemory:
        """A handle on one agent's memory. Reads and writes nothing.

        Raises:
            InvalidAgentError: The id is not a non-empty string of at most 255 characters.
        """
        self.check_open()
        return AgentMemory(self.runtime, check_id(agent_id))

    def agents(self) -> list[AgentInfo]:
        """All agents that were ever written to, ordered by id.

        Raises:
            StoreError: The database cannot be read.
        """
        self.check_open()
        return self.store.agents()

    def purge(self) -> str | None:
        """Remove erased data from the database's files, after a receipt whose status is "pending".

        Returns:
            Why it still has to wait; None once the files hold nothing that was erased.

        Raises:
            StoreError: The database cannot be reached.
        """
        self.check_open()
        return self.store.purge()

    def export(self, agent: str, path: str | Path, *, overwrite: bool = False, progress: Progress | None = None) -> int:
        """Write an agent's journal, states and embeddings to one file.

        Args:
            overwrite: Whether to replace an existing file.
            progress: Called with the step, how many items are done, and how many there are (0: not known).

        Returns:
            The number of messages written.

        Raises:
            InvalidAgentError: The agent id is not valid.
            UnknownAgentError: No such agent.
            ConfigError: The path is not valid, the file exists, or it is one of the database's own files, which are
                never overwritten.
            StoreError: The database cannot be read, or the file cannot be written.
        """
        self.check_open()
        return self.store.export(agent, arguments.path(path), progress, overwrite=overwrite)

    def import_(self, path: str | Path, *, agent: str | None = None, progress: Progress | None = None) -> AgentMemory:
        """Create an agent from a file that `export` wrote. The whole file is checked before anything is stored.

        The embeddings are imported. The states are not, as a file's states cannot be trusted: the journal is folded
        again at the first use.

        Args:
            agent: Id of the new agent; by default the one in the file.

        Raises:
            ArchiveError: The file is damaged or missing.
            ConfigError: The agent exists already, or the path is not valid.
            InvalidAgentError: The agent id is not valid.
            StoreError: The database cannot be written; nothing was imported.
        """
        self.check_open()
        return self.agent(self.store.import_(arguments.path(path), agent, progress))

    def import_from(
        self, source: Source, path: str | Path, *, agent: str | None = None, progress: Progress | None = None
    ) -> Migrated:
        """Journal what another library exported; a second import of the same file adds nothing.

        Args:
            source: The library: "mem0", "langmem" or "llama-index".
            agent: The agent that all of it goes to; by default one for each user, namespace or chat in the file.

        Raises:
            ConfigError: The source is unknown, the path is not valid, or the file does not say whose memory a row is.
            ArchiveError: The file cannot be read, is too large, or is not what that library exports.
            InvalidAgentError: The agent id is not valid.
            StoreError: The database cannot be written. What was journalled before stays.
        """
        self.check_open()
        return migrate(self.store, path, source, agent=agent, progress=progress)

    def reindex(
        self, agent: str | None = None, *, prune: bool = False, progress: Callable[[int, int], None] | None = None
    ) -> dict[str, Reindexed]:
        """Embed all records that the current embedder has not embedded yet, of one agent or of all; blocks until done.

        Messages that were cut into records for another embedder, or before version 0007 of the tables, are cut again
        first.

        Args:
            prune: Whether to delete embeddings of other models afterwards.
            progress: Called with how many of an agent's records are embedded, and how many there are.

        Raises:
            ConfigError: There is no embedder.
            InvalidAgentError: The agent id is not valid.
            EmbedderError: The embedder failed. What it embedded before is stored; call this again to continue.
            StoreError: The database cannot be read or written.
        """
        arguments.function(progress, "progress")
        prune = arguments.flag(prune, "prune")
        if agent is not None:
            check_id(agent)
        self.check_open()
        agents = [each.id for each in self.store.agents()] if agent is None else [agent]
        return {each: self.retriever.reindex(each, prune=prune, progress=progress) for each in agents}

    def stats(self) -> MemoryStats:
        """What the engine does, what has failed since this was opened, and what is left to fold and to index.

        This counts rows of the whole database, so do not call it on every request.

        Raises:
            StoreError: The database cannot be read.
        """
        self.check_open()
        return self.runtime.stats()

    def close(self) -> None:
        """Finish the running calls and close everything. Calling it again does nothing.

        What is journalled stays journalled. Background folding and embedding ends: waiting work is dropped, running
        work stops at its next step, and the first recall after opening again does the rest. Other running calls get up
        to ten seconds; those that take longer fail with ClosedError. In a forked process this does nothing, because
        everything open belongs to the parent.
        """
        self.runtime.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    aagents = twin(agents)
    apurge = twin(purge)
    aexport = twin(export)
    aimport_ = twin(import_)
    aimport_from = twin(import_from)
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
        """Raise unless this memory is open in this process.

        Raises:
            ClosedError: It was closed.
            ForkedError: The process that this one was forked from opened it.
        """
        self.runtime.check_open()


def opened() -> list[DeltaMem]:
    """Each `DeltaMem` that this process opened and still holds, in the order of opening."""
    with _lock:
        return list(_opened)
