"""What memory gives back: recalls, replies, and what they cost."""

from __future__ import annotations

import json
import math
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, get_args
from uuid import uuid4

from deltamem_agents import arguments
from deltamem_agents.engine.statistics import Stats
from deltamem_agents.errors import ConfigError, shown
from deltamem_agents.failures import FailureStats
from deltamem_agents.recall import Record
from deltamem_agents.store import Backlog, Entry, Erased, MessageRef
from deltamem_agents.store.erasing import keyed_hash

Mode = Literal["state", "vector", "hybrid"]
Outdated = Literal["omit", "mark"]
Handover = Literal["context", "preload", "both"]
Placement = Literal["system", "last_human"]
Source = Literal["state", "records", "both", "neither"]


def check_mode(mode: str) -> Mode:
    """``mode``, if it is one.

    Raises:
        ConfigError: It is not.
    """
    return _one_of(Mode, mode, "mode")  # type: ignore[return-value]  # one of them


def check_handover(handover: str) -> Handover:
    """``handover``, if it is one.

    Raises:
        ConfigError: It is not.
    """
    return _one_of(Handover, handover, "handover")  # type: ignore[return-value]  # one of them


def check_placement(placement: str) -> Placement:
    """``placement``, if it is one.

    Raises:
        ConfigError: It is not.
    """
    return _one_of(Placement, placement, "placement")  # type: ignore[return-value]  # one of them


def check_outdated(outdated: str) -> Outdated:
    """``outdated``, if it is one.

    Raises:
        ConfigError: It is not.
    """
    return _one_of(Outdated, outdated, "outdated")  # type: ignore[return-value]  # one of them


def _one_of(choices: object, given: str, what: str) -> str:
    return arguments.one_of(given, what, get_args(choices))


def check_k(k: object) -> None:
    """Raise ConfigError unless ``k`` is a whole number of records, 1 or more."""
    if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= arguments.LARGEST:
        raise ConfigError(f"k is {shown(k)}; ask for 1 record or more")


def check_asked(session: object, since: object, until: object, metadata: object, budget: object) -> None:
    """Look at what narrows a recall, before anything is read.

    Raises:
        ConfigError: A time, the metadata or the budget is none.
        InvalidAgentError: The session is no id.
    """
    if session is not None:
        arguments.identifier(session, "session")
    arguments.moments(since, until)
    if metadata is not None:
        arguments.mapping(metadata, "metadata")
    if budget is not None:
        arguments.whole(budget, "budget")


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What a recall or a reply cost.

    Args:
        context_tokens: Tokens that recalled text adds to a prompt, by the backbone's tokenizer.
        prompt_tokens: Tokens of the whole prompt the backbone was given; 0 where it was not asked.
        answer_tokens: Tokens it generated.
        state_bytes: Size of the agent's state; 0 where it was not read.
        first_token_seconds: Time to first token, from the start of the prompt's forward; None where not asked.
        tokens_per_second: At which the tokens after the first came; None where there were none.
        seconds: The whole call, folding and retrieval included.
    """

    context_tokens: int = 0
    prompt_tokens: int = 0
    answer_tokens: int = 0
    state_bytes: int = 0
    first_token_seconds: float | None = None
    tokens_per_second: float | None = None
    seconds: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recall:
    """What memory has to say to a query.

    Args:
        text: Ready for a prompt of any model; empty where nothing was found.
        answer: The backbone's own short answer; None where it was not asked, or where memory does not support what
            it said.
        records: Retrieved pieces of messages, best first.
        source: Where ``answer`` came from, by scoring it again without the state and without the records.
        confidence: How sure memory is of its answer, or of the best it had where that is None; 0 to 1, a probability
            where the adapter is calibrated.
        left_out: Records that were found, and for which the budget has no room.
        notes: What a user should know, such as that no embedder is installed.
    """

    text: str = ""
    answer: str | None = None
    records: list[Record] = field(default_factory=list)
    source: Source = "neither"
    confidence: float = 0.0
    usage: Usage = field(default_factory=Usage)
    left_out: int = 0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """A call of a tool that the backbone asked for."""

    id: str
    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """The backbone's reply to a chat; ``str(reply)`` is its text.

    Args:
        text: Without tool calls.
        tool_calls: Those found in the text.
        recall: What memory added to the prompt.
        position: Of the journal, up to which the state it was made under was folded; None where none was read.
        finished: False where ``max_tokens`` cut it off.
    """

    text: str
    tool_calls: tuple[ToolCall, ...] = ()
    recall: Recall = field(default_factory=Recall)
    usage: Usage = field(default_factory=Usage)
    position: int | None = None
    finished: bool = True

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """What happened between two positions of a journal.

    Args:
        added, removed: Messages that are live at one of them only, in the journal's order.
        layers: Module name to ‖S_b − S_a‖ / ‖S_a‖; empty where the memory was opened without a backbone.
    """

    added: list[Entry]
    removed: list[Entry]
    layers: dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """How far the state in use is from the journal folded anew.

    Args:
        position: The last message of both; 0 for an unknown agent.
        layers: Module name to ‖used − anew‖ / ‖anew‖. Up to 1e-4 comes of how text was cut into forwards.
    """

    position: int
    layers: dict[str, float]

    @property
    def worst(self) -> float:
        """The largest of all layers; 0 where there is none, infinity where one is not a number."""
        return max((each if each == each else math.inf for each in self.layers.values()), default=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """How an agent's memory stands.

    Args:
        messages: Live ones.
        position: The end of the journal.
        unfolded: Live messages beyond the newest stored state; the next recall folds them.
        revisions, state_bytes: Stored states, of all adapters, and their size.
        folded_at: When the newest was stored.
    """

    messages: int = 0
    position: int = 0
    epoch: int = 0
    unfolded: int = 0
    revisions: int = 0
    state_bytes: int = 0
    folded_at: datetime | None = None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"folded_at": self.folded_at.isoformat() if self.folded_at else None}


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryStats:
    """How an open memory does; see `DeltaMem.stats`.

    Args:
        engine: Of the backbone's engine, which several memories of a process may share; None without a backbone.
        folding: Failures to fold a journal, since the memory was opened.
        embedding: Failures to embed records or queries, or to store embeddings.
        refused: Texts that the embedder refuses while it takes others; `DeltaMem.reindex` tries them again.
        waiting: Agents that wait to be folded and embedded in the background.
        backlog: What the database holds that is not folded or not indexed yet.
    """

    engine: Stats | None
    folding: FailureStats
    embedding: FailureStats
    refused: int
    waiting: int
    backlog: Backlog

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        found = asdict(self)
        for kind in ("folding", "embedding"):
            at = found[kind]["last_at"]
            found[kind]["last_at"] = at.isoformat() if at else None
        return found


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
