"""Nothing deprecated is used by the LlamaIndex integration: what Python is told comes of LlamaIndex's own classes."""

from __future__ import annotations

import asyncio
import subprocess
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from llama_index.core.agent.workflow import FunctionAgent, ReActAgent
from llama_index.core.chat_engine import ContextChatEngine, SimpleChatEngine
from llama_index.core.llms import ChatMessage
from llama_index.core.memory import Memory
from llama_index.core.workflow import Context

import llama_index_deltamem
from deltamem_agents import DeltaMem
from llama_index_deltamem import DeltaMemLLM, DeltaMemory, DeltaMemoryBlock, DeltaMemRetriever

OURS = str(Path(llama_index_deltamem.__file__).parent)
DEPRECATIONS = (DeprecationWarning, PendingDeprecationWarning, FutureWarning)  # pydantic's are of the first kind


@pytest.fixture
def warned() -> Iterator[Callable[[], set[tuple[str, str, str]]]]:
    """What deprecations there were since the last call: category, text, file."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")

        def since() -> set[tuple[str, str, str]]:
            found = {
                (each.category.__name__, str(each.message), each.filename)
                for each in caught
                if issubclass(each.category, DEPRECATIONS)
            }
            caught.clear()
            return found

        yield since


async def _used(mem: DeltaMem, make: Callable[[str], Memory]) -> None:
    """Whatever LlamaIndex does with a memory."""
    llm = DeltaMemLLM(mem, "alice", max_tokens=2)
    for kind in (FunctionAgent, ReActAgent):
        agent = kind(llm=llm, tools=[])
        context = Context(agent)
        await agent.run("Hello", memory=make(kind.__name__), ctx=context)
        with warnings.catch_warnings(action="ignore", category=UserWarning):  # stock memories cannot be serialised
            restored = Context.from_dict(agent, context.to_dict())
        await agent.run("Hello again", ctx=restored)
    memory = make("engine")
    SimpleChatEngine.from_defaults(llm=llm, memory=memory).chat("Hello")
    engine = ContextChatEngine.from_defaults(DeltaMemRetriever(mem, "alice"), llm=llm, memory=memory)
    await engine.achat("Hello")
    await memory.aset([ChatMessage(role="user", content="Hello")])
    await memory.areset()
    memory.model_copy()


async def test_no_deprecation_stems_from_us(mem: DeltaMem, warned: Callable[[], set[tuple[str, str, str]]]) -> None:
    mem.agent("alice").write([{"role": "user", "content": "Hello"}])
    await _used(mem, Memory.from_defaults)
    await asyncio.sleep(0)
    theirs = warned()
    await _used(mem, lambda session: DeltaMemory.from_defaults(mem, "alice", session))
    memory = DeltaMemory.from_defaults(mem, "alice")
    DeltaMemory.from_dict(memory.to_dict()).get_all()
    memory.wipe()
    blocks = [DeltaMemoryBlock(mem, "alice")]
    await _used(mem, lambda session: Memory.from_defaults(session, memory_blocks=blocks))  # type: ignore[arg-type]
    ours = warned()
    assert not [each for each in ours if each[2].startswith(OURS)]
    assert ours <= theirs  # pydantic's, of whoever looks through an object's members, come with any memory


def test_import_warns_of_nothing(python: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    done = python("-W", "error::DeprecationWarning", "-W", "error::FutureWarning", "-c", "import llama_index_deltamem")
    assert done.returncode == 0, done.stderr[-2000:]
