"""`DeltaMemRetriever`: records of an agent's memory as LlamaIndex's nodes."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from llama_index.core.retrievers import BaseRetriever
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode

from deltamem_agents.frameworks.ownership import Owner
from deltamem_agents.frameworks.records import record_facts, record_id, search_arguments
from deltamem_agents.memory import DeltaMem, RecallOptions
from deltamem_agents.recall import Record

WAYS = "give DeltaMemRetriever(mem, agent_id=…), a string, such as a user's id"


class DeltaMemRetriever(BaseRetriever):
    """Finds records of an agent's memory by full text and embedding, best first. It uses neither model nor state.

    A node's id is made of agent, session and message id; its score is between 0 and 1. Its metadata has ``score``,
    ``source`` (agent and session), ``agent_id``, ``session``, ``message_id``, ``role``, ``created_at`` (ISO 8601),
    ``position``, ``chunk``, and the message's own metadata. None of it is shown to an LLM or an embedding model.

    Args:
        mem: An open `DeltaMem`; this class does not close it.
        agent_id: The agent whose memory it searches; required.
        k: The most nodes to return.
        session: Only messages of this conversation.
        since, until: Only messages written at or after ``since`` and before ``until``.
        where: Only messages whose metadata has these values.
        options: Options of ``BaseRetriever``, such as ``callback_manager``.

    Raises:
        ConfigError: k is not a positive integer, or there is no agent id; on a search, another option is not valid.
        InvalidAgentError: The agent id is not valid; on a search, the session id is not.
        StoreError: On a search, the database cannot be read.
        EmbedderError: On a search, the embedder's vectors do not fit the stored ones.
        ClosedError, ForkedError: ``mem`` is not open in this process.
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
        RecallOptions(k=k)
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
