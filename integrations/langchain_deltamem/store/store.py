"""`DeltaMemStore`: runs LangGraph's store operations on one agent's journal."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from itertools import islice

from langgraph.store.base import (
    BaseStore,
    GetOp,
    ListNamespacesOp,
    Op,
    PutOp,
    Result,
    SearchOp,
    TTLConfig,
    validate_op_namespace,
)

from deltamem_agents import arguments
from deltamem_agents.errors import ClosedError, ConfigError, DeltaMemError, shown
from deltamem_agents.memory import DeltaMem
from deltamem_agents.memory.async_methods import twin
from deltamem_agents.memory.background import CallPool
from langchain_deltamem.store.items import Namespace, Stored, content_of, session_of
from langchain_deltamem.store.journal import Items, Name
from langchain_deltamem.store.matching import beginning, check_filter, matches

IN_MEMORY = ("sqlite://", "sqlite:///:memory:")
FOREVER = 1e9  # minutes
SWEEP_MINUTES = 5.0

log = logging.getLogger(__name__)


class DeltaMemStore(BaseStore):
    """A LangGraph store in a memory's database: values by namespace and key, searchable by their text.

    The items are messages of one agent. Its state therefore holds them too, and `AgentMemory`'s `log`, `fork`,
    `rollback` and `erase`, and `DeltaMem.export`, cover them. A put replaces the item; a delete erases every version of
    it permanently.

    A search with a query returns the most similar items first. The score is the best cosine similarity of an item's
    indexed texts or, without an embedder, the share of the query's words in the text; an item without indexed text has
    score 0. A search without a query returns the most recently changed items first, without scores.

    Reads in a batch do not see its puts. If a batch puts an item several times, the last put counts. The puts of one
    namespace are written all or none. Sync calls in a thread with a running event loop are refused, as LangGraph's
    async stores do, unless the database is in memory.

    Args:
        mem: An open `DeltaMem`; this class does not close it.
        agent_id: The agent whose journal holds the items.
        fields: Paths to the text of a value, for puts without ``index``; by default the whole value.
        ttl: LangGraph's options: ``default_ttl`` (minutes), ``refresh_on_read``, ``sweep_interval_minutes`` and
            ``omit_expired``, which is true here unless set to false. It hides expired items until `sweep_ttl` or the
            sweeper's thread erases them.

    Raises:
        InvalidAgentError: The agent id is not valid.
        InvalidNamespaceError: On a call, a label is not valid, or the namespace has more than 255 characters.
        InvalidMessageError: On a put, JSON cannot hold the value.
        ConfigError: On a call, a filter, limit, offset, value, ``ttl`` or ``index`` is not valid.
        EmbedderError: On a search, the embedder's vectors do not fit the stored ones.
        StoreError: On a call, the database cannot be read or written.
        ClosedError, ForkedError: ``mem`` is not open in this process.
    """

    supports_ttl = True

    def __init__(
        self,
        mem: DeltaMem,
        agent_id: str = "store",
        *,
        fields: Sequence[str] | None = None,
        ttl: TTLConfig | None = None,
    ) -> None:
        super().__init__()
        self._mem = mem
        self._agent = mem.agent(agent_id)
        self._items = Items(mem, self._agent, self._shows)
        self._may_wait = mem.store.url not in IN_MEMORY
        self._fields = fields
        self._sweeper: Sweeper | None = None
        self.ttl_config = ttl

    @property
    def pool(self) -> CallPool:
        """The threads that the async twins run in."""
        return self._agent.pool

    def batch(self, ops: Iterable[Op]) -> list[Result]:
        """Run operations and return their results, in order. Puts are durable; folding happens in the background.

        Raises:
            asyncio.InvalidStateError: An event loop is running in this thread, and waiting for the database would block
                it. A database in memory is exempt.
            DeltaMemError: See the class.
        """
        if self._may_wait:
            refuse_in_loop()
        return self._run(ops)

    def _run(self, ops: Iterable[Op]) -> list[Result]:
        self._mem.check_open()
        ops = [_checked(op) for op in ops]
        now = time.time()
        puts = {(op.namespace, op.key): op for op in ops if isinstance(op, PutOp)}
        seen: dict[Name, Stored] = {}  # items read, whose time to live is renewed
        results = [self._read(op, seen) for op in ops]
        self._items.describe([item.renewed(now) for name, item in seen.items() if name not in puts])
        if puts:
            self._put(puts, self._items.named(puts), now)
        return results

    _arun = twin(_run)

    async def abatch(self, ops: Iterable[Op]) -> list[Result]:
        """Async twin of `batch`; never blocks the event loop."""
        return await self._arun(ops)

    def sweep_ttl(self) -> int:
        """Erase all expired items; returns how many there were."""
        self._mem.check_open()
        now = time.time()
        every = Items(self._mem, self._agent, lambda _: True).newest((), None)
        expired = [item for item in every if not item.lives(now)]
        self._items.erase(expired)
        return len(expired)

    asweep_ttl = twin(sweep_ttl)

    def start_ttl_sweeper(self, sweep_interval_minutes: float | None = None) -> Future[None]:
        """Sweep in a thread from now on, until `stop_ttl_sweeper` is called or the memory is closed.

        Args:
            sweep_interval_minutes: By default the value in the store's ``ttl``, or 5.

        Returns:
            A future that is done when the sweeping ends.
        """
        interval = sweep_interval_minutes or (self.ttl_config or {}).get("sweep_interval_minutes") or SWEEP_MINUTES
        if self._sweeper is None or not self._sweeper.running:
            self._sweeper = Sweeper(self.sweep_ttl, 60 * interval)
        return self._sweeper.ended

    def stop_ttl_sweeper(self, timeout: float | None = None) -> bool:
        """Stop sweeping; returns whether it has stopped within ``timeout`` seconds."""
        return self._sweeper is None or self._sweeper.stop(timeout)

    def _shows(self, item: Stored) -> bool:
        return item.lives(time.time()) or (self.ttl_config or {}).get("omit_expired") is False

    def _read(self, op: Op, seen: dict[Name, Stored]) -> Result:
        if isinstance(op, GetOp):
            found = self._items.get((op.namespace, op.key))
            if found is not None and op.refresh_ttl and found.ttl is not None:
                seen[found.namespace, found.key] = found
            return None if found is None else found.item()
        if isinstance(op, SearchOp):
            page = self._search(op)
            if op.refresh_ttl:
                seen.update(((item.namespace, item.key), item) for item, _ in page if item.ttl is not None)
            return [item.found(score) for item, score in page]
        return self._namespaces(op) if isinstance(op, ListNamespacesOp) else None

    def _search(self, op: SearchOp) -> list[tuple[Stored, float | None]]:
        end = op.offset + op.limit
        if op.limit == 0:
            return []
        if op.query:
            return [*self._items.alike(op.query, end, tuple(op.namespace_prefix), op.filter)[op.offset :]]
        newest = self._items.newest(tuple(op.namespace_prefix), op.filter, least=end)
        return [(item, None) for item in islice(newest, op.offset, end)]

    def _namespaces(self, op: ListNamespacesOp) -> list[Namespace]:
        conditions = op.match_conditions or ()
        begins = max((beginning(condition) for condition in conditions), key=len, default=())
        found = self._items.namespaces(begins)
        chosen = [each for each in found if all(matches(each, condition) for condition in conditions)]
        return sorted({each[: op.max_depth] for each in chosen})[op.offset : op.offset + op.limit]

    def _put(self, puts: Mapping[Name, PutOp], known: Mapping[Name, Stored], now: float) -> None:
        """Write new values, update the metadata of unchanged ones, and erase deleted items and those with a new id."""
        new: list[Stored] = []
        same: list[Stored] = []
        gone: list[Stored] = []
        for number, (name, op) in enumerate(puts.items()):
            old = known.get(name)
            if op.value is None:
                gone += [] if old is None else [old]
                continue
            item = self._made(op, now + number * 1e-6)
            if old is not None:
                item = replace(item, position=old.position, created=old.created if old.lives(now) else item.created)
            if old is not None and (old.content, old.ref) == (item.content, item.ref):
                same.append(item)
            else:
                new.append(item)
                gone += [old] if old is not None and old.ref != item.ref else []
        self._items.write(new)
        self._items.describe(same)
        self._items.erase(gone)

    def _made(self, op: PutOp, now: float) -> Stored:
        assert op.value is not None  # a put without a value is a deletion
        session_of(op.namespace)
        fields = self._fields if op.index is None else () if op.index is False else op.index
        item = Stored(
            namespace=op.namespace,
            key=op.key,
            value=dict(op.value),
            created=now,
            updated=now,
            ttl=op.ttl,
            content=content_of(op.value, fields),
        )
        return item.renewed(now)


def refuse_in_loop() -> None:
    """Refuse to block an event loop, except a notebook's: its cells run in one and wait anyway.

    Raises:
        asyncio.InvalidStateError: A loop is running in this thread.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    shell = sys.modules.get("IPython")
    if shell is None or shell.get_ipython() is None:
        raise asyncio.InvalidStateError(
            "this call would block the event loop; await aget, aput, asearch, adelete, alist_namespaces or abatch, "
            "or make it in another thread"
        )


def _checked(op: Op) -> Op:
    """Return an operation, or raise ConfigError or InvalidNamespaceError if it is not valid."""
    if not isinstance(op, GetOp | SearchOp | PutOp | ListNamespacesOp):
        raise ConfigError(f"{type(op).__name__} is not an operation of a store")
    validate_op_namespace(op)
    if isinstance(op, SearchOp | ListNamespacesOp):
        if any(isinstance(each, int) and each < 0 for each in (op.limit, op.offset)):
            raise ConfigError(f"limit is {op.limit}, offset {op.offset}; neither may be negative")
        arguments.whole(op.limit, "limit")
        arguments.whole(op.offset, "offset")
    if isinstance(op, SearchOp):
        if op.filter is not None and not isinstance(op.filter, Mapping):
            raise ConfigError(f"filter is {shown(op.filter)}; give a mapping of fields to values, or None")
        arguments.instance(op.query, "query", str, optional=True)
        check_filter(op.filter)
    if isinstance(op, PutOp):
        _check_put(op)
    return op


def _check_put(op: PutOp) -> None:
    """Raise ConfigError for a value that is not a mapping, a ttl that is not a number, or an index that is no list."""
    if op.value is not None and not isinstance(op.value, Mapping):
        raise ConfigError(f"value is {shown(op.value)}; give a mapping, or None to delete the item")
    ttl = op.ttl
    if ttl is not None and (isinstance(ttl, bool) or not isinstance(ttl, int | float) or not abs(ttl) <= FOREVER):
        raise ConfigError(f"ttl is {shown(ttl)}; give minutes, or None for no end")
    if op.index is not None and op.index is not False:
        arguments.texts(op.index, "index")


class Sweeper:
    """Sweeps at an interval until it is stopped or the store is closed. A failed sweep is logged.

    Args:
        sweep: Erases expired items.
        interval: Seconds between two sweeps.
    """

    def __init__(self, sweep: Callable[[], object], interval: float) -> None:
        self.ended: Future[None] = Future()
        self._sweep = sweep
        self._interval = interval
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="deltamem-sweeper", daemon=True)
        self._thread.start()

    @property
    def running(self) -> bool:
        """Whether it is still sweeping."""
        return self._thread.is_alive() and not self._stop.is_set()

    def stop(self, timeout: float | None = None) -> bool:
        """Stop sweeping; returns whether the thread has ended within ``timeout`` seconds."""
        self._stop.set()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _work(self) -> None:
        while not self._stop.wait(self._interval):
            try:
                self._sweep()
            except ClosedError:
                break
            except DeltaMemError as error:
                log.warning("a sweep of expired items failed, the next tries again: %s", error)
        self.ended.set_result(None)
