"""Bring an agent's state up to date: the state is the fold of the live journal, and stored revisions only save work."""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from array import array
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import wait
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import uuid4

from deltamem_agents.engine.segments import AgentKey, Segment, StateKey, cut
from deltamem_agents.errors import ClosedError, StoreError, UnknownAgentError
from deltamem_agents.memory.backbone import Backbone
from deltamem_agents.store import FoldInput, Revision, Store
from deltamem_agents.store.codec import decode, encode

if TYPE_CHECKING:
    from deltamem_agents.core import State
    from deltamem_agents.engine.engine import Engine

log = logging.getLogger(__name__)

PIECE = 4  # segments folded between two checks whether to stop
STORE_EVERY = 2.0  # seconds of folding after which the state so far is stored
PARTIALS = 64  # agents whose interrupted folds are kept
NEARLY_FULL = 0.9  # fullness at which a user is warned; see `Engine.fullness`
POLL = 0.2  # seconds between checks whether to stop, while a piece is folded


@dataclass(frozen=True, slots=True)
class Folded:
    """A state, with the history and the position that it was folded from.

    Args:
        last: The last segment that was folded, with the state before it; None if the state was stored.
    """

    state: State
    position: int
    history: AgentKey
    last: tuple[State, Segment] | None = None

    @property
    def key(self) -> StateKey:
        """The key that identifies this state."""
        return self.history, self.position


def full_warning(fullness: float) -> str:
    """What a user should know about a state that is nearly full."""
    return (
        f"the state is {fullness:.0%} full; above 100% it confuses what it holds, and replies rely on records where "
        "there are any: erase what is no longer needed, or give separate tasks separate agents"
    )


def state_and_key(folded: Folded | None) -> tuple[State | None, StateKey | None]:
    """State and key for `Engine.generate`; None gives the zero state."""
    return (None, None) if folded is None else (folded.state, folded.key)


@dataclass(frozen=True, slots=True)
class _Partial:
    """How far a fold had come when it was interrupted within a message, where nothing can be stored.

    Args:
        start: The position after which it began.
        ids: Hash of the tokens of the folded segments.
        count: How many segments were folded.
    """

    history: AgentKey
    start: int
    ids: bytes
    count: int
    state: State


class Folder:
    """Folds journals of one store with one backbone. Threads that ask for the same agent at once fold it once.

    Without a backbone it folds nothing, and methods that need a state raise ConfigError.

    Args:
        stopping: Returns True when folding should stop.
    """

    def __init__(self, store: Store, backbone: Backbone, stopping: Callable[[], bool] = lambda: False) -> None:
        self._store = store
        self._backbone = backbone
        self._stopping = stopping
        self._owner = uuid4().hex  # distinguishes this database's agents from others that share the engine
        self._locks: dict[str, tuple[threading.Lock, int]] = {}  # with the number of threads that hold or await it
        self._changed = threading.Condition()  # guards the locks
        self._partial: OrderedDict[str, _Partial] = OrderedDict()
        self._warned: set[str] = set()  # agents whose state is nearly full

    @property
    def able(self) -> bool:
        """Whether there is a backbone to fold with."""
        return self._backbone.present

    @property
    def _engine(self) -> Engine:
        return self._backbone.engine("the state")

    def current(self, agent: str, *, stopping: Callable[[], bool] | None = None) -> Folded | None:
        """The state of an agent's whole live journal; None for an unknown agent.

        A long journal is folded piece by piece. States are stored in between, so that after an interrupt or a failure
        less is left to fold.

        Args:
            stopping: Used instead of the folder's own.

        Raises:
            ConfigError: There is no backbone.
            StateMismatchError: The stored state is damaged; the message says how to fold it again.
            InertAdapterError: The adapter wrote nothing.
            ClosedError: The memory is being closed.
            StoreError: The database cannot be read.
        """
        with self._turn(agent):
            tail = self._store.states.fold_input(agent, self._engine.fingerprint)
            folded = self._folded(agent, tail, keep=True, stopping=stopping or self._stopping)
            if folded is not None and folded.last is not None:
                self._warn_if_full(agent, folded.state)
            return folded

    def at(self, agent: str, position: int) -> Folded | None:
        """The state of the journal as it was at a position; None for an unknown agent. Stores nothing.

        Raises:
            ConfigError: The journal has no such position, or there is no backbone.
            StateMismatchError: A stored state is damaged.
        """
        return self._folded(
            agent, self._store.states.fold_input(agent, self._engine.fingerprint, at=position), keep=False
        )

    def anew(self, agent: str) -> Folded | None:
        """The state of the whole live journal, folded without stored states; None for an unknown agent."""
        return self._folded(
            agent, self._store.states.fold_input(agent, self._engine.fingerprint, anew=True), keep=False
        )

    def rebuild(self, agent: str) -> Folded | None:
        """Delete an agent's stored states and fold its whole journal again; None for an unknown agent."""
        self._backbone.engine("folding anew")  # raises before stored states are deleted
        self.forget(agent)
        with self._turn(agent):
            self._store.states.drop(agent)
        return self.current(agent)

    def forget(self, agent: str) -> None:
        """Drop what is cached for an agent."""
        if self._backbone.present:
            self._engine.forget(self._owner, agent)
        self._partial.pop(agent, None)

    def wait(self, seconds: float) -> None:
        """Wait until no thread folds, for at most so many seconds."""
        with self._changed:
            self._changed.wait_for(lambda: not self._locks, seconds)

    @contextmanager
    def _turn(self, agent: str) -> Iterator[None]:
        """Hold the agent's lock, so that one thread at a time folds it."""
        with self._changed:
            lock, users = self._locks.get(agent, (threading.Lock(), 0))
            self._locks[agent] = lock, users + 1
        try:
            with lock:
                yield
        finally:
            with self._changed:
                users = self._locks[agent][1] - 1
                if users:
                    self._locks[agent] = lock, users
                else:
                    del self._locks[agent]
                    self._changed.notify_all()

    def _folded(
        self, agent: str, tail: FoldInput | None, *, keep: bool, stopping: Callable[[], bool] | None = None
    ) -> Folded | None:
        """The state after folding ``tail``; ``keep`` stores it and keeps the open segment hot."""
        if tail is None:
            return None
        history = AgentKey(self._owner, agent, tail.epoch)
        if tail.newest is not None and not tail.entries:
            return Folded(self.decoded(agent, tail.newest), tail.position, history)
        start = tail.base.position if tail.base else 0
        state = self.decoded(agent, tail.base) if tail.base else self._engine.zero_state()
        readable = [entry for entry in tail.entries if entry.text and entry.folded]
        segments = list(cut(readable, self._engine.rendering, self._engine.config.write_length, after=start))
        fold = _Fold(history, start, segments, state)
        if keep:
            fold.resume(self._partial.pop(agent, None))
        stored = time.monotonic()
        try:
            while fold.left:
                piece = fold.left[:PIECE]
                fold.advance(self._run(fold.state, piece, history if keep else None, stopping or self._stopping))
                if keep and fold.left and time.monotonic() - stored > STORE_EVERY:
                    self._save(agent, tail, fold, last=False)
                    stored = time.monotonic()
        except BaseException:
            if keep and fold.done:
                self._partial[agent] = fold.partial()
                if len(self._partial) > PARTIALS:
                    self._partial.popitem(last=False)
                self._save(agent, tail, fold, last=False)
            raise
        if keep:
            self._save(agent, tail, fold, last=True)
        return Folded(fold.state, tail.position, history, fold.last)

    def _warn_if_full(self, agent: str, state: State) -> None:
        """Log once that a state is nearly full, and again after it has been less full."""
        fullness = self._engine.fullness(state)
        if fullness is None or fullness < NEARLY_FULL:
            self._warned.discard(agent)
        elif agent not in self._warned:
            self._warned.add(agent)
            log.warning("agent %r: %s", agent, full_warning(fullness))

    def decoded(self, agent: str, revision: Revision) -> State:
        """The state of a stored revision.

        Raises:
            StateMismatchError: It is damaged, or another adapter's.
        """
        state = decode(revision.state)
        self._engine.check(state, agent)  # its checksum may match although it is another adapter's
        return state

    def _run(
        self, state: State, segments: Sequence[Segment], open_for: AgentKey | None, stopping: Callable[[], bool]
    ) -> list[State]:
        """The state after each segment.

        Raises:
            ClosedError: Folding should stop.
        """
        if stopping():
            raise ClosedError("this DeltaMem is being closed; the rest is folded when it is opened again")
        future = self._engine.fold(state, segments, open_for=open_for)
        while not wait((future,), timeout=POLL).done:
            if stopping():
                future.cancel()
                raise ClosedError("this DeltaMem is being closed; the rest is folded when it is opened again")
        return future.result()

    def _save(self, agent: str, tail: FoldInput, fold: _Fold, *, last: bool) -> None:
        """Store the state at the newest start of a segment and, if ``last``, at the end of the journal."""
        boundary = fold.boundary()
        try:
            if boundary is not None:
                position, state = boundary
                self._commit(agent, tail.epoch, position, state, after=fold.stored)
                fold.stored = position
            if last and fold.begun:
                self._commit(agent, tail.epoch, tail.position, fold.state, after=fold.stored)
        except ClosedError:
            log.debug("the state of agent %r was folded and not stored: the database was closed", agent)
        except UnknownAgentError:
            log.debug("agent %r was deleted while its journal was folded", agent)
        except StoreError as error:
            # A database that can be read but not written still answers; a process that can write will fold again.
            log.debug("the state of agent %r was folded and could not be stored: %s", agent, error)

    def _commit(self, agent: str, epoch: int, position: int, state: State, *, after: int) -> None:
        revision = Revision(position=position, epoch=epoch, fingerprint=self._engine.fingerprint, state=encode(state))
        self._store.states.commit(agent, revision, after=after)


class _Fold:
    """One fold in progress: the segments, and the state so far.

    Args:
        start: The position before the first segment.
    """

    def __init__(self, history: AgentKey, start: int, segments: Sequence[Segment], state: State) -> None:
        self.state = state
        self.last: tuple[State, Segment] | None = None  # the last segment that was folded, and the state before it
        self.done = 0
        self.stored = start
        self._history = history
        self._start = start
        self._segments = segments
        self._boundary: tuple[int, State] | None = None

    @property
    def left(self) -> Sequence[Segment]:
        """The segments that are not folded yet."""
        return self._segments[self.done :]

    @property
    def begun(self) -> bool:
        """Whether there is anything to store: a segment that begins with a message."""
        return any(each.start >= 0 for each in self._segments)

    def advance(self, states: Sequence[State]) -> None:
        """Record the states after the next segments."""
        for state in states:
            self.last = self.state, self._segments[self.done]
            self.done, self.state = self.done + 1, state
            following = self._segments[self.done].start if self.done < len(self._segments) else -1
            if following > self.stored:
                self._boundary = following, state

    def boundary(self) -> tuple[int, State] | None:
        """Position and state at the newest start of a segment reached since the last call; None if there is none."""
        found, self._boundary = self._boundary, None
        return found

    def partial(self) -> _Partial:
        """How far the fold has come."""
        return _Partial(self._history, self._start, self._ids(self.done), self.done, self.state)

    def resume(self, partial: _Partial | None) -> None:
        """Continue where an interrupted fold of the same journal stopped; do nothing if it does not match."""
        if partial is None or (partial.history, partial.start) != (self._history, self._start):
            return
        if partial.count < len(self._segments) and partial.ids == self._ids(partial.count):
            self.done, self.state = partial.count, partial.state

    def _ids(self, count: int) -> bytes:
        digest = hashlib.blake2b(digest_size=16)
        for segment in self._segments[:count]:
            digest.update(array("q", [len(segment.ids), *segment.ids]).tobytes())
        return digest.digest()
