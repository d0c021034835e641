"""The items in one agent's journal: get, list, search, write, update and erase them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from itertools import islice
from typing import Any

from deltamem_agents.errors import UnknownAgentError
from deltamem_agents.memory import AgentMemory, DeltaMem
from deltamem_agents.store import MessageRef
from langchain_deltamem.store.items import ANY, FIELD, LASTING, Namespace, Stored, ids_of, is_item
from langchain_deltamem.store.matching import fits

Name = tuple[Namespace, str]
FIRST_PAGE, GROWTH, LONGEST_PAGE = 32, 8, 8_192  # items read at a time


class Items:
    """The items of an agent.

    Args:
        shows: Whether to return an item; an expired one may be hidden.
    """

    def __init__(self, mem: DeltaMem, agent: AgentMemory, shows: Callable[[Stored], bool]) -> None:
        self._mem = mem
        self._agent = agent
        self._shows = shows
        self._listed: tuple[object, tuple[Set[Namespace], bool]] = (None, (frozenset(), False))

    def get(self, name: Name) -> Stored | None:
        """The item with this name, without its content; None if there is none, or it is hidden."""
        found = self._mem.store.messages.described(self._agent.id, ".".join(name[0]), ids_of(*name))
        item = Stored.of(found[-1]) if found else None  # the newer of two
        return item if item is not None and self._shows(item) else None

    def named(self, names: Iterable[Name]) -> dict[Name, Stored]:
        """The items with these names, hidden ones included, by name."""
        refs = [(".".join(namespace), each) for namespace, key in names for each in ids_of(namespace, key)]
        found = map(Stored.of, self._mem.store.messages.find(self._agent.id, refs)) if refs else ()
        return {(each.namespace, each.key): each for each in found if each is not None}  # the newer of two

    def newest(self, prefix: Namespace, wanted: Mapping[str, Any] | None, *, least: int = 0) -> Iterator[Stored]:
        """Items of a namespace and those below it whose values match a filter, newest first, without hidden ones.

        Args:
            least: How many items the caller is likely to read.
        """
        seen: set[Name] = set()
        size, before = FIRST_PAGE * GROWTH if wanted else least or FIRST_PAGE, None
        while True:
            entries = self._mem.store.messages.newest(
                self._agent.id, size, below=".".join(prefix), id_prefix=ANY, before=before
            )
            for entry in entries:
                kept: Any = entry.metadata.get(FIELD)
                # The values are checked first: most of them may not match.
                if not is_item(kept) or not fits(kept["value"], wanted):
                    continue
                item = Stored.of(entry)
                if item is not None and (item.namespace, item.key) not in seen and self._shows(item):
                    seen.add((item.namespace, item.key))
                    yield item
            if len(entries) < size:
                return
            size, before = max(size, min(GROWTH * size, LONGEST_PAGE)), entries[-1].position

    def alike(
        self, query: str, count: int, prefix: Namespace, wanted: Mapping[str, Any] | None
    ) -> list[tuple[Stored, float]]:
        """The ``count`` items below a namespace that match a filter and are most similar to a query, with similarity.

        Items without text come last, newest first, with similarity 0.
        """
        best = self._most_alike(query, count, _below(prefix, wanted))
        found = {
            item.ref: item for item in map(Stored.of, self._mem.store.messages.find(self._agent.id, list(best))) if item
        }
        ranked = [(found[ref], score) for ref, score in best.items() if ref in found and self._shows(found[ref])]
        if len(ranked) < count:
            others = (item for item in self.newest(prefix, wanted) if item.ref not in best)
            ranked += [(item, 0.0) for item in islice(others, count - len(ranked))]
        return ranked

    def namespaces(self, prefix: Namespace) -> Set[Namespace]:
        """Of a namespace and those below it, the ones that hold an item that is not hidden."""
        lasting, some_expire = self._indexed(prefix)
        if not some_expire:
            return lasting
        return lasting | {item.namespace for item in self.newest(prefix, None) if item.expires is not None}

    def _indexed(self, prefix: Namespace) -> tuple[Set[Namespace], bool]:
        """Namespaces with items that last, and whether any items expire; cached until the journal changes."""
        version = self._mem.store.records.version(self._agent.id)
        if (version, prefix) != self._listed[0]:
            ranges = self._mem.store.messages.id_ranges(self._agent.id, below=".".join(prefix), id_prefix=ANY)
            lasting = frozenset(tuple(session.split(".")) for session, _, greatest in ranges if greatest >= LASTING)
            self._listed = (version, prefix), (lasting, any(least < LASTING for _, least, _ in ranges))
        return self._listed[1]

    def write(self, items: Iterable[Stored]) -> None:
        """Journal items; those of one namespace all or none."""
        sessions: dict[str, list[dict[str, Any]]] = {}
        for item in items:
            message = {"role": "user", "content": item.content, "id": item.ref.id, "metadata": item.metadata()}
            sessions.setdefault(item.ref.session, []).append(message)
        for session, messages in sessions.items():
            self._agent.write(messages, session, wait=False)

    def describe(self, items: Sequence[Stored]) -> None:
        """Update the stored times and other metadata of items; items that are gone by now are skipped."""
        if items:
            self._mem.store.describe(self._agent.id, {each.position: each.metadata() for each in items})

    def erase(self, items: Iterable[Stored]) -> None:
        """Erase every version of these items, permanently."""
        refs = [item.ref for item in items]
        if not refs:
            return
        try:
            self._agent.erase(ids=refs, wait=False, tombstone=False)  # nobody resends items
        except UnknownAgentError:  # the whole agent was deleted meanwhile
            return

    def _most_alike(
        self, query: str, count: int, holds: Callable[[str, Mapping[str, Any]], bool]
    ) -> dict[MessageRef, float]:
        """Messages with scores, best first. An item with several texts, or a long text, has several records."""
        k = count
        while True:
            records = self._mem.retriever.similar(self._agent.id, query, k, holds=holds)
            best: dict[MessageRef, float] = {}
            for record in records:
                best.setdefault(MessageRef(record.session, record.message_id), record.score)
            if len(best) >= count or len(records) < k:
                return dict(islice(best.items(), count))
            k *= 4


def _below(prefix: Namespace, wanted: Mapping[str, Any] | None) -> Callable[[str, Mapping[str, Any]], bool]:
    """A function that says whether a message is an item below a namespace whose value matches a filter."""
    path = ".".join(prefix)

    def holds(session: str, metadata: Mapping[str, Any]) -> bool:
        kept = metadata.get(FIELD)
        inside = not path or session == path or session.startswith(f"{path}.")
        return inside and is_item(kept) and fits(metadata[FIELD]["value"], wanted)

    return holds
