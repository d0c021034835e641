"""Whose memory a call means. Where two places name an agent and differ, nobody's memory is used: the call raises."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from deltamem_agents.errors import ConfigError
from deltamem_agents.store import check_id

if TYPE_CHECKING:
    from deltamem_agents.memory.agent import AgentMemory
    from deltamem_agents.memory.deltamem import DeltaMem


class CheckedId(str):
    """An agent's id that `Owner.id` has given: to be handed on to where the run is no longer known."""

    __slots__ = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """Whose memory an object of an integration works on.

    Args:
        agent_id: An id, or a callable that gives one for a run; what it says is final.
        default_agent_id: The id where a run names none.
        trust_configurable: Whether ``configurable.agent_id`` of a run's config counts. Clients of a server can set it,
            so it is to be trusted only where they cannot, or may name any agent.
        ways: How a caller can name an agent, for the error.

    Raises:
        ConfigError: Both ids are given.
        InvalidAgentError: One is not an id.
    """

    agent_id: str | Callable[..., str] | None = None
    default_agent_id: str | None = None
    trust_configurable: bool = False
    ways: str

    def __post_init__(self) -> None:
        if self.agent_id is not None and self.default_agent_id is not None:
            raise ConfigError("both agent_id and default_agent_id were given; the first is final, so leave one out")
        for given in (self.agent_id, self.default_agent_id):
            if given is not None and not callable(given):
                check_id(given)

    def id(
        self,
        *,
        call: object = None,
        context: object = None,
        configurable: object = None,
        arguments: tuple[Any, ...] = (),
    ) -> str:
        """The agent's id: the constructor's, or else the first of those that the run names, or else the default.

        Args:
            call: The id that was given with this call.
            context: The id in the run's context, which the application sets.
            configurable: The id in the run's config; see ``trust_configurable``.
            arguments: What a callable ``agent_id`` is called with.

        Returns:
            As a `CheckedId`; given as ``call`` again, it is taken as it is.

        Raises:
            ConfigError: Nobody names an agent, or the constructor and the run name different ones.
            InvalidAgentError: What is named is not an id.
        """
        if isinstance(call, CheckedId):
            return call
        named = [call, context, configurable if self.trust_configurable else None]
        ids = [check_id(each) for each in named if each is not None]
        final = self.agent_id(*arguments) if callable(self.agent_id) else self.agent_id
        if final is None:
            chosen = next(iter(ids), self.default_agent_id)
            if chosen is None:
                raise ConfigError(f"no agent id, so nobody knows whose memory is meant; {self.ways}")
            return CheckedId(chosen)
        for each in ids:
            if each != final:
                raise ConfigError(
                    f"the run names agent {each!r}, this object is for agent {check_id(final)!r} alone; name one of "
                    "them only, or give the object default_agent_id= in place of agent_id="
                )
        return CheckedId(check_id(final))

    def memory(self, mem: DeltaMem, **named: Any) -> AgentMemory:
        """The memory of the agent that `id` gives.

        Raises:
            ConfigError, InvalidAgentError: As `id`.
            ClosedError: ``mem`` was closed.
        """
        return mem.agent(self.id(**named))
