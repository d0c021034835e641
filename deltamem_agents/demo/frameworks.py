"""Puts the demo's questions to agents of LangChain and LlamaIndex that use our backbone and memory."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from deltamem_agents.demo.rows import Row, given
from deltamem_agents.errors import UnsupportedModelError

if TYPE_CHECKING:
    from deltamem_agents.memory import DeltaMem


def through_langchain(mem: DeltaMem, agent_id: str, questions: list[str]) -> Iterator[Row]:
    """One row per question, each asked in its own conversation.

    Raises:
        MissingExtraError: LangChain is not installed.
    """
    from langchain_deltamem import ChatDeltaMem, DeltaMemMiddleware  # isort: skip  # its error names the missing extra
    from langchain.agents import create_agent

    # Nothing is journalled, so every question meets the memory that the first process left.
    memory = DeltaMemMiddleware(mem, agent_id=agent_id, write=lambda message: False)
    agent: Any = create_agent(ChatDeltaMem(mem=mem, max_tokens=32), middleware=[memory])
    for question in questions:
        reply = agent.invoke({"messages": [{"role": "user", "content": question}]})["messages"][-1]
        yield given(
            mem,
            question,
            "LangChain",
            str(reply.text),
            reply.usage_metadata["input_tokens"],
            reply.response_metadata,
        )


def through_llama_index(mem: DeltaMem, agent_id: str, questions: list[str]) -> Iterator[Row]:
    """One row per question, each asked in its own conversation, which is journalled.

    Raises:
        MissingExtraError: LlamaIndex is not installed.
        UnsupportedModelError: The backbone's chat template has no tools, and LlamaIndex's agents refuse such a model.
    """
    from llama_index_deltamem import DeltaMemLLM, DeltaMemory  # isort: skip  # its error names the missing extra
    from llama_index.core.agent.workflow import FunctionAgent

    if not mem.engine.rendering.takes_tools:
        raise UnsupportedModelError(
            f"its agents need a chat template that shows tools to the model, and that of {mem.engine.name!r} does not; "
            "use 'tiny' or an instruction-tuned model"
        )
    agent = FunctionAgent(llm=DeltaMemLLM(mem, max_tokens=32, agent_id=agent_id))

    async def ask(question: str) -> Any:
        return await agent.run(question, memory=DeltaMemory.from_defaults(mem, agent_id))

    for question in questions:
        reply = asyncio.run(ask(question))
        facts: dict[str, Any] = reply.raw
        tokens = facts["usage"]["prompt_tokens"]
        yield given(mem, question, "LlamaIndex", reply.response.content or "", tokens, facts)
