"""LlamaIndex's agents and chat engine with a model that answers by rule: see `by_rule.py`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from by_rule import LOOK, looked_up, reply_to
from llama_index.core.agent.workflow import FunctionAgent, ReActAgent
from llama_index.core.base.llms.types import ChatMessage, ChatResponse, LLMMetadata, ToolCallBlock
from llama_index.core.chat_engine import SimpleChatEngine
from llama_index.core.llms import MockLLM
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.llms.llm import ToolSelection
from llama_index.core.tools import FunctionTool

TOOL = FunctionTool.from_defaults(looked_up)
OBSERVED = "Observation: "


class Answering(MockLLM, FunctionCallingLLM):
    """Answers the newest question, after it has called the tool where that is asked for."""

    react: bool = False
    tools: bool = True

    def __init__(self, *, react: bool = False, tools: bool = True) -> None:
        super().__init__()
        self.react, self.tools = react, tools

    @property
    def metadata(self) -> LLMMetadata:
        """Of a model that calls functions."""
        return LLMMetadata(is_chat_model=True, is_function_calling_model=True, context_window=30_000, num_output=256)

    def chat(self, messages: Sequence[ChatMessage], **_: Any) -> ChatResponse:
        """A reply, or a call."""
        asked = [
            place
            for place, message in enumerate(messages)
            if message.role.value == "user" and not str(message.content).startswith(OBSERVED)
        ]
        question = str(messages[asked[-1]].content)
        after = messages[asked[-1] + 1 :]
        looked = any(each.role.value == "tool" or str(each.content).startswith(OBSERVED) for each in after)
        call = self.tools and LOOK in question and not looked
        if not self.react:
            block = ToolCallBlock(tool_call_id="c", tool_name=TOOL.metadata.name or "", tool_kwargs={})
            said = ChatMessage(role="assistant", blocks=[block]) if call else None
            return ChatResponse(message=said or ChatMessage(role="assistant", content=reply_to(question)))
        text = f"Thought: I do not know.\nAction: {TOOL.metadata.name}\nAction Input: {{}}"
        answer = f"Thought: I can answer without using any more tools.\nAnswer: {reply_to(question)}"
        return ChatResponse(message=ChatMessage(role="assistant", content=text if call else answer))

    async def achat(self, messages: Sequence[ChatMessage], **options: Any) -> ChatResponse:
        """The same."""
        return self.chat(messages, **options)

    def get_tool_calls_from_response(self, response: ChatResponse, *_: Any, **__: Any) -> list[ToolSelection]:
        """The calls of a reply."""
        calls = [block for block in response.message.blocks if isinstance(block, ToolCallBlock)]
        return [ToolSelection(tool_id="c", tool_name=call.tool_name, tool_kwargs={}) for call in calls]

    def _prepare_chat_with_tools(self, tools: Any, user_msg: Any = None, chat_history: Any = None, **_: Any) -> Any:
        return {"messages": [*(chat_history or []), *([user_msg] if user_msg else [])]}


async def function_agent(memory: Any, text: str, history: list[ChatMessage] | None = None) -> str:
    """The reply of a `FunctionAgent`."""
    agent = FunctionAgent(llm=Answering(), tools=[TOOL], streaming=False)
    return str(await agent.run(text, memory=memory, chat_history=history))


async def react_agent(memory: Any, text: str, history: list[ChatMessage] | None = None) -> str:
    """The reply of a `ReActAgent`."""
    agent = ReActAgent(llm=Answering(react=True), tools=[TOOL], streaming=False)
    return str(await agent.run(text, memory=memory, chat_history=history))


async def chat_engine(memory: Any, text: str, history: list[ChatMessage] | None = None) -> str:
    """The reply of a `SimpleChatEngine`."""
    engine = SimpleChatEngine.from_defaults(llm=Answering(tools=False), memory=memory)
    return str(await engine.achat(text, chat_history=history))
