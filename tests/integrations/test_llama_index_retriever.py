"""LlamaIndex's retriever, alone and in a query engine; what it has in common with LangChain's is in test_retrievers."""

from __future__ import annotations

import pytest
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.schema import QueryBundle

from deltamem_agents import DeltaMem
from deltamem_agents.errors import ClosedError, ConfigError, InvalidAgentError
from llama_index_deltamem import DeltaMemLLM, DeltaMemRetriever

FACT, QUESTION = "My locker code is 4417.", "What is my locker code?"


def test_in_a_query_engine(mem: DeltaMem, prompts: list[str]) -> None:
    mem.agent("alice").write([{"role": "user", "content": FACT}])
    llm = DeltaMemLLM(mem, "nobody", max_tokens=8)
    engine = RetrieverQueryEngine.from_args(DeltaMemRetriever(mem, "alice"), llm=llm)
    reply = engine.query(QueryBundle(QUESTION))
    assert FACT in prompts[-1] and "position" not in prompts[-1]  # text, no metadata
    assert [node.node.get_content() for node in reply.source_nodes] == [FACT]


def test_agents_that_are_none(mem: DeltaMem) -> None:
    for given in ((), (None,)):
        with pytest.raises(ConfigError, match=r"no agent id.*give DeltaMemRetriever\(mem, agent_id=…\)"):
            DeltaMemRetriever(mem, *given)
    for agent, fault in (("", "empty"), (7, "int")):
        with pytest.raises(InvalidAgentError, match=fault):
            DeltaMemRetriever(mem, agent)  # type: ignore[arg-type]
    mem.close()
    with pytest.raises(ClosedError, match=r"DeltaMem\.open"):
        DeltaMemRetriever(mem, "alice")
