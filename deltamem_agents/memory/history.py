"""`History`: time travel in an agent's journal and states, and erasure from both."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from deltamem_agents import arguments, telemetry
from deltamem_agents.errors import ConfigError, StateMismatchError, StoreError, UnknownAgentError, shown
from deltamem_agents.memory.folding import NEARLY_FULL, Folded, full_warning
from deltamem_agents.memory.results import Difference, Drift, Health, Receipt, StatePoint, state_hashes
from deltamem_agents.memory.runtime import Runtime
from deltamem_agents.recall import Record
from deltamem_agents.store import Entry, Selection
from deltamem_agents.store.codec import encode
from deltamem_agents.store.revisions import checksum_of

if TYPE_CHECKING:
    from deltamem_agents.core import State
    from deltamem_agents.core.diagnostics import LayerHealth

POINTS = 1000  # stored states that `trend` reads at most
DRIFT = 1e-2  # relative distance from a fresh fold that is worth a warning; less may be rounding
UNFOLDED = (
    "opened with backbone=None: the stored states that knew what was erased are deleted, and the rest is "
    "folded when this database is opened with a backbone"
)


class History:
    """The journal and the states of one agent; see the methods of `AgentMemory` with the same names."""

    def __init__(self, runtime: Runtime, agent: str) -> None:
        self._runtime = runtime
        self._agent = agent

    def sessions(self) -> list[str]:
        """The sessions with live messages, in the order in which they began."""
        self._runtime.check_open()
        return self._runtime.store.sessions(self._agent)

    def log(self, session: str | None, at: int | None) -> list[Entry]:
        """The live messages, in order."""
        self._runtime.check_open()
        return self._runtime.store.log(self._agent, session, at)

    def neighbours(self, record: Record, reach: int) -> list[Entry]:
        """The messages around a record's message in its session."""
        arguments.instance(record, "record", Record)
        if isinstance(reach, bool) or not isinstance(reach, int) or not 0 <= reach <= arguments.LARGEST:
            raise ConfigError(f"reach is {shown(reach)}; give a number of messages, 0 or more")
        log = self.log(record.session, None)
        for place, entry in enumerate(log):
            if entry.position == record.position:
                return log[max(0, place - reach) : place + reach + 1]
        return []

    def state(self, at: int | None) -> State:
        """The state of the whole live journal, or of the journal as it was at a position."""
        self._runtime.check_open()
        folder = self._runtime.folder
        folded = folder.current(self._agent) if at is None else folder.at(self._agent, at)
        return folded.state if folded else {}

    def rebuild(self) -> State:
        """Delete the stored states and fold the whole journal again."""
        self._runtime.check_open()
        folded = self._runtime.folder.rebuild(self._agent)
        return folded.state if folded else {}

    def verify(self) -> Drift:
        """Compare the state in use with a fresh fold of the whole journal."""
        self._runtime.check_open()
        used, anew = self._runtime.folder.current(self._agent), self._runtime.folder.anew(self._agent)
        if used is None or anew is None:
            return Drift(position=0, layers={})
        return Drift(position=used.position, layers=distances(used.state, anew.state))

    def diff(self, a: int, b: int | None) -> Difference:
        """What changed between two positions of the journal, and in the states if there is a backbone."""
        self._runtime.check_open()
        store = self._runtime.store
        known = store.agent(self._agent)
        if known is None:
            raise UnknownAgentError(f"agent {self._agent!r} is not in {store.url}; it exists from its first write")
        end = known.position if b is None else b
        first, second = store.at(self._agent, a), store.at(self._agent, end)
        before, after = {entry.position for entry in first}, {entry.position for entry in second}
        return Difference(
            added=[entry for entry in second if entry.position not in before],
            removed=[entry for entry in first if entry.position not in after],
            layers=distances(self.state(end), self.state(a)) if self._runtime.folder.able else {},
        )

    def rollback(self, position: int) -> int:
        """Continue the journal from a position; returns the position of the rollback."""
        self._runtime.check_open()
        with telemetry.operation("update_memory", self._agent):
            entry = self._runtime.store.rollback(self._agent, position)
        self._forget(self._agent)
        return entry

    def fork(self, new: str) -> None:
        """Create another agent with the same journal and states."""
        self._runtime.check_open()
        with telemetry.operation("create_memory_store", new):
            self._runtime.store.fork(self._agent, new)

    def health(self, examine: bool) -> Health:
        """What is journalled, folded and stored, and how well the state holds it."""
        examine = arguments.flag(examine, "examine")
        self._runtime.check_open()
        store, info = self._runtime.store, self._runtime.store.agent(self._agent)
        if info is None:
            return Health()
        stored = store.states.summary(self._agent, self._runtime.backbone.fingerprint)
        state, layers, drift = self._examined() if examine else self._measured()
        fullness = self._runtime.engine.fullness(state) if state else None
        warnings = []
        if fullness is not None and fullness >= NEARLY_FULL:
            warnings.append(full_warning(fullness))
        if drift is not None and drift.worst > DRIFT:
            warnings.append(
                f"the state is {drift.worst:.1g} away from a fresh fold of the journal; store a fresh one with "
                f"'deltamem rebuild {self._agent}'"
            )
        return Health(
            messages=info.messages,
            position=info.position,
            epoch=info.epoch,
            unfolded=sum(entry.folded for entry in store.live(self._agent, after=stored.position or 0)),
            revisions=stored.count,
            state_bytes=stored.bytes,
            folded_at=stored.created_at,
            fullness=fullness,
            layers=layers,
            drift=drift,
            warnings=tuple(warnings),
            state=state,
        )

    def trend(self, points: int) -> list[StatePoint]:
        """Stored states over the journal, evenly chosen, oldest first."""
        if isinstance(points, bool) or not isinstance(points, int) or not 2 <= points <= POINTS:
            raise ConfigError(f"points is {shown(points)}; give 2 to {POINTS}")
        self._runtime.check_open()
        if not self._runtime.backbone.present:
            return []
        engine, states = self._runtime.engine, self._runtime.store.states
        stored = states.positions(self._agent, engine.fingerprint)
        if len(stored) > points:
            stored = [stored[round(place * (len(stored) - 1) / (points - 1))] for place in range(points)]
        found = []
        for position in stored:
            revision = states.newest(self._agent, engine.fingerprint, position)
            if revision is None or revision.position != position:  # thinned out or erased meanwhile
                continue
            state = self._runtime.folder.decoded(self._agent, revision)
            layers = engine.measure(state)
            point = StatePoint(
                position=position,
                at=revision.created_at,
                saturation=sum(each.saturation for each in layers.values()) / max(1, len(layers)),
                norm=engine.norm(state),
                fullness=engine.fullness(state),
                layers=layers,
                state=state,
            )
            found.append(point)
        return found

    def _measured(self) -> tuple[State, dict[str, LayerHealth], None]:
        """The newest stored state, and what can be told from it alone."""
        backbone = self._runtime.backbone
        if not backbone.present:
            return {}, {}, None
        engine = backbone.engine("health")
        revision = self._runtime.store.states.newest(self._agent, engine.fingerprint)
        state = self._runtime.folder.decoded(self._agent, revision) if revision else {}
        return state, engine.measure(state), None

    def _examined(self) -> tuple[State, dict[str, LayerHealth], Drift]:
        """The state in use, all that can be told of it, and its drift from a fresh fold."""
        engine = self._runtime.backbone.engine("examining a state")
        used, fresh = self._runtime.folder.current(self._agent), self._runtime.folder.anew(self._agent)
        if used is None or fresh is None or fresh.last is None:
            return {}, {}, Drift(position=0, layers={})
        drift = Drift(position=used.position, layers=distances(used.state, fresh.state))
        return used.state, engine.examine(*fresh.last), drift

    def erase(
        self, chosen: Selection, *, forks: bool, dry_run: bool, wait: bool = True, tombstone: bool = True
    ) -> Receipt:
        """Erase the selected messages, and all data derived from them."""
        for name, value in (("forks", forks), ("dry_run", dry_run), ("wait", wait), ("tombstone", tombstone)):
            arguments.flag(value, name)
        self._runtime.check_open()
        if dry_run:
            return self._erase(chosen, forks=forks, dry_run=True, wait=wait, tombstone=tombstone)
        with telemetry.operation("delete_memory_store" if chosen.whole else "delete_memory", self._agent) as span:
            receipt = self._erase(chosen, forks=forks, dry_run=False, wait=wait, tombstone=tombstone)
            span.records([id for _, id in receipt.ids])
        return receipt

    def _erase(self, chosen: Selection, *, forks: bool, dry_run: bool, wait: bool, tombstone: bool) -> Receipt:
        store = self._runtime.store
        before = store.states.summary(self._agent, self._runtime.backbone.fingerprint).checksum
        plan = store.erase(self._agent, chosen, forks=forks, dry_run=dry_run, tombstone=tombstone)
        reason, after = None, before
        if not dry_run:
            for each in plan.erased:
                self._forget(each.agent)
            reason = self._purge()
            folded = self._folded_after_erasing() if wait and self._runtime.folder.able else None
            after = checksum_of(encode(folded.state)) if folded else None
        unfolded = not dry_run and not self._runtime.folder.able and store.knows(self._agent)
        return Receipt(
            agent=self._agent,
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
                return self._runtime.folder.current(self._agent)
            except (StateMismatchError, StoreError):
                return self._runtime.folder.rebuild(self._agent)
        except Exception as error:  # whatever a model, a device or a database may raise
            self._runtime.failures.failed("folding", self._agent, error)
            return None

    def _purge(self) -> str | None:
        """Purge as `Store.purge` does, but return an error's message: the erasure is done and needs its receipt."""
        try:
            return self._runtime.store.purge(whole=False)
        except StoreError as error:
            return str(error)

    def _forget(self, agent: str) -> None:
        """Drop what is cached for an agent whose live messages have changed."""
        self._runtime.folder.forget(agent)
        self._runtime.retriever.forget(agent)


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
