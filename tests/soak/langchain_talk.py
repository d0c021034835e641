"""LangChain's agent and chain with a model that answers by rule: see `by_rule.py`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from by_rule import LOOK, reply_to
from langchain.agents import create_agent
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.runnables.history import RunnableWithMessageHistory
from langchain_core.tools import tool

from deltamem_agents import DeltaMem
from langchain_deltamem import DeltaMemChatMessageHistory, DeltaMemMiddleware


class Answering(BaseChatModel):
    """Answers the newest question, after it has called the tool where that is asked for."""

    tools: bool = True

    @property
    def _llm_type(self) -> str:
        return "answering"

    def bind_tools(self, *_: Any, **__: Any) -> Any:
        """It knows its tool."""
        return self

    def _generate(self, messages: list[BaseMessage], *_: Any, **__: Any) -> ChatResult:
        newest = max(place for place, message in enumerate(messages) if isinstance(message, HumanMessage))
        question = messages[newest].text
        looked = any(isinstance(message, ToolMessage) for message in messages[newest:])
        said = AIMessage(reply_to(question))
        if self.tools and LOOK in question and not looked:
            said = AIMessage("", tool_calls=[{"name": "look_up", "args": {}, "id": f"call {question}"}])
        return ChatResult(generations=[ChatGeneration(message=said)])


def agent(mem: DeltaMem, id: str, kept: Any, looked_up: Callable[[], str]) -> Any:
    """An agent with memory and a tool."""

    @tool
    def look_up() -> str:
        """Look it up."""
        return looked_up()

    return create_agent(Answering(), [look_up], middleware=[DeltaMemMiddleware(mem, id)], checkpointer=kept)


def chain(mem: DeltaMem, id: str) -> Any:
    """A model whose history is the agent's journal."""
    return RunnableWithMessageHistory(
        Answering(tools=False), lambda session_id: DeltaMemChatMessageHistory(mem, id, session_id)
    )
