"""A `DeltaMem` that was closed: runs of agents go on without it, logged once; calls of the user's own raise."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.language_models import FakeListChatModel, FakeMessagesListChatModel
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.runnables import RunnableLambda
from langchain_core.runnables.history import RunnableWithMessageHistory
from llama_index.core.agent.workflow import ReActAgent
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.llms import MockLLM
from llama_index.core.memory import Memory

from deltamem_agents import DeltaMem
from deltamem_agents.errors import ClosedError
from langchain_deltamem import DeltaMemChatMessageHistory, DeltaMemClassicMemory, DeltaMemMiddleware
from llama_index_deltamem import DeltaMemory, DeltaMemoryBlock

IN, SESSION = {"messages": [HumanMessage("Hi")]}, {"configurable": {"session_id": "s"}}
CHAIN: Any = RunnableLambda(lambda messages: "Fine.")
Run = Callable[[DeltaMem, str], Any]


async def middleware(mem: DeltaMem, on_error: Any) -> None:
    graph: Any = create_agent(
        FakeListChatModel(responses=["Fine."]), middleware=[DeltaMemMiddleware(mem, "alice", on_error=on_error)]
    )
    mem.close()
    for _ in range(2):
        assert graph.invoke(IN)["messages"][-1].content == "Fine."
        assert (await graph.ainvoke(IN))["messages"][-1].content == "Fine."


async def history(mem: DeltaMem, on_error: Any) -> None:
    def of(session: str) -> DeltaMemChatMessageHistory:
        return DeltaMemChatMessageHistory(mem, "alice", session, on_error=on_error)

    chain = RunnableWithMessageHistory(CHAIN, of)
    kept = of("s")
    same = RunnableWithMessageHistory(CHAIN, lambda _: kept)
    mem.close()
    for each in (chain, same):
        assert each.invoke([HumanMessage("Hi")], SESSION) == "Fine."
        assert await each.ainvoke([HumanMessage("Hi")], SESSION) == "Fine."


async def classic(mem: DeltaMem, on_error: Any) -> None:
    memory = DeltaMemClassicMemory(mem=mem, agent_id="alice", on_error=on_error)
    mem.close()
    assert memory.load_memory_variables({"input": "Hi"}) == {"history": ""}
    assert await memory.aload_memory_variables({"input": "Hi"}) == {"history": ""}
    memory.save_context({"input": "Hi"}, {"output": "Fine."})
    await memory.asave_context({"input": "Hi"}, {"output": "Fine."})


async def llama(memory: Memory) -> None:
    for said in ("Hi", "Ho"):
        reply = await ReActAgent(tools=[], llm=MockLLM(max_tokens=5), streaming=False).run(said, memory=memory)
        assert str(reply)


async def memory(mem: DeltaMem, on_error: Any) -> None:
    kept = DeltaMemory.from_defaults(mem, "alice", "s", on_error=on_error)
    mem.close()
    await llama(kept)


async def block(mem: DeltaMem, on_error: Any) -> None:
    made = DeltaMemoryBlock(mem, "alice", on_error=on_error)
    kept = Memory.from_defaults(memory_blocks=[made], token_limit=30, token_flush_size=5)
    mem.close()
    await llama(kept)


@pytest.mark.parametrize("run", [middleware, history, classic, memory, block])
async def test_a_run_goes_on_without_it(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    def opened() -> DeltaMem:
        return DeltaMem.open(backbone=None, url="sqlite://", embedder=False)

    with caplog.at_level(logging.WARNING, "deltamem_agents"):
        await run(opened(), "log")
    assert ["without memory" in record.getMessage() for record in caplog.records] == [True]
    with pytest.raises(ClosedError):
        await run(opened(), "raise")


async def test_calls_of_the_users_own_raise() -> None:
    mem = DeltaMem.open(backbone=None, url="sqlite://", embedder=False)
    kept, made = DeltaMemory.from_defaults(mem, "alice", "s"), DeltaMemoryBlock(mem, "alice")
    chat = DeltaMemChatMessageHistory(mem, "alice")
    mem.close()
    said = ChatMessage(role="user", content="Hi")
    for call in (
        lambda: kept.put(said),
        kept.get,
        lambda: chat.add_messages([HumanMessage("Hi")]),
        lambda: chat.messages,
    ):
        with pytest.raises(ClosedError):
            call()
    for later in (lambda: kept.aput(said), lambda: made.aput([said]), chat.aget_messages, chat.aclear):
        with pytest.raises(ClosedError):
            await later()


@pytest.mark.parametrize(
    ("name", "given"), [("remember", {"text": "I like tea."}), ("recall", {"query": "tea"}), ("forget", {"id": "m1"})]
)
async def test_a_tool_tells_the_model_and_the_run_goes_on(name: str, given: dict[str, str]) -> None:
    class Calling(FakeMessagesListChatModel):
        def bind_tools(self, tools: Any, **_: Any) -> Any:
            return self

    for on_error in ("log", "raise"):
        mem = DeltaMem.open(backbone=None, url="sqlite://")
        calls = [{"name": name, "args": given, "id": "c1", "type": "tool_call"}]
        said = [AIMessage("", tool_calls=calls), AIMessage("Fine.")]
        tools = DeltaMemMiddleware(mem, "alice", tools=True, on_error=on_error)  # type: ignore[arg-type]
        graph: Any = create_agent(Calling(responses=said), tools=tools.tools)  # a closed memory stops the middleware
        mem.close()
        if on_error == "raise":
            with pytest.raises(ClosedError):
                graph.invoke(IN)
            continue
        for result in (graph.invoke(IN), await graph.ainvoke(IN)):
            told, answer = result["messages"][-2:]
            assert "not available" in told.content and answer.content == "Fine."
