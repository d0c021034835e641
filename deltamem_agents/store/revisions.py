"""Stores, finds and thins out states. Handles bytes only; `codec` turns them into tensors."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any, Literal

from sqlalchemy import Connection, delete, insert, select, update

from deltamem_agents import arguments
from deltamem_agents.errors import ConfigError, StateMismatchError, UnknownAgentError, shown
from deltamem_agents.messages import ID_LIMIT
from deltamem_agents.store import damage
from deltamem_agents.store.columns import DamagedValue
from deltamem_agents.store.schema import AgentRow, RevisionRow, chunked

Retention = Literal["thin", "all"] | int  # "thin": all of the last day, then one a day; an int: the newest n

DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Revision:
    """A state and the journal position up to which it was folded.

    Args:
        position: Position of the last live message folded into it, counted from 1.
        epoch: The agent's epoch when the fold read the journal.
        fingerprint: Identifies everything the state depends on: adapter, backbone, tokenizer, rendering, dtype.
        state: Safetensors bytes, see `codec`.
        parent: Position of the revision it was folded from, 0 for none; set by the store.
        created_at: Set by the store.
    """

    position: int
    epoch: int
    fingerprint: str
    state: bytes = field(repr=False)
    parent: int = 0
    created_at: datetime | None = None

    @property
    def checksum(self) -> str:
        """SHA-256 of the state's bytes, in hexadecimal digits."""
        return checksum_of(self.state)


def checksum_of(state: bytes) -> str:
    """SHA-256 of a state's bytes, in hexadecimal digits."""
    return sha256(state).hexdigest()


def commit(connection: Connection, agent: str, revision: Revision, *, after: int, retention: Retention) -> int:
    """Store a revision if it is newer and of the agent's epoch; see `States.commit`. The caller has begun a write.

    Raises:
        ConfigError: The position is not between ``after`` and the end of the journal, or a field is empty or not valid.
        UnknownAgentError: No such agent.
    """
    arguments.whole(revision.position, "a revision's position")
    arguments.whole(revision.epoch, "a revision's epoch")
    arguments.text(revision.fingerprint, "a revision's fingerprint")
    arguments.instance(revision.state, "a revision's state", bytes)
    query = select(AgentRow.key, AgentRow.epoch, AgentRow.head).where(AgentRow.id == agent)
    row = connection.execute(query.with_for_update()).first()
    if row is None:
        raise UnknownAgentError(f"agent {agent!r} is not in this store; it exists from its first write")
    if not 0 <= after < revision.position <= row.head:
        raise ConfigError(
            f"revision at position {revision.position} of agent {agent!r}, folded from {after}: "
            f"positions must rise, and the last may be at most {row.head}, the end of the journal"
        )
    if not revision.fingerprint or len(revision.fingerprint) > ID_LIMIT or not revision.state:
        raise ConfigError(f"a revision needs a fingerprint of 1 to {ID_LIMIT} characters and a state that is not empty")
    ours = (RevisionRow.agent_key == row.key) & (RevisionRow.fingerprint == revision.fingerprint)
    times = select(RevisionRow.position, RevisionRow.created_at).where(ours).order_by(RevisionRow.position.desc())
    before = connection.execute(times.limit(1)).first()
    newest = 0 if before is None else before.position
    if revision.epoch != row.epoch or revision.position <= newest:
        return newest
    now = datetime.now(UTC)
    connection.execute(
        insert(RevisionRow).values(
            agent_key=row.key,
            fingerprint=revision.fingerprint,
            position=revision.position,
            epoch=revision.epoch,
            parent=after,
            checksum=revision.checksum,
            created_at=now,
            state=revision.state,
        )
    )
    # Thinning reads all stored positions and times: once an hour is enough.
    if isinstance(retention, int) or (retention == "thin" and before is not None and _hour(before.created_at, now)):
        stored = [(each.position, each.created_at) for each in connection.execute(times)]
        going = surplus(stored, retention, {after}, now)
        for chunk in chunked(going):
            connection.execute(delete(RevisionRow).where(ours, RevisionRow.position.in_(chunk)))
    return revision.position


def _hour(before: datetime, now: datetime) -> bool:
    """Whether a new hour of the clock has begun since."""
    return before.replace(minute=0, second=0, microsecond=0) != now.replace(minute=0, second=0, microsecond=0)


def newest(connection: Connection, agent: str, fingerprint: str, at_or_before: int | None) -> Revision | None:
    """The newest revision of the agent's epoch with this fingerprint; None if there is none.

    Raises:
        StateMismatchError: Its checksum does not match its bytes.
        DamagedValue: Its parent is not an earlier position.
    """
    query = (
        select(RevisionRow)
        .join(AgentRow, AgentRow.key == RevisionRow.agent_key)
        .where(AgentRow.id == agent, RevisionRow.fingerprint == fingerprint, RevisionRow.epoch == AgentRow.epoch)
        .order_by(RevisionRow.position.desc())
        .limit(1)
    )
    if at_or_before is not None:
        query = query.where(RevisionRow.position <= at_or_before)
    row = connection.execute(query).first()
    if row is None:
        return None
    revision = _revision(row)
    if revision.parent >= revision.position:
        fault = f"parent is {revision.parent}, a state is folded from one before its own position"
        raise DamagedValue(damage.told("deltamem_revisions", (row.agent_key, fingerprint, row.position), fault))
    if revision.checksum != row.checksum:
        raise StateMismatchError(
            f"state of agent {agent!r} at position {row.position} has checksum {revision.checksum[:12]}…, "
            f"{row.checksum[:12]}… was stored: it is damaged; fold its journal again with 'deltamem rebuild {agent}'"
        )
    return revision


def listed(connection: Connection, agent: str) -> list[Revision]:
    """All revisions of an agent's epoch, oldest first; checksums are not compared."""
    query = (
        select(RevisionRow)
        .join(AgentRow, AgentRow.key == RevisionRow.agent_key)
        .where(AgentRow.id == agent, RevisionRow.epoch == AgentRow.epoch)
        .order_by(RevisionRow.position, RevisionRow.fingerprint)
    )
    return [_revision(row) for row in connection.execute(query)]


def positions(connection: Connection, agent: str, fingerprint: str) -> list[int]:
    """Positions of an agent's revisions of its epoch with this fingerprint, in order; reads no state."""
    query = (
        select(RevisionRow.position)
        .join(AgentRow, AgentRow.key == RevisionRow.agent_key)
        .where(AgentRow.id == agent, RevisionRow.fingerprint == fingerprint, RevisionRow.epoch == AgentRow.epoch)
        .order_by(RevisionRow.position)
    )
    return list(connection.scalars(query))


def _revision(row: Any) -> Revision:
    return Revision(
        position=row.position,
        epoch=row.epoch,
        fingerprint=row.fingerprint,
        state=row.state,
        parent=row.parent,
        created_at=row.created_at,
    )


def drop(connection: Connection, agent: str) -> int:
    """Delete all revisions of an agent, of every epoch and fingerprint; returns the number deleted."""
    keys = select(AgentRow.key).where(AgentRow.id == agent)
    return connection.execute(delete(RevisionRow).where(RevisionRow.agent_key.in_(keys))).rowcount


def forget(connection: Connection, agent_key: int, *, since: int, epoch: int) -> None:
    """Delete the revisions from position ``since`` on, which are outdated; older ones stay valid in ``epoch``."""
    connection.execute(delete(RevisionRow).where(RevisionRow.agent_key == agent_key, RevisionRow.position >= since))
    connection.execute(update(RevisionRow).where(RevisionRow.agent_key == agent_key).values(epoch=epoch))


def check_retention(value: object) -> Retention:
    """Check a retention.

    Raises:
        ConfigError: It is not "thin", "all" or an int of 1 or more.
    """
    if isinstance(value, str) and value in ("thin", "all"):
        return "thin" if value == "thin" else "all"
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return value
    raise ConfigError(f"retention is {shown(value)}; give 'thin', 'all', or how many states to keep, 1 or more")


def surplus(
    stored: Sequence[tuple[int, datetime]], retention: Retention, keep: Collection[int], now: datetime
) -> list[int]:
    """Positions whose states a retention deletes; never the newest.

    Args:
        stored: Positions and times of the states of one agent and fingerprint, newest position first.
        keep: Positions to keep in any case.
    """
    if retention == "all":
        return []
    if retention == "thin":
        kept, days = set[int](), set[object]()
        for position, at in stored:
            day = at.astimezone(UTC).date()
            # The newest of its day, or younger than a day; so also one from the future, left by a clock set back.
            if now - at < DAY or day not in days:
                kept.add(position)
                days.add(day)
    else:
        kept = {position for position, _ in stored[:retention]}
    kept |= {*keep, *(position for position, _ in stored[:1])}
    return [position for position, _ in stored if position not in kept]
