"""`History`: what an agent was told, when, and taking it back. The half of `AgentMemory` that asks no questions."""

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
        """Where the async twins run.

        Raises:
            ClosedError: The memory was closed.
        """
        self._runtime.check_open()
        return self._runtime.pool

    def log(self, session: str | None = None, *, at: int | None = None) -> list[Entry]:
        """The live journal, in order. Empty for an unknown agent.

        Args:
            session: Of this one only.
            at: As it stood when it ended at this position.

        Raises:
            ConfigError: The journal has no such position.
        """
        self._runtime.check_open()
        return self._runtime.store.log(self.id, session, at)

    def neighbours(self, record: Record, reach: int = 2) -> list[Entry]:
        """The messages around a record's in its session, its own among them, oldest first; none if it is gone.

        Args:
            reach: On either side.

        Raises:
            ConfigError: The reach is not a number of messages.
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
        """Sessions that have live messages, in the order in which they began."""
        self._runtime.check_open()
        return self._runtime.store.sessions(self.id)

    def state(self, *, at: int | None = None) -> State:
        """The state of the journal: module name to float32 tensor [R, R] or [H, R, R]; empty if unknown.

        Args:
            at: As the journal stood when it ended at this position.

        Raises:
            ConfigError: The journal has no such position.
        """
        self._runtime.check_open()
        folder = self._runtime.folder
        folded = folder.current(self.id) if at is None else folder.at(self.id, at)
        return folded.state if folded else {}

    def rebuild(self) -> State:
        """Forget the stored states and fold the journal anew: the remedy where one is damaged. The new state.

        Raises:
            StoreError: The database could not be written.
        """
        self._runtime.check_open()
        folded = self._runtime.folder.rebuild(self.id)
        return folded.state if folded else {}

    def verify(self) -> Drift:
        """Fold the whole journal anew and compare with the state in use; changes nothing.

        Raises:
            StateMismatchError: The stored state is damaged, or not finite.
        """
        self._runtime.check_open()
        used, anew = self._runtime.folder.current(self.id), self._runtime.folder.anew(self.id)
        if used is None or anew is None:
            return Drift(position=0, layers={})
        return Drift(position=used.position, layers=distances(used.state, anew.state))

    def diff(self, a: int, b: int | None = None) -> Difference:
        """What happened between two positions of the journal; to the states too, where there is a backbone.

        Args:
            b: By default the journal's end; may be the smaller one.

        Raises:
            UnknownAgentError: Nothing was ever written to this agent.
            ConfigError: The journal has no such position.
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
        """Make another agent with the same journal and states; from then on they know nothing of one another.

        Raises:
            UnknownAgentError: Nothing was ever written to this agent.
            ConfigError: The other one exists.
        """
        self._runtime.check_open()
        self._runtime.store.fork(self.id, new)
        return type(self)(self._runtime, new)

    def rollback(self, position: int) -> int:
        """Let the journal go on from how it stood at ``position``. What came after is no longer live, and not erased.

        Returns:
            The position of the rollback, an entry of its own; rolling back to the one before it undoes it.

        Raises:
            UnknownAgentError: Nothing was ever written to this agent.
            ConfigError: The journal has no such position.
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
        """Erase messages, and all that was made of them, as if the agent had never seen them.

        Erased are messages that fulfil all that is given, whether they are live or not. One that an erased message had
        replaced is live again.

        Args:
            ids: Every version of these messages: ids, or pairs of session and id such as `Entry.ref` and a receipt's.
                An id alone must be of one session only, or ``session`` say which is meant.
            since, until: Written at or after the one, before the other; UTC where they have no zone.
            forks: Also from agents that share the messages by forking; by default the receipt lists these.
            dry_run: Only say what would go.
            wait: Whether to fold what is left, which the next use does otherwise and the receipt does not tell.
            tombstone: Whether a hash of each message stays, under a key of the agent's, so that an integration whose
                client sends its history again does not bring it back; the receipt's ``remaining`` lists them. Nothing
                else looks at them: what is written by `write` is kept. False leaves nothing, and takes away what
                earlier erasures of these ids, or of this session, have left.

        Raises:
            UnknownAgentError: Nothing was ever written to this agent.
            ConfigError: Nothing was given, or what cannot be, or an id that several sessions have; nothing was erased.
            StoreError: The database could not be written; nothing was erased.
        """
        chosen = Selection(ids=ids, session=session, since=since, until=until)
        return self._erase(chosen, forks=forks, dry_run=dry_run, wait=wait, tombstone=tombstone)

    def delete(self, *, forks: bool = False, dry_run: bool = False) -> Receipt:
        """Erase the whole agent: its messages and the agent itself, with all hashes of erased ones and their key.

        Args:
            forks: Also its messages from agents that share them by forking; these agents stay, with hashes of the
                messages as `erase` leaves them.
            dry_run: Only say what would go.

        Raises:
            UnknownAgentError: Nothing was ever written to this agent.
            StoreError: The database could not be written; nothing was erased.
        """
        return self._erase(Selection(whole=True), forks=forks, dry_run=dry_run)

    def health(self) -> Health:
        """How the memory stands: what is journalled, folded and stored. Folds nothing."""
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
        """The state of what is left; None where it cannot be folded. The receipt is given in any case."""
        try:
            try:
                return self._runtime.folder.current(self.id)
            except (StateMismatchError, StoreError):
                return self._runtime.folder.rebuild(self.id)
        except Exception as error:  # whatever a model, a device or a database may raise
            self._runtime.failures.failed("folding", self.id, error)
            return None

    def _purge(self) -> str | None:
        """As `Store.purge`; what is erased by now must not go without its receipt."""
        try:
            return self._runtime.store.purge(whole=False)
        except StoreError as error:
            return str(error)


def distances(state: State, other: State) -> dict[str, float]:
    """‖a − b‖ / ‖b‖ of each module; ‖a‖ where b is zero.

    Raises:
        StateMismatchError: One of them is not a finite number.
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
