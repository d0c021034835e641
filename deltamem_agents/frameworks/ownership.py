"""Decides which agent's memory a call uses. If two sources name different agents, the call raises."""

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
    """An agent's id returned by `Owner.id`, to be passed on to code that no longer knows the run."""

    __slots__ = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """Determines the agent whose memory an integration's object uses.

    Args:
        agent_id: An id, or a callable that returns one for a run; a run cannot override it.
        default_agent_id: The id to use if a run names none.
        trust_configurable: Whether ``configurable.agent_id`` of a run's config counts. Clients of a server can set it,
            so trust it only if they cannot, or if they may name any agent.
        ways: How a caller can name an agent, for the error.

    Raises:
        ConfigError: Both ids are given.
        InvalidAgentError: An id is not valid.
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
        """The agent's id: the constructor's, otherwise the first that the run names, otherwise the default.

        Args:
            call: The id given with this call.
            context: The id in the run's context, which the application sets.
            configurable: The id in the run's config; see ``trust_configurable``.
            arguments: Arguments for a callable ``agent_id``.

        Returns:
            The id as a `CheckedId`, which is accepted unchanged as ``call``.

        Raises:
            ConfigError: No agent is named, or the constructor and the run name different ones.
            InvalidAgentError: A named id is not valid.
        """
        if isinstance(call, CheckedId):
            return call
        named = [call, context, configurable if self.trust_configurable else None]
        ids = [check_id(each) for each in named if each is not None]
        final = self.agent_id(*arguments) if callable(self.agent_id) else self.agent_id
        if final is None:
            chosen = next(iter(ids), self.default_agent_id)
            if chosen is None:
                raise ConfigError(f"no agent id was given, so it is unclear whose memory to use; {self.ways}")
            return CheckedId(chosen)
        for each in ids:
            if each != final:
                raise ConfigError(
                    f"the run names agent {each!r}, but this object serves agent {check_id(final)!r} only; name the "
                    "same agent, or give the object default_agent_id= in place of agent_id="
                )
        return CheckedId(check_id(final))

    def memory(self, mem: DeltaMem, **named: Any) -> AgentMemory:
        """The memory of the agent that `id` returns for these arguments.

        Raises:
            ConfigError: See `id`.
            InvalidAgentError: See `id`.
            ClosedError: ``mem`` was closed.
        """
        return mem.agent(self.id(**named))
