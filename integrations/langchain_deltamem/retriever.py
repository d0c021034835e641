"""`DeltaMemRetriever`: what an agent was told, as LangChain's documents."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForRetrieverRun, CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from pydantic import Field

from deltamem_agents.frameworks.calling import resolve_agent
from deltamem_agents.frameworks.records import record_facts, record_id, search_arguments
from deltamem_agents.memory import AgentMemory, DeltaMem
from deltamem_agents.memory.results import check_k
from deltamem_agents.recall import Record

WAYS = "give DeltaMemRetriever(agent_id=…), or agent_id=… with the call"


class DeltaMemRetriever(BaseRetriever):
    """Records of an agent's memory, best first, by full text and embedding. No model answers, the state is not read.

    A document's id is made of agent, session and message id. Its metadata has ``score`` (0 to 1), ``source`` (agent and
    session), ``agent_id``, ``session``, ``message_id``, ``role``, ``created_at`` (ISO 8601), ``position``, ``chunk``,
    and the message's own.

    Args:
        mem: An open one; not closed by this class.
        agent_id: Whose memory; may come with each call instead, as may the others.
        k: Documents at most.
        session: Only of this conversation.
        since, until: Only messages written at or after, and before.
        where: Only messages whose metadata has these values.

    Raises:
        ConfigError: k is not a positive integer.
        InvalidAgentError: On a call, where no agent id is given anywhere.
    """

    mem: DeltaMem = Field(exclude=True, repr=False)
    agent_id: str | None = None
    k: int = 5
    session: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    where: dict[str, Any] | None = None

    def __init__(self, **fields: Any) -> None:
        check_k(fields.get("k", 5))  # before validation, as pydantic would turn our error into its own
        super().__init__(**fields)

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun, **given: Any
    ) -> list[Document]:
        agent, narrowed = self._asked(given)
        return _documents(agent, agent.recall(query, **narrowed).records)

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun, **given: Any
    ) -> list[Document]:
        agent, narrowed = self._asked(given)
        return _documents(agent, (await agent.arecall(query, **narrowed)).records)

    def _asked(self, given: Mapping[str, Any]) -> tuple[AgentMemory, dict[str, Any]]:
        agent = resolve_agent(self.mem, given.get("agent_id"), self.agent_id, ways=WAYS)
        chosen = {name: given.get(name, getattr(self, name)) for name in ("k", "session", "since", "until", "where")}
        return agent, search_arguments(**chosen)


def _documents(agent: AgentMemory, records: list[Record]) -> list[Document]:
    return [
        Document(page_content=each.text, id=record_id(agent.id, each), metadata=record_facts(agent.id, each))
        for each in records
    ]
