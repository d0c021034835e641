"""LangChain's own tests of chat models and retrievers, on ours; none is overridden.

`TestOnTheBundledModel` and `TestRetriever` run on the bundled model as it is. What it was not trained for, tools,
`TestOnAScriptedBackbone` runs: the same class, prompts, templates and parsing, with words put in the backbone's mouth.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from langchain_tests.integration_tests import ChatModelIntegrationTests, RetrieversIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests

from deltamem_agents import DeltaMem
from langchain_deltamem import ChatDeltaMem, DeltaMemRetriever

ANSWERS: dict[str, Any] = {  # what a model that calls tools well would give, by the name of an argument
    "input": 3,
    "_input": 3,
    "a": 3,
    "b": 4,
    "setup": "Why did the cat cross the road?",
    "punchline": "It was bored.",
    "location": "San Francisco, CA",
    "answer_style": "pirate",
    "description": "a company",
}


def calls_a_tool(prompt: str) -> str:
    """Calls the first tool that the prompt shows, unless there is none, or one has answered."""
    shown = re.search(r"Tools:\n(\{.*?\})\n?(?:\{.*\}\n?)*<\|end\|>", prompt)
    if shown is None or "<|tool|>" in prompt.rpartition("<|user|>")[2]:
        return "It is done."
    tool = json.loads(shown.group(1))["function"]
    named = re.search(r"named '([^']+)'", prompt)
    answers = {**ANSWERS, "customer_name": named.group(1) if named else "nobody"}
    arguments = {name: answers[name] for name in tool["parameters"].get("properties", {})}
    call = json.dumps({"name": tool["name"], "arguments": arguments}, ensure_ascii=False)
    return f"<tool_call>\n{call}\n</tool_call>"


class OnOurModel:
    """What the suites ask about a chat model, of ours."""

    @pytest.fixture(autouse=True)
    def _open(self, mem: DeltaMem) -> None:
        self._mem = mem

    @property
    def chat_model_class(self) -> type[ChatDeltaMem]:
        return ChatDeltaMem


class TestUnits(OnOurModel, ChatModelUnitTests):
    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"mem": self._mem, "agent_id": "alice"}


class TestOnTheBundledModel(OnOurModel, ChatModelIntegrationTests):
    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"mem": self._mem, "agent_id": "alice", "max_tokens": 24}

    @property
    def has_tool_calling(self) -> bool:
        return False  # see TestOnAScriptedBackbone

    @property
    def has_structured_output(self) -> bool:
        return False


class TestOnAScriptedBackbone(OnOurModel, ChatModelIntegrationTests):
    @pytest.fixture(autouse=True)
    def _speak(self, mem: DeltaMem, speak: Callable[..., None]) -> None:
        speak(mem, calls_a_tool)

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"mem": self._mem, "agent_id": "alice", "max_tokens": 24}


class TestRetriever(RetrieversIntegrationTests):
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
