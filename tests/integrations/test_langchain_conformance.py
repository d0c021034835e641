"""LangChain's own tests of chat models and retrievers, on ours with the bundled model; none is overridden."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_tests.integration_tests import RetrieversIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests

from deltamem_agents import DeltaMem
from langchain_deltamem import ChatDeltaMem, DeltaMemRetriever


class TestChatDeltaMem(ChatModelUnitTests):
    @pytest.fixture(autouse=True)
    def _open(self, mem: DeltaMem) -> None:
        self._mem = mem

    @property
    def chat_model_class(self) -> type[ChatDeltaMem]:
        return ChatDeltaMem

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"mem": self._mem, "agent_id": "alice"}


class TestDeltaMemRetriever(RetrieversIntegrationTests):
    @pytest.fixture(autouse=True)
    def _open(self, mem: DeltaMem) -> None:
        said = [{"role": "user", "content": f"The {animal} sleeps."} for animal in ("cat", "dog", "owl", "fox", "hen")]
        mem.agent("alice").write(said, wait=False)
        self._mem = mem

    @property
    def retriever_constructor(self) -> type[DeltaMemRetriever]:
        return DeltaMemRetriever

    @property
    def retriever_constructor_params(self) -> dict[str, Any]:
        return {"mem": self._mem, "agent_id": "alice"}

    @property
    def retriever_query_example(self) -> str:
        return "Who sleeps?"
