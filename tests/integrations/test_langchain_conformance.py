"""LangChain's own unit tests of chat models, on `ChatDeltaMem` with the bundled model; none is overridden."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_tests.unit_tests import ChatModelUnitTests

from deltamem_agents import DeltaMem
from langchain_deltamem import ChatDeltaMem


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
