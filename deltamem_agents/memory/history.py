"""`History`: reading an agent's journal and states, forking, rolling back and erasing. Base class of `AgentMemory`."""

from __future__ import annotations

import math
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import TYPE_CHECKING, Self

from deltamem_agents import arguments
from deltamem_agents.errors import ConfigError, StateMismatchError, StoreError, UnknownAgentError, shown
from deltamem_agents.memory.async_methods import twin
from deltamem_agents.memory.folding import Folded
from deltamem_agents.memory.results import Difference, Drift, Health, Receipt, state_hashes
from deltamem_agents.memory.runtime import Runtime
from deltamem_agents.recall import Record
from deltamem_agents.store import AgentInfo, Entry, Selection
from deltamem_agents.store.codec import encode
from deltamem_agents.store.revisions import checksum_of

if TYPE_CHECKING:
    from deltamem_agents.core import State

UNFOLDED = (
    "opened with backbone=None: the stored states that knew what was erased are deleted, and whoever opens this "
    "database with a backbone folds what is left"
)


class History:
    """The journal and the states of one agent; see `AgentMemory`."""

    def __init__(self, runtime: Runtime, agent_id: str) -> None:
        self._runtime = runtime
        self.id = agent_id

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.id!r}, {self._runtime.store.url})"

    @property
    def pool(self) -> ThreadPoolExecutor:
        """The threads that the async twins run in.

        Raises:
            ClosedError, ForkedError: See `AgentMemory`.
        """
        self._runtime.check_open()
        return self._runtime.pool

    def log(self, session: str | None = None, *, at: int | None = None) -> list[Entry]:
        """The live messages, in order; empty for an unknown agent.

        Args:
            session: Only messages of this session.
            at: The messages that were live when the journal ended at this position.

        Raises:
            ConfigError: The journal has no such position.
            InvalidAgentError: The session id is not valid.
        """
        self._runtime.check_open()
        return self._runtime.store.log(self.id, session, at)

    def neighbours(self, record: Record, reach: int = 2) -> list[Entry]:
        """The messages around a record's message in its session, with that message, oldest first; none if it is gone.

        Args:
            reach: How many messages on each side.

        Raises:
            ConfigError: ``record`` is not a `Record`, or ``reach`` is not a number of messages.
        """
        arguments.instance(record, "record", Record)
        if isinstance(reach, bool) or not isinstance(reach, int) or not 0 <= reach <= arguments.LARGEST:
            raise ConfigError(f"reach is {shown(reach)}; give a number of messages, 0 or more")
        log = self.log(record.session)
        for place, entry in enumerate(log):
            if entry.position == record.position:
                return log[max(0, place - reach) : place + reach + 1]
        return []

    def sessions(self) -> list[str]:
        """The sessions that have live messages, in the order in which they began."""
        self._runtime.check_open()
        return self._runtime.store.sessions(self.id)

    def state(self, *, at: int | None = None) -> State:
        """The agent's state: module name to float32 tensor [R, R] or [H, R, R]; empty for an unknown agent.

        Args:
            at: The state of the journal as it was when it ended at this position.

        Raises:
            ConfigError: The journal has no such position, or the memory was opened without a backbone.
            StateMismatchError: A stored state is damaged; see `rebuild`.
            InertAdapterError: The adapter wrote nothing while folding.
            EngineMemoryError: The device has too little memory for the fold.
            EngineFailedError: The engine has stopped after an error of its own.
        """
        self._runtime.check_open()
        folder = self._runtime.folder
        folded = folder.current(self.id) if at is None else folder.at(self.id, at)
        return folded.state if folded else {}

    def rebuild(self) -> State:
        """Delete the stored states and fold the whole journal again: the remedy for a damaged state.

        Returns:
            The new state, as `state` gives it.

        Raises:
            ConfigError: The memory was opened without a backbone.
            StoreError: The database could not be written.
            InertAdapterError: The adapter wrote nothing while folding.
            EngineMemoryError: The device has too little memory for the fold.
            EngineFailedError: The engine has stopped after an error of its own.
        """
        self._runtime.check_open()
        folded = self._runtime.folder.rebuild(self.id)
        return folded.state if folded else {}

    def verify(self) -> Drift:
        """Compare the state in use with a fresh fold of the whole journal.

        Raises:
            ConfigError: The memory was opened without a backbone.
            StateMismatchError: The stored state is damaged, or not finite.
            InertAdapterError: The adapter wrote nothing while folding.
            EngineMemoryError: The device has too little memory for the fold.
            EngineFailedError: The engine has stopped after an error of its own.
        """
        self._runtime.check_open()
        used, anew = self._runtime.folder.current(self.id), self._runtime.folder.anew(self.id)
        if used is None or anew is None:
            return Drift(position=0, layers={})
        return Drift(position=used.position, layers=distances(used.state, anew.state))

    def diff(self, a: int, b: int | None = None) -> Difference:
        """What changed between two positions of the journal, and in the states if there is a backbone.

        Args:
            b: The second position, by default the journal's end; it may be smaller than ``a``.

        Raises:
            UnknownAgentError: Nothing was ever written to this agent.
            ConfigError: The journal has no such position.
            StateMismatchError: A stored state is damaged, or not finite.
            InertAdapterError: The adapter wrote nothing while folding.
            EngineMemoryError: The device has too little memory for the fold.
            EngineFailedError: The engine has stopped after an error of its own.
        """
        self._runtime.check_open()
        end = self._known().position
        first, second = self._runtime.store.at(self.id, a), self._runtime.store.at(self.id, end if b is None else b)
        before, after = {entry.position for entry in first}, {entry.position for entry in second}
        layers: dict[str, float] = {}
        if self._runtime.folder.able:
            layers = distances(self.state(at=end if b is None else b), self.state(at=a))
        return Difference(
            added=[entry for entry in second if entry.position not in before],
            removed=[entry for entry in first if entry.position not in after],
            layers=layers,
        )

    def fork(self, new: str) -> Self:
        """Create another agent with the same journal and states; from then on the two are independent.

        Args:
            new: Id of the new agent.

        Returns:
            The memory of the new agent.

        Raises:
            UnknownAgentError: Nothing was ever written to this agent.
            InvalidAgentError: The new id is not valid.
            ConfigError: The new agent exists already.
            StoreError: The database could not be written; nothing was created.
        """
        self._runtime.check_open()
        self._runtime.store.fork(self.id, new)
        return type(self)(self._runtime, new)

    def rollback(self, position: int) -> int:
        """Continue the journal from ``position``. Later messages are no longer live, but they are not erased.

        Returns:
            The position of the rollback, which is a journal entry itself; rolling back to the entry before it undoes
            it. If the rollback changes nothing, no entry is made and this is the journal's end.

        Raises:
            UnknownAgentError: Nothing was ever written to this agent.
            ConfigError: The journal has no such position.
            StoreError: The database could not be written; nothing was changed.
        """
        self._runtime.check_open()
        entry = self._runtime.store.rollback(self.id, position)
        self._runtime.folder.forget(self.id)
        self._runtime.retriever.forget(self.id)
        return entry

    def erase(
        self,
        *,
        ids: Collection[str | tuple[str, str]] | None = None,
        session: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        forks: bool = False,
        dry_run: bool = False,
        wait: bool = True,
        tombstone: bool = True,
    ) -> Receipt:
        """Erase messages and all data derived from them, as if the agent had never seen them.

        Only messages that match every filter are erased, live or not. A message that an erased one had replaced is live
        again.

        Args:
            ids: Every version of these messages: ids, or pairs of session and id, such as `Entry.ref` and the refs of a
                receipt. An id that several sessions have needs ``session``, or a pair.
            session: Messages of this session.
            since, until: Messages written at or after ``since`` and before ``until``; UTC if without a zone.
            forks: Whether to erase the messages from agents that share them by forking, too; by default the receipt
                lists these agents.
            dry_run: Only report what would be erased.
            wait: Whether to fold what is left now. False leaves that to the next use, and the receipt then has no hash
                of the state after.
            tombstone: Whether to keep a hash of each message, under a key of the agent's own. It keeps an integration
                whose client sends its history again from bringing the messages back; `write` ignores it. The receipt's
                ``remaining`` lists them. False keeps no hashes, and removes those that earlier erasures of these ids,
                or of this session, have left.

        Raises:
            UnknownAgentError: Nothing was ever written to this agent.
            ConfigError: No filter was given, a filter is not valid, or several sessions have an id; nothing was erased.
            StoreError: The database could not be written; nothing was erased.
            ClosedError, ForkedError: See `AgentMemory`; nothing was erased.
        """
        chosen = Selection(ids=ids, session=session, since=since, until=until)
        return self._erase(chosen, forks=forks, dry_run=dry_run, wait=wait, tombstone=tombstone)

    def delete(self, *, forks: bool = False, dry_run: bool = False) -> Receipt:
        """Erase the whole agent: its messages, the agent itself, and the hashes of erased messages with their key.

        Args:
            forks: Whether to erase its messages from agents that share them by forking, too. These agents stay, with
                hashes of the messages, as `erase` leaves them.
            dry_run: Only report what would be erased.

        Raises:
            UnknownAgentError: Nothing was ever written to this agent.
            StoreError: The database could not be written; nothing was erased.
        """
        return self._erase(Selection(whole=True), forks=forks, dry_run=dry_run)

    def health(self) -> Health:
        """What is journalled, folded and stored of this agent. Folds nothing."""
        self._runtime.check_open()
        store, info = self._runtime.store, self._runtime.store.agent(self.id)
        if info is None:
            return Health()
        stored = store.stored_states(self.id, self._runtime.backbone.fingerprint)
        return Health(
            messages=info.messages,
            position=info.position,
            epoch=info.epoch,
            unfolded=sum(entry.folded for entry in store.live(self.id, after=stored.position or 0)),
            revisions=stored.count,
            state_bytes=stored.bytes,
            folded_at=stored.created_at,
        )

    alog = twin(log)
    aneighbours = twin(neighbours)
    asessions = twin(sessions)
    astate = twin(state)
    arebuild = twin(rebuild)
    averify = twin(verify)
    adiff = twin(diff)
    afork = twin(fork)
    arollback = twin(rollback)
    aerase = twin(erase)
    adelete = twin(delete)
    ahealth = twin(health)

    def _known(self) -> AgentInfo:
        found = self._runtime.store.agent(self.id)
        if found is None:
            raise UnknownAgentError(
                f"agent {self.id!r} is not in {self._runtime.store.url}; it exists from its first write"
            )
        return found

    def _erase(
        self, chosen: Selection, *, forks: bool, dry_run: bool, wait: bool = True, tombstone: bool = True
    ) -> Receipt:
        for name, value in (("forks", forks), ("dry_run", dry_run), ("wait", wait), ("tombstone", tombstone)):
            arguments.flag(value, name)
        self._runtime.check_open()
        store = self._runtime.store
        before = store.stored_states(self.id, self._runtime.backbone.fingerprint).checksum
        plan = store.erase(self.id, chosen, forks=forks, dry_run=dry_run, tombstone=tombstone)
        reason, after = None, before
        if not dry_run:
            for each in plan.erased:
                self._runtime.folder.forget(each.agent)
                self._runtime.retriever.forget(each.agent)
            reason = self._purge()
            folded = self._folded_after_erasing() if wait and self._runtime.folder.able else None
            after = checksum_of(encode(folded.state)) if folded else None
        unfolded = not dry_run and not self._runtime.folder.able and store.knows(self.id)
        return Receipt(
            agent=self.id,
            status="dry run" if dry_run else "pending" if reason else "complete",
            reason=reason,
            erased=tuple(plan.erased),
            held_by=plan.held_by,
            remaining=plan.remaining,
            state=state_hashes(before, after, UNFOLDED if unfolded else None),
            outside_reach=store.outside_reach,
        )

    def _folded_after_erasing(self) -> Folded | None:
        """The state of what is left; None if it cannot be folded. The receipt must not be lost in either case."""
        try:
            try:
                return self._runtime.folder.current(self.id)
            except (StateMismatchError, StoreError):
                return self._runtime.folder.rebuild(self.id)
        except Exception as error:  # whatever a model, a device or a database may raise
            self._runtime.failures.failed("folding", self.id, error)
            return None

    def _purge(self) -> str | None:
        """Purge as `Store.purge` does, but return an error's message: the erasure is done and needs its receipt."""
        try:
            return self._runtime.store.purge(whole=False)
        except StoreError as error:
            return str(error)


def distances(state: State, other: State) -> dict[str, float]:
    """‖a − b‖ / ‖b‖ by module name; ‖a‖ if b is zero.

    Raises:
        StateMismatchError: A distance is not a finite number.
    """
    found: dict[str, float] = {}
    for name, tensor in state.items():
        reference = other[name] if name in other else tensor.new_zeros(tensor.shape)
        size = float(reference.norm())
        found[name] = float((tensor - reference).norm()) / (size if size else 1.0)
        if not math.isfinite(found[name]):
            raise StateMismatchError(
                f"the states of {name!r} are {found[name]} apart: one holds values that are not finite; "
                "fold the journal again with 'deltamem rebuild'"
            )
    return found
