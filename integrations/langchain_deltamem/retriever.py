"""`DeltaMemRetriever`: records of an agent's memory as LangChain's documents."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForRetrieverRun, CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnableConfig
from pydantic import Field

from deltamem_agents.frameworks.failing import refuse_unknown
from deltamem_agents.frameworks.ownership import Owner
from deltamem_agents.frameworks.records import search_arguments
from deltamem_agents.memory import AgentMemory, DeltaMem, RecallOptions
from langchain_deltamem.runs import documents, named_by_run, owner_of

WAYS = (
    "give DeltaMemRetriever(agent_id=…), agent_id=… with the call, context={'agent_id': …} with the run, or "
    "trust_configurable=True and config={'configurable': {'agent_id': …}}"
)


class DeltaMemRetriever(BaseRetriever):
    """Finds records of an agent's memory by full text and embedding, best first. It uses neither model nor state.

    A document's id is made of agent, session and message id. Its metadata has ``score`` (0 to 1), ``source`` (agent and
    session), ``agent_id``, ``session``, ``message_id``, ``role``, ``created_at`` (ISO 8601), ``position``, ``chunk``,
    and the message's own metadata.

    Args:
        mem: An open `DeltaMem`; this class does not close it.
        agent_id: The one agent whose memory it uses: an id, or a callable that takes the run's config. A run that names
            another agent raises.
        default_agent_id: The agent to use if a run names none: neither in the call (``agent_id``), nor in its context
            (``agent_id``), nor in its ``configurable``.
        trust_configurable: Whether an ``agent_id`` in ``configurable`` counts. A server's clients can set it, so leave
            this off there.
        k: The most documents to return. This and the following options may be given with each call instead.
        session: Only messages of this conversation.
        since, until: Only messages written at or after ``since`` and before ``until``.
        where: Only messages whose metadata has these values.

    Raises:
        ConfigError: An option is unknown or not valid; on a call, no agent is named, or one other than ``agent_id``.
        InvalidAgentError: An agent or session id is not valid.
        StoreError: On a call, the database cannot be read.
        EmbedderError: On a call, the embedder's vectors do not fit the stored ones.
        ClosedError, ForkedError: On a call, ``mem`` is not open in this process.
    """

    mem: DeltaMem = Field(exclude=True, repr=False)
    agent_id: str | Callable[[RunnableConfig], str] | None = None
    default_agent_id: str | None = None
    trust_configurable: bool = False
    k: int = 5
    session: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    where: dict[str, Any] | None = None

    def __init__(self, **fields: Any) -> None:
        refuse_unknown(type(self).__name__, fields, type(self).model_fields)
        RecallOptions(k=fields.get("k", 5))  # before validation, as pydantic would turn our error into its own
        super().__init__(**fields)
        self._owner()

    # The config does not reach `_get_relevant_documents`, so the agent is passed on as a keyword argument.

    def invoke(self, input: str, config: RunnableConfig | None = None, **kwargs: Any) -> list[Document]:
        """The records that best match a query; ``agent_id`` names the agent."""
        return super().invoke(input, config, **self._with_agent(config, kwargs))

    async def ainvoke(self, input: str, config: RunnableConfig | None = None, **kwargs: Any) -> list[Document]:
        """Async twin of `invoke`; never blocks the event loop."""
        return await super().ainvoke(input, config, **self._with_agent(config, kwargs))

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun, **given: Any
    ) -> list[Document]:
        agent, narrowed = self._asked(given)
        return documents(agent, agent.recall(query, **narrowed).records)

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun, **given: Any
    ) -> list[Document]:
        agent, narrowed = self._asked(given)
        return documents(agent, (await agent.arecall(query, **narrowed)).records)

    def _owner(self) -> Owner:
        return owner_of(self, WAYS)

    def _with_agent(self, config: RunnableConfig | None, given: dict[str, Any]) -> dict[str, Any]:
        return given | {"agent_id": self._owner().id(call=given.get("agent_id"), **named_by_run(config))}

    def _asked(self, given: Mapping[str, Any]) -> tuple[AgentMemory, dict[str, Any]]:
        agent = self._owner().memory(self.mem, call=given.get("agent_id"), **named_by_run(None))
        chosen = {name: given.get(name, getattr(self, name)) for name in ("k", "session", "since", "until", "where")}
        return agent, search_arguments(**chosen)
