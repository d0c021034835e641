"""What an erasure did, for whoever asked for it. Names sessions, ids and counts, never text."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal
from uuid import uuid4

from deltamem_agents.store import Erased, MessageRef
from deltamem_agents.store.erasing import keyed_hash

Status = Literal["complete", "pending", "dry run"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StateHashes:
    """The agent's state before and after, as HMAC-SHA256 under a key that was thrown away, and as it can be looked up.

    A plain hash of the state before would let anyone with the rest of the journal try guesses at what was erased.

    Args:
        before: None where no state was stored.
        after: None where there is no journal any more, nobody waited for it, or it could not be folded here.
        checksum: SHA-256 of the state after, as it is stored.
        note: Why ``after`` is None though messages are left, where that is known.
    """

    before: str | None
    after: str | None
    checksum: str | None
    note: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """What was erased, or would be.

    Args:
        agent: Whose.
        status: "complete": gone from the database and its files. "pending": gone from the database, and the bytes may
            still lie in its files until `DeltaMem.purge` has run; ``reason`` says why. "dry run": nothing was done.
        erased: By agent: the one that was named, then those erased along with it.
        held_by: Other agents that share messages by forking and still hold them, and the messages' sessions and ids.
        remaining: By agent, sessions and ids of the messages of which a keyed hash stays, so that a client that sends
            its history again does not bring them back. Empty where ``tombstone=False``.
        outside_reach: Where copies may be that no statement of ours can reach.
    """

    agent: str
    status: Status
    erased: tuple[Erased, ...]
    held_by: Mapping[str, list[MessageRef]]
    remaining: Mapping[str, list[MessageRef]]
    state: StateHashes
    outside_reach: tuple[str, ...]
    reason: str | None = None
    id: str = field(default_factory=lambda: uuid4().hex)
    at: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def ids(self) -> tuple[MessageRef, ...]:
        """Sessions and ids of the agent's erased messages."""
        return self.erased[0].ids

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "id": self.id,
            "at": self.at.isoformat(),
            "agent": self.agent,
            "status": self.status,
            "reason": self.reason,
            "erased": [each.as_dict() for each in self.erased],
            "held_by": {agent: [each.as_dict() for each in held] for agent, held in self.held_by.items()},
            "remaining": {agent: [each.as_dict() for each in left] for agent, left in self.remaining.items()},
            "state": asdict(self.state),
            "outside_reach": list(self.outside_reach),
        }

    def json(self) -> str:
        """The receipt as JSON."""
        return json.dumps(self.as_dict(), indent=2, ensure_ascii=False)


def state_hashes(before: str | None, after: str | None, note: str | None = None) -> StateHashes:
    """From the checksums of stored states."""
    key = secrets.token_bytes(32)
    return StateHashes(
        before=None if before is None else keyed_hash(key, before),
        after=None if after is None else keyed_hash(key, after),
        checksum=after,
        note=note,
    )
