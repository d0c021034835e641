"""What memory returns: recalls, replies, receipts, and what they cost."""

from __future__ import annotations

import json
import math
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal
from uuid import uuid4

from deltamem_agents.engine.generation import TokenLogprob
from deltamem_agents.engine.statistics import Stats
from deltamem_agents.failures import FailureStats
from deltamem_agents.memory.heat_map import health_html
from deltamem_agents.recall import Record
from deltamem_agents.store import Backlog, Entry, Erased, MessageRef
from deltamem_agents.store.erasing import keyed_hash
from deltamem_agents.tool_calls import ToolCall

if TYPE_CHECKING:
    from deltamem_agents.core.diagnostics import LayerHealth
    from deltamem_agents.core.state import State

Source = Literal["state", "records", "both", "neither"]

Status = Literal["complete", "pending", "dry run"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What a recall or a reply cost.

    Args:
        context_tokens: Tokens that recalled text adds to a prompt, by the backbone's tokenizer.
        prompt_tokens: Tokens of the backbone's whole prompt; 0 if it did not run.
        answer_tokens: Tokens it generated.
        state_bytes: Size of the agent's state; 0 if it was not read.
        first_token_seconds: Time to the first token from the start of the prompt's forward; None if it did not run.
        tokens_per_second: Rate of the tokens after the first; None if there were none.
        seconds: Time of the whole call, with folding and retrieval.
    """

    context_tokens: int = 0
    prompt_tokens: int = 0
    answer_tokens: int = 0
    state_bytes: int = 0
    first_token_seconds: float | None = None
    tokens_per_second: float | None = None
    seconds: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recall:
    """What memory returns for a query.

    Args:
        text: The text of the records, ready for the prompt of any model; empty if nothing was found.
        answer: The backbone's own short answer; None if it did not run, or if memory does not support what it said.
        records: The retrieved pieces of messages, best first.
        source: Which part of memory ``answer`` came from, found by scoring it again without the state and without the
            records.
        confidence: How sure memory is of its answer, or of its best candidate if ``answer`` is None; 0 to 1, a
            probability if the adapter is calibrated.
        left_out: How many records were found but did not fit the budget.
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
class Reply:
    """The backbone's reply to a chat; ``str(reply)`` is its text.

    Args:
        text: The reply without its tool calls.
        tool_calls: The tool calls parsed from the reply.
        recall: What memory added to the prompt.
        position: Journal position up to which the state it used was folded; None if it used no state.
        finished: False if ``max_tokens`` cut it off.
        logprobs: Its tokens with their log-probabilities, if `Sampling` asks for these; tool calls are included.
    """

    text: str
    tool_calls: tuple[ToolCall, ...] = ()
    recall: Recall = field(default_factory=Recall)
    usage: Usage = field(default_factory=Usage)
    position: int | None = None
    finished: bool = True
    logprobs: tuple[TokenLogprob, ...] = ()

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """What happened between two positions of a journal.

    Args:
        added: Messages live at the second position only, in the journal's order.
        removed: Messages live at the first position only, in the journal's order.
        layers: Module name to ‖S_b − S_a‖ / ‖S_a‖; empty if the memory was opened without a backbone.
    """

    added: list[Entry]
    removed: list[Entry]
    layers: dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """How far the state in use is from a fresh fold of the whole journal.

    Args:
        position: The last message of both; 0 for an unknown agent.
        layers: Module name to ‖used − fresh‖ / ‖fresh‖. Up to 1e-4 is due to how text was cut into forwards.
    """

    position: int
    layers: dict[str, float]

    @property
    def worst(self) -> float:
        """The largest value of all layers; 0 if there are none, infinity if one is not a number."""
        return max((each if each == each else math.inf for each in self.layers.values()), default=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """What is journalled, folded and stored for one agent.

    Args:
        messages: Live messages.
        position: The end of the journal.
        epoch: Rises whenever messages leave the live journal: by an edit, a rollback or an erasure.
        unfolded: Live messages after the newest stored state; the next recall folds them.
        revisions, state_bytes: Number and size of the stored states of all adapters.
        folded_at: When the newest of them was stored.
        fullness: ‖S‖ relative to the bound above which a state harms more than it helps; None if nothing is stored,
            the adapter is not calibrated, or there is no backbone.
        layers: Figures of each layer's state by module name: norm and saturation of the newest stored one, and all of
            them with ``examine=True``.
        drift: With ``examine=True``, how far the state in use is from a fresh fold.
        warnings: What needs attention, in words.
        state: The state that ``layers`` is about; empty if there is none.
    """

    messages: int = 0
    position: int = 0
    epoch: int = 0
    unfolded: int = 0
    revisions: int = 0
    state_bytes: int = 0
    folded_at: datetime | None = None
    fullness: float | None = None
    layers: Mapping[str, LayerHealth] = field(default_factory=dict)
    drift: Drift | None = None
    warnings: tuple[str, ...] = ()
    state: State = field(default_factory=dict, repr=False, compare=False)

    def as_dict(self) -> dict[str, Any]:
        """The fields as JSON values, without the state."""
        plain = {each.name: getattr(self, each.name) for each in fields(self) if each.name != "state"}
        return plain | {
            "folded_at": self.folded_at.isoformat() if self.folded_at else None,
            "layers": {name: layer.as_dict() for name, layer in self.layers.items()},
            "drift": None if self.drift is None else asdict(self.drift) | {"worst": self.drift.worst},
            "warnings": list(self.warnings),
        }

    def _repr_html_(self) -> str:
        """The figures as a table and, with matplotlib, the state as a heat map: how notebooks show this."""
        return health_html(self.as_dict(), self.state)


@dataclass(frozen=True, slots=True, kw_only=True)
class StatePoint:
    """A stored state, and how well it holds what was written up to it.

    Args:
        position: The journal position that it stands for.
        at: When it was stored.
        saturation: Mean of the layers' saturation; see `LayerHealth`.
        norm: ‖S‖, the Frobenius norm over all layers.
        fullness: As in `Health`.
        layers: Norm and saturation of each layer, by module name.
        state: The state itself.
    """

    position: int
    at: datetime | None
    saturation: float
    norm: float
    fullness: float | None
    layers: Mapping[str, LayerHealth] = field(repr=False)
    state: State = field(repr=False, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryStats:
    """Statistics of an open memory; see `DeltaMem.stats`.

    Args:
        engine: Statistics of the engine, which several memories of a process may share; None without a backbone.
        folding: Failures to fold a journal since the memory was opened.
        embedding: Failures to embed records or queries, or to store embeddings.
        refused: Texts that the embedder refuses while it accepts others; `DeltaMem.reindex` tries them again.
        waiting: Agents that wait for background folding and embedding.
        backlog: What the database holds that is not folded or not indexed yet.
    """

    engine: Stats | None
    folding: FailureStats
    embedding: FailureStats
    refused: int
    waiting: int
    backlog: Backlog

    def as_dict(self) -> dict[str, Any]:
        """The fields as JSON values."""
        found = asdict(self)
        for kind in ("folding", "embedding"):
            at = found[kind]["last_at"]
            found[kind]["last_at"] = at.isoformat() if at else None
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class StateHashes:
    """Hashes of the agent's state before and after an erasure.

    ``before`` and ``after`` are HMAC-SHA256 under a key that was thrown away: with a plain hash, anyone who has the
    rest of the journal could test guesses at what was erased.

    Args:
        before: None if no state was stored.
        after: None if no journal is left, the call did not wait for folding, or the journal cannot be folded here.
        checksum: SHA-256 of the state after, as it is stored.
        note: Why ``after`` is None although messages are left, where that is known.
    """

    before: str | None
    after: str | None
    checksum: str | None
    note: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """What an erasure removed or, as a dry run, would remove.

    Args:
        agent: Id of the agent.
        status: "complete": gone from the database and its files. "pending": gone from the database, but bytes may stay
            in its files until `DeltaMem.purge` has run; ``reason`` says why. "dry run": nothing was done.
        erased: What was erased of each agent: first the named one, then those erased along with it.
        held_by: Other agents that share messages by forking and still hold them, with the messages' sessions and ids.
        remaining: By agent, sessions and ids of the messages of which a keyed hash is kept, so that a client that sends
            its history again does not bring them back. Empty with ``tombstone=False``.
        outside_reach: Where copies may be that the database cannot reach.
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
        """The fields as JSON values."""
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
    """Make `StateHashes` from the checksums of stored states."""
    key = secrets.token_bytes(32)
    return StateHashes(
        before=None if before is None else keyed_hash(key, before),
        after=None if after is None else keyed_hash(key, after),
        checksum=after,
        note=note,
    )
