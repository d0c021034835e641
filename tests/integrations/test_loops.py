"""No async call blocks its event loop: `blockbuster` sees no blocking call, and the loop does not wait long."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from blockbuster import BlockingError, blockbuster_ctx
from langchain.agents import create_agent
from langchain_core.language_models import FakeListChatModel
from langchain_core.messages import AIMessage, HumanMessage
from llama_index.core.llms import ChatMessage

from deltamem_agents import DeltaMem
from langchain_deltamem import (
    ChatDeltaMem,
    DeltaMemChatMessageHistory,
    DeltaMemClassicMemory,
    DeltaMemMiddleware,
    DeltaMemRetriever,
    DeltaMemStore,
)
from llama_index_deltamem import DeltaMemory, DeltaMemoryBlock
from llama_index_deltamem import DeltaMemRetriever as LlamaRetriever

LONG = "The locker code is 4417. " * 8_640  # 216 KB, which is not folded before the memory is closed
SHORT = LONG[:1_000]
ASKED = "What is the locker code?"
LATE = 0.5  # seconds; a busy machine makes a loop wait, a call that blocks for all of a long text makes it wait longer


async def longest_wait(work: Any) -> float:
    """By how many seconds a task that ticks in the same loop was late at worst."""
    worst, last = 0.0, time.perf_counter()

    async def tick() -> None:
        nonlocal worst, last
        while True:
            last = time.perf_counter()
            await asyncio.sleep(0.005)
            worst = max(worst, time.perf_counter() - last - 0.005)

    ticking = asyncio.create_task(tick())
    await work
    ticking.cancel()
    return max(worst, time.perf_counter() - last - 0.005)


async def of_memory(mem: DeltaMem, folder: Path) -> None:
    alice, said = mem.agent("alice"), [{"role": "user", "content": SHORT, "id": "1"}]
    await alice.awrite(said, wait=False)
    await alice.awrite([{"role": "user", "content": "My dog is Rex."}], "s")
    await alice.arecall(ASKED)
    await alice.agenerate([{"role": "user", "content": ASKED}], mode="vector", budget=20)
    await alice.achat([{"role": "user", "content": ASKED}], "s", budget=20)
    assert [piece async for piece in alice.achat_stream([{"role": "user", "content": ASKED}], "s", budget=20)]
    record = (await alice.arecall("dog", generate=False)).records[0]
    await alice.aneighbours(record)
    position = (await alice.ahealth()).position
    await alice.adiff(position - 1)
    assert await alice.alog() and await alice.asessions() and await alice.astate()
    await alice.afork("fork")
    await alice.arollback(position)
    await alice.aerase(ids=["1"])
    await alice.arebuild()
    await alice.averify()
    await mem.aexport("alice", folder / "alice.zip")
    await mem.aimport_(folder / "alice.zip", agent="imported")
    assert await mem.aagents() and await mem.astats()
    await mem.apurge()
    await mem.agent("fork").adelete()


async def of_langchain(mem: DeltaMem) -> None:
    model, config = FakeListChatModel(responses=["Noted."]), {"configurable": {"thread_id": "t"}}
    agent = create_agent(model, middleware=[DeltaMemMiddleware(mem, "lc", budget=50)])
    for text in (SHORT, ASKED):
        await agent.ainvoke({"messages": [HumanMessage(text)]}, config)  # type: ignore[arg-type]
    llm = ChatDeltaMem(mem=mem, agent_id="lc", max_tokens=4, budget=20)
    await llm.ainvoke(ASKED)
    assert [chunk async for chunk in llm.astream(ASKED)]
    history = DeltaMemChatMessageHistory(mem, "lc", "h")
    await history.aadd_messages([HumanMessage(SHORT), AIMessage("Noted.")])
    assert len(await history.aget_messages()) == 2
    await history.aclear()
    await DeltaMemRetriever(mem=mem, agent_id="lc").ainvoke(ASKED)
    classic = DeltaMemClassicMemory(mem=mem, agent_id="lc", session_id="c")
    await classic.asave_context({"input": SHORT}, {"output": "Noted."})
    await classic.aload_memory_variables({"input": ASKED})
    await classic.aclear()
    store = DeltaMemStore(mem)
    await store.aput(("users",), "k", {"text": LONG})
    assert await store.aget(("users",), "k") and await store.asearch(("users",), query="locker")
    await store.alist_namespaces()
    await store.adelete(("users",), "k")


async def of_llama_index(mem: DeltaMem) -> None:
    await LlamaRetriever(mem, "lc").aretrieve(ASKED)
    block = await asyncio.to_thread(DeltaMemoryBlock, mem, "block")  # LlamaIndex looks for its tokenizer
    await block.aput([ChatMessage(role="user", content=LONG)])
    await block.aget([ChatMessage(role="user", content=ASKED)])


async def of_a_buffer(mem: DeltaMem) -> None:
    memory = DeltaMemory.from_defaults(mem, "li", "s")
    for role, text in (("user", "The locker code is 4417."), ("assistant", "Noted."), ("user", ASKED)):
        await memory.aput(ChatMessage(role=role, content=text))
    assert await memory.aget() and await memory.aget_all()
    await memory.areset()
    await memory.awipe()


CALLS: dict[str, Callable[..., Any]] = {
    "memory": of_memory,
    "LangChain": of_langchain,
    "LlamaIndex": of_llama_index,
    "a buffer": of_a_buffer,
}


@pytest.mark.parametrize("name", CALLS)
async def test_nothing_blocks_the_loop(tmp_path: Path, name: str) -> None:
    url = f"sqlite:///{tmp_path / 'memory.db'}"
    with DeltaMem.open("tiny", url="sqlite://", embedder=False) as warm:  # what is imported on first use is no call's
        await warm.agent("a").achat([{"role": "user", "content": ASKED}])

        async def calls() -> None:
            async with DeltaMem.aopen("tiny", url=url, embedder=False) as mem:
                await CALLS[name](mem, *([tmp_path] if name == "memory" else []))

        with blockbuster_ctx() as watching:
            for function in watching.functions.values():  # what Python's executors do before they hand work over
                function.can_block_in("concurrent/futures/thread.py", {"submit", "_adjust_thread_count"})
            with pytest.raises(BlockingError):
                DeltaMem.open(backbone=None, url=f"sqlite:///{tmp_path / 'other.db'}", embedder=False)
            assert await longest_wait(calls()) < LATE
