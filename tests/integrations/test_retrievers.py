"""Both frameworks' retrievers: the same records, with the same facts, in the order of `AgentMemory.recall`."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest

from deltamem_agents import DeltaMem
from deltamem_agents.errors import ClosedError, ConfigError, InvalidAgentError
from langchain_deltamem import DeltaMemRetriever as ForLangChain
from llama_index_deltamem import DeltaMemRetriever as ForLlamaIndex

FACTS = {"score", "source", "agent_id", "session", "message_id", "role", "created_at", "position", "chunk", "outdated"}


@pytest.fixture(autouse=True)
def _told(mem: DeltaMem) -> None:
    alice = mem.agent("alice")
    alice.write(
        [{"role": "user", "content": "My dog is Rex.", "id": "m1", "metadata": {"team": "blue"}}], "s1", wait=False
    )
    alice.write(
        [{"role": "user", "content": "My dog eats fish.", "created_at": datetime(2020, 1, 1)}], "s2", wait=False
    )
    mem.agent("bob").write([{"role": "user", "content": "My dog is Bello."}], wait=False)


def asked(
    framework: str, mem: DeltaMem, query: str = "What is my dog?", **options: Any
) -> list[tuple[str, dict[str, Any]]]:
    """Texts and metadata; the async twin gives the same."""
    if framework == "langchain":
        retriever = ForLangChain(mem=mem, **({"agent_id": "alice"} | options))
        found = retriever.invoke(query)
        assert asyncio.run(retriever.ainvoke(query)) == found
        return [(each.page_content, each.metadata) for each in found]
    nodes = ForLlamaIndex(mem, **({"agent_id": "alice"} | options)).retrieve(query)
    again = asyncio.run(ForLlamaIndex(mem, **({"agent_id": "alice"} | options)).aretrieve(query))
    assert [each.node.node_id for each in again] == [each.node.node_id for each in nodes]
    assert all(each.score == each.node.metadata["score"] for each in nodes)
    return [(each.node.get_content(), each.node.metadata) for each in nodes]


both = pytest.mark.parametrize("framework", ["langchain", "llama_index"])


@both
def test_records_in_order_with_what_is_known_of_them(mem: DeltaMem, framework: str) -> None:
    found = asked(framework, mem)
    expected = mem.agent("alice").recall("What is my dog?", mode="vector", generate=False).records
    assert [text for text, _ in found] == [record.text for record in expected] and len(found) == 2
    facts = next(facts for text, facts in found if "Rex" in text)
    assert FACTS | {"team"} == facts.keys() and facts["team"] == "blue"
    assert (facts["agent_id"], facts["session"], facts["source"]) == ("alice", "s1", "alice/s1")
    assert facts["message_id"] == "m1" and 0 < facts["score"] < 1
    assert datetime.fromisoformat(facts["created_at"]).tzinfo is not None


@both
def test_narrowed(mem: DeltaMem, framework: str) -> None:
    texts = lambda **options: [text for text, _ in asked(framework, mem, **options)]  # noqa: E731
    assert len(texts(k=1)) == 1
    assert texts(session="s2") == ["My dog eats fish."]
    assert texts(until=datetime(2021, 1, 1, tzinfo=UTC)) == ["My dog eats fish."]
    assert texts(since=datetime(2021, 1, 1)) == ["My dog is Rex."]
    assert texts(where={"team": "blue"}) == ["My dog is Rex."]
    assert texts(agent_id="nobody") == [] and texts(agent_id="bob") == ["My dog is Bello."]


@both
def test_no_model_is_asked(mem: DeltaMem, prompts: list[str], framework: str) -> None:
    asked(framework, mem)
    assert prompts == []


@both
def test_bad_input(mem: DeltaMem, framework: str) -> None:
    for k in (0, -1, True, "5"):
        with pytest.raises(ConfigError, match="k is"):
            asked(framework, mem, k=k)
    with pytest.raises(InvalidAgentError):
        asked(framework, mem, agent_id="")
    mem.close()
    with pytest.raises(ClosedError):
        asked(framework, mem)


def test_langchain_options_may_come_with_the_call(mem: DeltaMem) -> None:
    retriever = ForLangChain(mem=mem)
    with pytest.raises(ConfigError, match=r"agent_id=… with the call"):
        retriever.invoke("dog")
    assert [each.id for each in retriever.invoke("What is my dog?", agent_id="alice", session="s1")] == ["alice/s1/m1"]
    assert len(retriever.invoke("What is my dog?", agent_id="alice", k=1)) == 1
    assert "sqlite" not in repr(retriever)


def test_llama_index_shows_an_llm_the_text_alone(mem: DeltaMem) -> None:
    from llama_index.core.schema import MetadataMode

    (node, *_) = ForLlamaIndex(mem, "alice", where={"team": "blue"}).retrieve("dog")
    assert node.node.get_content(MetadataMode.LLM) == node.node.get_content(MetadataMode.EMBED) == "My dog is Rex."
