"""`DeltaMemStore`: see the class. Runs LangGraph's operations on one agent's journal."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

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

from deltamem_agents.errors import ConfigError, UnknownAgentError
from deltamem_agents.memory import DeltaMem
from deltamem_agents.memory.twins import twin
from deltamem_agents.store import MessageRef
from langchain_deltamem.store.items import FIELD, Namespace, Stored, content_of, ref_of, session_of
from langchain_deltamem.store.matching import fits, matches

Name = tuple[Namespace, str]


class DeltaMemStore(BaseStore):
    """LangGraph's store in a memory's database: values by namespace and key, and a hybrid search over their text.

    The items are messages of one agent, so that its state holds them too, and `AgentMemory`'s `log`, `fork`,
    `rollback`, `erase` and `export` are of them. Putting replaces; deleting erases, every version, for good. A search
    with a query gives what full text and embedding find, best first, and after that the rest, without a score. Reads
    of a batch see what was there before it, and of several puts of one item the last counts. The puts of a namespace
    are written all or none.

    Args:
        mem: An open one; not closed by this class.
        agent_id: Whose journal the items are in.
        fields: Paths to what of a value is text, where a put has no ``index``; by default all of it.
        ttl: LangGraph's options; of these ``default_ttl`` (minutes) and ``refresh_on_read``. What has expired is not
            shown; `sweep_ttl` erases it.

    Raises:
        InvalidAgentError: The agent id is not one.
        InvalidNamespaceError: On a call, where a label is not one, or the namespace has more than 255 characters.
        InvalidMessageError: On a put of a value that JSON cannot hold.
        ClosedError: On a call, after ``mem`` was closed.
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
        self._fields = fields
        self.ttl_config = ttl

    @property
    def pool(self) -> ThreadPoolExecutor:
        """Where the async twins run."""
        return self._agent.pool

    def batch(self, ops: Iterable[Op]) -> list[Result]:
        """Run operations; the result of each, in their order. Puts are durable, and folded in the background."""
        self._mem.check_open()
        ops = list(ops)
        for op in ops:
            if not isinstance(op, GetOp | SearchOp | PutOp | ListNamespacesOp):
                raise ConfigError(f"{type(op).__name__} is no operation of a store")
            validate_op_namespace(op)
        now = time.time()
        puts = {(op.namespace, op.key): op for op in ops if isinstance(op, PutOp)}
        known = self._known({(op.namespace, op.key) for op in ops if isinstance(op, GetOp)} | puts.keys())
        seen: dict[MessageRef, Stored] = {}  # whose time to live a read renews
        results = [self._read(op, known, now, seen) for op in ops]
        gone = {ref_of(*name) for name in puts}
        self._describe([each.renewed(now) for each in seen.values() if each.ref not in gone])
        self._put(puts, known, now)
        return results

    abatch = twin(batch)

    def sweep_ttl(self) -> int:
        """Erase what has expired; how many items."""
        self._mem.check_open()
        now = time.time()
        expired = [each.ref for each in self._under(()) if not each.lives(now)]
        self._erase(expired)
        return len(expired)

    asweep_ttl = twin(sweep_ttl)

    def _read(self, op: Op, known: Mapping[Name, Stored], now: float, seen: dict[MessageRef, Stored]) -> Result:
        if isinstance(op, GetOp):
            found = known.get((op.namespace, op.key))
            if found is None or not found.lives(now):
                return None
            if op.refresh_ttl and found.ttl is not None:
                seen[found.ref] = found
            return found.item()
        if isinstance(op, SearchOp):
            page = self._search(op, now)[op.offset : op.offset + op.limit]
            if op.refresh_ttl:
                seen.update((each.ref, each) for each, _ in page if each.ttl is not None)
            return [each.found(score) for each, score in page]
        return self._namespaces(op, now) if isinstance(op, ListNamespacesOp) else None

    def _search(self, op: SearchOp, now: float) -> list[tuple[Stored, float | None]]:
        """Items with their scores, at least as many as the page needs."""
        if op.limit < 0 or op.offset < 0:
            raise ConfigError(f"limit is {op.limit}, offset {op.offset}; neither may be negative")
        within = (each for each in self._under(op.namespace_prefix) if each.lives(now))
        items = {each.ref: each for each in within if fits(each.value, op.filter)}
        found: list[tuple[Stored, float | None]] = []
        if op.query and items and op.offset + op.limit:
            names = {(".".join(each.namespace), each.key) for each in items.values()}
            for ref, score in self._retrieve(op.query, op.offset + op.limit, _among(names)).items():
                if ref in items:  # or deleted meanwhile
                    found.append((items.pop(ref), score))
        return [*found, *((each, None) for each in items.values())]

    def _retrieve(
        self, query: str, count: int, holds: Callable[[str, Mapping[str, Any]], bool]
    ) -> dict[MessageRef, float]:
        """Messages with scores, best first; an item with a long text has several records."""
        k = count
        while True:
            records = self._mem.retriever.search(self._agent.id, query, k, holds=holds, weed=False)
            best: dict[MessageRef, float] = {}
            for record in records:
                best.setdefault(MessageRef(*record.ref), record.score)
            if len(best) >= count or len(records) < k:
                return best
            k *= 4

    def _namespaces(self, op: ListNamespacesOp, now: float) -> list[Namespace]:
        conditions = op.match_conditions or ()
        live = {each.namespace for each in self._under(()) if each.lives(now)}
        chosen = [each for each in live if all(matches(each, condition) for condition in conditions)]
        return sorted({each[: op.max_depth] for each in chosen})[op.offset : op.offset + op.limit]

    def _known(self, names: Iterable[Name]) -> dict[Name, Stored]:
        refs = [ref_of(*name) for name in names]
        found = map(Stored.of, self._mem.store.find(self._agent.id, refs)) if refs else ()
        return {(each.namespace, each.key): each for each in found if each is not None}

    def _under(self, prefix: Namespace) -> list[Stored]:
        """Items of a namespace and those below it: by namespace, the oldest first, and in each by age."""
        entries = self._mem.store.under(self._agent.id, ".".join(prefix))
        found = [each for each in map(Stored.of, entries) if each and each.namespace[: len(prefix)] == prefix]
        found.sort(key=lambda each: each.created)
        oldest: dict[Namespace, int] = {}
        for each in found:
            oldest.setdefault(each.namespace, len(oldest))
        return sorted(found, key=lambda each: oldest[each.namespace])

    def _put(self, puts: Mapping[Name, PutOp], known: Mapping[Name, Stored], now: float) -> None:
        """Write what is new, describe anew what says the same as before, erase what is deleted."""
        sessions: dict[str, list[Stored]] = {}
        same: list[Stored] = []
        for number, (name, op) in enumerate(puts.items()):
            if op.value is None:
                continue
            session, item = session_of(op.namespace), self._made(op, now + number * 1e-6)
            old = known.get(name)
            if old is not None:
                item = replace(item, position=old.position, created=old.created if old.lives(now) else item.created)
            if old is not None and old.content == item.content:
                same.append(item)
            else:
                sessions.setdefault(session, []).append(item)
        for session, items in sessions.items():
            messages = [
                {"role": "user", "content": each.content, "id": each.ref.id, "metadata": each.metadata()}
                for each in items
            ]
            self._agent.write(messages, session, wait=False)
        self._describe(same)
        self._erase([known[name].ref for name, op in puts.items() if op.value is None and name in known])

    def _made(self, op: PutOp, now: float) -> Stored:
        assert op.value is not None  # a put without a value is a deletion
        fields = self._fields if op.index is None else () if op.index is False else op.index
        content = content_of(op.value, fields)
        item = Stored(
            namespace=op.namespace,
            key=op.key,
            value=dict(op.value),
            created=now,
            updated=now,
            ttl=op.ttl,
            content=content,
        )
        return item.renewed(now)

    def _describe(self, items: Sequence[Stored]) -> None:
        if items:
            self._mem.store.describe(self._agent.id, {each.position: each.metadata() for each in items})

    def _erase(self, refs: Sequence[MessageRef]) -> None:
        if not refs:
            return
        try:
            self._agent.erase(ids=refs, wait=False)
        except UnknownAgentError:  # the whole agent was deleted meanwhile
            return


def _among(names: set[tuple[str, str]]) -> Callable[[str, Mapping[str, Any]], bool]:
    def holds(session: str, metadata: Mapping[str, Any]) -> bool:
        kept = metadata.get(FIELD)
        return isinstance(kept, dict) and (session, kept.get("key")) in names

    return holds
