"""`RecallOptions`: how memory is consulted, in recalls and replies alike. Values are checked only here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Literal, Self, TypedDict, Unpack, get_args

from deltamem_agents import arguments
from deltamem_agents.engine.generation import Sampling
from deltamem_agents.errors import ConfigError, shown
from deltamem_agents.recall.budget import check_budget

Mode = Literal["state", "vector", "hybrid"]
Outdated = Literal["omit", "mark"]
Handover = Literal["context", "preload", "both"]
Placement = Literal["system", "last_human"]

CHOICES = {"mode": Mode, "handover": Handover, "outdated": Outdated, "placement": Placement}


class RecallFields(TypedDict, total=False):
    """The fields of `RecallOptions`, as keyword arguments."""

    mode: Mode | str
    k: int
    budget: int | None
    handover: Handover | str
    outdated: Outdated | str
    placement: Placement | str
    since: datetime | None
    until: datetime | None
    metadata: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RecallOptions:
    """Which part of memory is consulted, which records are retrieved, and how they are handed over.

    Args:
        mode: "state" (the matrices alone), "vector" (records alone, with a zero state) or "hybrid" (both; records
            alone if the memory was opened without a backbone).
        k: The most records to retrieve.
        budget: The most tokens that records may take, by the backbone's tokenizer; the best records are kept. None for
            no limit.
        handover: How the backbone gets the records: "context" (as text, in the prompt), "preload" (written into a
            scratch copy of the state, which costs no context; ``text`` then holds none) or "both".
        outdated: What to do with records that a newer one contradicts: "omit" leaves them out of the text, "mark" adds
            the day until which they held ("(until 3 May)"). ``records`` contains them either way.
        placement: Where a prompt gets the text: "system" (the end of the system message) or "last_human" (the beginning
            of the newest user message). `AgentMemory.recall` itself makes no prompt.
        since, until: Retrieve messages written at or after ``since`` and before ``until``; UTC if they have no zone.
        metadata: Retrieve messages whose metadata has these values.

    Raises:
        ConfigError: A value is unknown or out of range.
    """

    mode: Mode | str = "hybrid"
    k: int = 5
    budget: int | None = None
    handover: Handover | str = "context"
    outdated: Outdated | str = "omit"
    placement: Placement | str = "system"
    since: datetime | None = None
    until: datetime | None = None
    metadata: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        for name, choices in CHOICES.items():
            arguments.one_of(getattr(self, name), name, get_args(choices))
        if isinstance(self.k, bool) or not isinstance(self.k, int) or not 1 <= self.k <= arguments.LARGEST:
            raise ConfigError(f"k is {shown(self.k)}; give 1 or more")
        if self.budget is not None:
            check_budget(self.budget)
        arguments.moments(self.since, self.until)
        if self.metadata is not None:
            arguments.mapping(self.metadata, "metadata")

    @classmethod
    def of(cls, options: RecallOptions | None, **changes: Unpack[RecallFields]) -> RecallOptions:
        """``options``, or the defaults if it is None, with these changes.

        Raises:
            ConfigError: ``options`` is something else, or a value is unknown or out of range.
        """
        arguments.instance(options, "options", cls, optional=True)
        return replace(options or cls(), **changes)

    @property
    def filters(self) -> dict[str, Any]:
        """What narrows the search: ``since``, ``until`` and ``metadata``."""
        return {"since": self.since, "until": self.until, "metadata": self.metadata}


class ReplyFields(RecallFields, total=False):
    """What `AgentMemory.generate` takes besides messages and session, as keyword arguments."""

    options: RecallOptions | None
    sampling: Sampling | None
    tools: Sequence[Mapping[str, Any]] | None
    truncation: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplyOptions:
    """How a reply is generated; see `AgentMemory.generate`.

    Raises:
        ConfigError: A value has the wrong type.
        InvalidAgentError: The session id is not valid.
    """

    recall: RecallOptions = field(default_factory=RecallOptions)
    session: str | None = None
    sampling: Sampling | None = None
    tools: Sequence[Mapping[str, Any]] | None = None
    truncation: bool = False

    def __post_init__(self) -> None:
        arguments.instance(self.sampling, "sampling", Sampling, optional=True)
        arguments.flag(self.truncation, "truncation")
        if self.session is not None:
            arguments.identifier(self.session, "session")
        if self.tools is None:
            return
        if isinstance(self.tools, str | bytes | Mapping) or not isinstance(self.tools, Sequence):
            raise ConfigError(f"tools are {shown(self.tools)}; give a list of JSON schemas")
        for each in self.tools:
            arguments.jsonable(arguments.mapping(each, "a tool"), "a tool")

    @classmethod
    def of(
        cls,
        session: str | None = None,
        options: RecallOptions | None = None,
        sampling: Sampling | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
        truncation: bool = False,
        **changes: Unpack[RecallFields],
    ) -> Self:
        """Options of a reply from the keyword arguments of `AgentMemory.generate`."""
        recall = RecallOptions.of(options, **changes)
        return cls(recall=recall, session=session, sampling=sampling, tools=tools, truncation=truncation)
