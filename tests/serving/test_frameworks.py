"""LangChain's ChatOpenAI and LlamaIndex's OpenAILike on a server, unmodified."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import pytest

from deltamem_agents import DeltaMem
from tests.serving.conftest import served


@pytest.fixture(scope="module")
def mem(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DeltaMem]:
    folder = tmp_path_factory.mktemp("frameworks")
    with DeltaMem.open("tiny", url=f"sqlite:///{folder}/m.db", embedder=False) as opened:
        yield opened


@pytest.fixture(scope="module")
def url(mem: DeltaMem) -> Iterator[str]:
    with served(mem) as found:
        yield f"{found}/v1"


def test_langchain(url: str, mem: DeltaMem) -> None:
    from langchain_core.tools import tool
    from langchain_openai import ChatOpenAI
    from pydantic import BaseModel

    headers = {"x-deltamem-agent": "chain", "x-session-id": "s1"}
    model = ChatOpenAI(base_url=url, api_key="none", model="tiny", default_headers=headers)  # type: ignore[arg-type]
    model.invoke("My favourite colour is teal.")
    assert "".join(str(each.text) for each in model.stream("What is my favourite colour?")) == "teal"

    @tool
    def count(n: Literal[1, 2]) -> str:
        """Count."""
        return "one"

    called = model.bind_tools([count], tool_choice="count").invoke("Count to one.", max_tokens=60)
    assert [each["name"] for each in called.tool_calls] == ["count"]  # type: ignore[attr-defined]

    class Sure(BaseModel):
        sure: bool

    for method in ("json_schema", "function_calling"):
        found = model.with_structured_output(Sure, method=method).invoke("Are you sure?")  # type: ignore[arg-type]
        assert isinstance(found, Sure)
    assert model.bind(logprobs=True).invoke("Hello").response_metadata["logprobs"]["content"]
    assert len(mem.agent("chain").log("s1")) >= 4


def test_langchain_with_responses(url: str) -> None:
    from langchain_openai import ChatOpenAI

    headers = {"x-deltamem-agent": "responses"}
    options: Any = {"base_url": url, "api_key": "none", "model": "tiny", "default_headers": headers}
    model = ChatOpenAI(**options, use_responses_api=True)
    model.invoke("My favourite colour is teal.")
    assert model.invoke("What is my favourite colour?").text == "teal"
    assert "".join(str(each.text) for each in model.stream("What is my favourite colour?")) == "teal"


async def test_llama_index(url: str) -> None:
    from llama_index.core.llms import ChatMessage
    from llama_index.llms.openai_like import OpenAILike

    options: Any = {"api_base": url, "api_key": "none", "model": "tiny", "is_chat_model": True}
    model = OpenAILike(**options, context_window=2048, default_headers={"x-deltamem-agent": "index"})
    model.chat([ChatMessage(role="user", content="My favourite colour is teal.")])
    asked = [ChatMessage(role="user", content="What is my favourite colour?")]
    assert model.chat(asked).message.content == "teal"
    assert [each.delta async for each in await model.astream_chat(asked)]
