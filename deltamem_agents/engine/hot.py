"""Keys and values of segments that may continue, so that only appended tokens run.

A segment's tokens share one causal context: when a message joins it, a cold fold runs the whole segment again, a hot
one only the new tokens. An entry is used only for the same agent and epoch, the same tokens and the same state before
them, so the result is the same either way.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass

import torch

from deltamem_agents.core import State
from deltamem_agents.engine.caches import Pairs
from deltamem_agents.engine.segments import AgentKey


@dataclass(frozen=True, slots=True)
class HotSegment:
    """A segment that has run.

    Args:
        key: The agent's key.
        ids: Its tokens so far.
        before, after: The states around it.
        past: Keys and values [1, H, n, D] of ``ids`` in each layer.
    """

    key: AgentKey
    ids: list[int]
    before: State
    after: State
    past: Pairs

    @property
    def size(self) -> int:
        """Size of its keys, values and states in bytes."""
        cached = [tensor for pair in self.past for tensor in pair]
        return sum(tensor.nbytes for tensor in (*cached, *self.before.values(), *self.after.values()))

    def begins(self, before: State, ids: list[int]) -> bool:
        """Whether a segment with these tokens and this state before them continues this one."""
        same = before.keys() == self.before.keys() and ids[: len(self.ids)] == self.ids
        return same and all(torch.equal(tensor, self.before[name]) for name, tensor in before.items())


class HotSegments:
    """One open segment per agent, within a budget of bytes; the least recently used are evicted first."""

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._held: OrderedDict[tuple[Hashable, str], HotSegment] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def enabled(self) -> bool:
        """Whether anything can be kept."""
        return self._budget > 0

    @property
    def bytes(self) -> int:
        """Bytes held now."""
        with self._lock:
            return sum(each.size for each in self._held.values())

    def __len__(self) -> int:
        return len(self._held)

    def take(self, key: AgentKey) -> HotSegment | None:
        """Remove and return an agent's segment; None if there is none of this epoch."""
        with self._lock:
            found = self._held.pop(key[:2], None)
        return found if found is not None and found.key == key else None

    def put(self, segment: HotSegment) -> None:
        """Keep an agent's segment in place of its previous one, unless it exceeds the budget."""
        whose = segment.key[:2]
        with self._lock:
            self._held.pop(whose, None)
            if segment.size > self._budget:
                return
            self._held[whose] = segment
            sizes = {each: held.size for each, held in self._held.items()}
            total = sum(sizes.values())
            while self._held and total > self._budget:
                oldest, _ = self._held.popitem(last=False)
                total -= sizes[oldest]

    def drop(self, owner: Hashable, agent: str) -> None:
        """Drop an agent's segment."""
        with self._lock:
            self._held.pop((owner, agent), None)

    def clear(self) -> None:
        """Drop all segments."""
        with self._lock:
            self._held.clear()
