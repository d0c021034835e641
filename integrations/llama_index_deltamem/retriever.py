"""`DeltaMemRetriever`: what an agent was told, as LlamaIndex's nodes."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from llama_index.core.retrievers import BaseRetriever
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode

from deltamem_agents.frameworks.ownership import Owner
from deltamem_agents.frameworks.records import record_facts, record_id, search_arguments
from deltamem_agents.memory import DeltaMem
from deltamem_agents.memory.results import check_k
from deltamem_agents.recall import Record

WAYS = "give DeltaMemRetriever(mem, agent_id=…), a string, such as a user's id"


class DeltaMemRetriever(BaseRetriever):
    """Records of an agent's memory, best first, by full text and embedding. No model answers, the state is not read.

    A node's id is made of agent, session and its message's id, its score is between 0 and 1; its metadata is that of
    LangChain's documents here, and left out of what an LLM or an embedding model is shown.

    Args:
        mem: An open one; not closed by this class.
        agent_id: Whose memory; has to be given.
        k: Nodes at most.
        session: Only of this conversation.
        since, until: Only messages written at or after, and before.
        where: Only messages whose metadata has these values.
        options: Of ``BaseRetriever``, such as ``callback_manager``.

    Raises:
        ConfigError: k is not a positive integer, or there is no agent id.
        InvalidAgentError: The agent id is not one.
        ClosedError: ``mem`` was closed.
    """

    def __init__(
        self,
        mem: DeltaMem,
        agent_id: str | None = None,
        *,
        k: int = 5,
        session: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        where: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        check_k(k)
        super().__init__(**options)
        self._agent = Owner(agent_id=agent_id, ways=WAYS).memory(mem)
        self._asked = search_arguments(k, session, since, until, where)

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return self._nodes(self._agent.recall(query_bundle.query_str, **self._asked).records)

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return self._nodes((await self._agent.arecall(query_bundle.query_str, **self._asked)).records)

    def _nodes(self, records: list[Record]) -> list[NodeWithScore]:
        return [NodeWithScore(node=self._node(each), score=each.score) for each in records]

    def _node(self, record: Record) -> TextNode:
        facts = record_facts(self._agent.id, record)
        names = list(facts)
        return TextNode(
            id_=record_id(self._agent.id, record),
            text=record.text,
            metadata=facts,
            excluded_llm_metadata_keys=names,
            excluded_embed_metadata_keys=names,
        )
