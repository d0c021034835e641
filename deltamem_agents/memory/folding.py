"""Bring an agent's state up to its journal: the state is the fold of the live journal, and revisions only save work."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass

from deltamem_agents.core import State
from deltamem_agents.engine import Engine, Segment, cut
from deltamem_agents.errors import StoreError
from deltamem_agents.store import Revision, Store
from deltamem_agents.store.codec import decode, encode

log = logging.getLogger(__name__)

_LOCKS = 64  # agents share them by hash; two agents on one lock only wait for one another


@dataclass(frozen=True, slots=True)
class Folded:
    """A state, the journal position and the epoch it stands for."""

    state: State
    position: int
    epoch: int


class Folder:
    """Folds journals of one store with one engine. Threads that ask for one agent at once fold it once."""

    def __init__(self, store: Store, engine: Engine) -> None:
        self._store = store
        self._engine = engine
        self._locks = [threading.Lock() for _ in range(_LOCKS)]

    def current(self, agent: str) -> Folded | None:
        """The state of an agent's whole live journal; None for an unknown agent.

        Raises:
            StateMismatchError: The stored state is damaged; the message says how to fold anew.
            InertAdapterError: The adapter wrote nothing.
        """
        with self._locks[hash(agent) % _LOCKS]:
            known = self._store.agent(agent)
            if known is None:
                return None
            fingerprint = self._engine.fingerprint
            newest = self._store.newest_revision(agent, fingerprint)
            if newest is not None and not self._store.live(agent, after=newest.position):
                return Folded(decode(newest.state), newest.position, newest.epoch)
            base = self._segment_start(agent, newest)
            return self._fold(agent, known.epoch, base)

    def rebuild(self, agent: str) -> Folded | None:
        """Fold an agent's whole journal anew, whatever was stored; None for an unknown agent."""
        with self._locks[hash(agent) % _LOCKS]:
            self._store.drop_revisions(agent)
        return self.current(agent)

    def _segment_start(self, agent: str, newest: Revision | None) -> Revision | None:
        """The revision at the start of the segment that was open at ``newest``: its parent. None starts from zero."""
        if newest is None or newest.parent == 0:
            return None
        found = self._store.newest_revision(agent, self._engine.fingerprint, at_or_before=newest.parent)
        return found if found is not None and found.position == newest.parent else None

    def _fold(self, agent: str, epoch: int, base: Revision | None) -> Folded:
        start = base.position if base else 0
        before = decode(base.state) if base else self._engine.zero_state()
        messages = self._store.live(agent, after=start)
        readable = [message for message in messages if message.text]
        segments = list(cut(readable, self._engine.rendering, self._engine.config.write_length, after=start))
        states = self._engine.fold(before, segments).result()
        end = messages[-1].position if messages else start
        state = states[-1] if states else before
        self._save(agent, epoch, start, before, segments, states, end)
        return Folded(state, end, epoch)

    def _save(
        self, agent: str, epoch: int, start: int, before: State, segments: list[Segment], states: list[State], end: int
    ) -> None:
        """Store the states at the start of the segment that is still open, and at the end of the journal."""
        opened = max((i for i, segment in enumerate(segments) if segment.start >= 0), default=None)
        if opened is None:
            return
        boundary = segments[opened].start
        try:
            if opened > 0 and boundary > start:
                self._commit(agent, epoch, boundary, states[opened - 1], after=start, keep=boundary)
            self._commit(agent, epoch, end, states[-1], after=boundary, keep=boundary)
        except StoreError as error:
            # A database that can be read but not written still answers; whoever can write will fold again.
            log.debug("the state of agent %r was folded and could not be stored: %s", agent, error)

    def _commit(self, agent: str, epoch: int, position: int, state: State, *, after: int, keep: int) -> None:
        revision = Revision(position=position, epoch=epoch, fingerprint=self._engine.fingerprint, state=encode(state))
        self._store.commit(agent, revision, after=after, keep={keep})
