"""Bring an agent's state up to its journal: the state is the fold of the live journal, and revisions only save work."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from uuid import uuid4

from deltamem_agents.core import State
from deltamem_agents.engine import AgentKey, Engine, Segment, StateKey, cut
from deltamem_agents.errors import StoreError, UnknownAgentError
from deltamem_agents.store import Revision, Store, Tail
from deltamem_agents.store.codec import decode, encode

log = logging.getLogger(__name__)

_LOCKS = 64  # agents share them by hash; two agents on one lock only wait for one another


@dataclass(frozen=True, slots=True)
class Folded:
    """A state, and the history and position it stands for."""

    state: State
    position: int
    history: AgentKey

    @property
    def key(self) -> StateKey:
        """What names this state and no other."""
        return self.history, self.position


def under(folded: Folded | None) -> tuple[State | None, StateKey | None]:
    """State and key for `Engine.generate`; of the zero state for None."""
    return (None, None) if folded is None else (folded.state, folded.key)


class Folder:
    """Folds journals of one store with one engine. Threads that ask for one agent at once fold it once."""

    def __init__(self, store: Store, engine: Engine) -> None:
        self._store = store
        self._engine = engine
        self._owner = uuid4().hex  # tells this database's agents from those of others that share the engine
        self._locks = [threading.Lock() for _ in range(_LOCKS)]

    def current(self, agent: str) -> Folded | None:
        """The state of an agent's whole live journal; None for an unknown agent.

        Raises:
            StateMismatchError: The stored state is damaged; the message says how to fold anew.
            InertAdapterError: The adapter wrote nothing.
        """
        with self._locks[hash(agent) % _LOCKS]:
            return self._folded(agent, self._store.tail(agent, self._engine.fingerprint), keep=True)

    def at(self, agent: str, position: int) -> Folded | None:
        """The state of the journal as it stood at a position; None for an unknown agent. Stores nothing.

        Raises:
            ConfigError: The journal has no such position.
            StateMismatchError: A stored state is damaged.
        """
        return self._folded(agent, self._store.tail(agent, self._engine.fingerprint, at=position), keep=False)

    def anew(self, agent: str) -> Folded | None:
        """The state of the whole live journal without any help of stored states; None for an unknown agent."""
        return self._folded(agent, self._store.tail(agent, self._engine.fingerprint, anew=True), keep=False)

    def rebuild(self, agent: str) -> Folded | None:
        """Fold an agent's whole journal anew, whatever was stored; None for an unknown agent."""
        self.forget(agent)
        with self._locks[hash(agent) % _LOCKS]:
            self._store.drop_revisions(agent)
        return self.current(agent)

    def forget(self, agent: str) -> None:
        """Drop what is held of an agent in memory."""
        self._engine.forget(self._owner, agent)

    def _folded(self, agent: str, tail: Tail | None, *, keep: bool) -> Folded | None:
        """The state a tail comes to; to keep is to store it, and to hold the open segment hot."""
        if tail is None:
            return None
        history = AgentKey(self._owner, agent, tail.epoch)
        if tail.newest is not None and not tail.entries:
            return Folded(self._decoded(agent, tail.newest), tail.position, history)
        before, segments, states = self._fold(agent, tail, open_for=history if keep else None)
        if keep:
            self._save(agent, tail, segments, states)
        return Folded(states[-1] if states else before, tail.position, history)

    def _fold(self, agent: str, tail: Tail, open_for: AgentKey | None) -> tuple[State, list[Segment], list[State]]:
        """The state before the tail, its segments, and the state after each."""
        start = tail.base.position if tail.base else 0
        before = self._decoded(agent, tail.base) if tail.base else self._engine.zero_state()
        readable = [entry for entry in tail.entries if entry.text]
        segments = list(cut(readable, self._engine.rendering, self._engine.config.write_length, after=start))
        return before, segments, self._engine.fold(before, segments, open_for=open_for).result()

    def _decoded(self, agent: str, revision: Revision) -> State:
        state = decode(revision.state)
        self._engine.check(state, agent)  # it may fit its checksum, and be another's
        return state

    def _save(self, agent: str, tail: Tail, segments: list[Segment], states: list[State]) -> None:
        """Store the states at the start of the segment that is still open, and at the end of the journal."""
        opened = max((i for i, segment in enumerate(segments) if segment.start >= 0), default=None)
        if opened is None:
            return
        start = tail.base.position if tail.base else 0
        boundary = segments[opened].start
        try:
            if opened > 0 and boundary > start:
                self._commit(agent, tail.epoch, boundary, states[opened - 1], after=start)
            self._commit(agent, tail.epoch, tail.position, states[-1], after=boundary)
        except UnknownAgentError:
            log.debug("agent %r was deleted while its journal was folded", agent)
        except StoreError as error:
            # A database that can be read but not written still answers; whoever can write will fold again.
            log.debug("the state of agent %r was folded and could not be stored: %s", agent, error)

    def _commit(self, agent: str, epoch: int, position: int, state: State, *, after: int) -> None:
        revision = Revision(position=position, epoch=epoch, fingerprint=self._engine.fingerprint, state=encode(state))
        self._store.commit(agent, revision, after=after)
