"""A life without a model, in a process of its own: ``python without_model.py memory|langchain|llama_index FOLDER``.

First of all it takes the processor time of importing the framework, then of importing ours on top of it. Prints both,
and which model libraries were imported in the end.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deltamem_agents import DeltaMem

FOREIGN = ("AnthropicMemoryTool", "AsyncAnthropicMemoryTool")  # these import Anthropic's SDK, which takes a second
HEAVY = ("torch", "transformers", "triton", "sentence_transformers")
TEAL = {"role": "user", "content": "My favourite colour is teal.", "id": "m1"}
OSLO = {"role": "user", "content": "I live in Oslo.", "id": "m2"}


def framework_of(kind: str) -> None:
    needed = {
        "memory": (),
        "langchain": ("langchain.agents", "langchain_core.chat_history", "langgraph.store.base"),
        "llama_index": ("llama_index.core.memory",),
    }
    for name in needed[kind]:
        import_module(name)


def ours(kind: str) -> None:
    package = "deltamem_agents" if kind == "memory" else f"{kind}_deltamem"
    module = import_module(package)
    for name in module.__all__:
        if name not in ("ChatDeltaMem", "DeltaMemLLM", *FOREIGN):
            getattr(module, name)
    assert not {"langchain_deltamem.chat_model", "llama_index_deltamem.llm"} & set(sys.modules)


def memory(mem: DeltaMem, folder: Path) -> None:
    alice = mem.agent("alice")
    assert alice.write([TEAL, OSLO], "s") == ["m1", "m2"]
    assert "teal" in alice.recall("Which is my favourite colour?").text
    assert "Oslo" in asyncio.run(alice.arecall("Where do I live?", mode="vector")).text
    position = alice.health().position
    twin = alice.fork("alice-2")
    assert [entry.id for entry in twin.log()] == ["m1", "m2"]
    twin.rollback(1)
    assert [entry.id for entry in twin.log()] == ["m1"] and len(twin.log(at=position)) == 2
    assert [entry.id for entry in twin.diff(0, 2).added] == ["m1", "m2"] and twin.diff(0, 2).layers == {}
    mem.export("alice", folder / "alice.zip")
    assert len(mem.import_(folder / "alice.zip", agent="copy").log()) == 2
    assert alice.erase(ids=["m1"]).status == "complete"
    assert "teal" not in alice.recall("Which is my favourite colour?").text
    assert mem.agent("alice-2").delete().erased[0].messages == 2
    assert mem.stats().backlog.unfolded == 3 and mem.stats().engine is None
    assert [each.id for each in mem.agents()] == ["alice", "copy"] and mem.purge() is None


def langchain(mem: DeltaMem, folder: Path) -> None:
    from langchain.agents import create_agent
    from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
    from langchain_core.messages import AIMessage, HumanMessage

    from langchain_deltamem import DeltaMemChatMessageHistory, DeltaMemMiddleware, DeltaMemRetriever, DeltaMemStore

    history = DeltaMemChatMessageHistory(mem, "alice", "s")
    history.add_messages([HumanMessage(TEAL["content"])])
    assert [each.text for each in history.messages] == [TEAL["content"]]
    found = DeltaMemRetriever(mem=mem, agent_id="alice").invoke("Which is my favourite colour?")
    assert [each.page_content for each in found] == [TEAL["content"]]

    class Scripted(GenericFakeChatModel):
        def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
            return self

    asks = AIMessage("", tool_calls=[{"name": "recall", "args": {"query": "favourite colour"}, "id": "c1"}])
    model = Scripted(messages=iter([asks, AIMessage("Teal.")]))
    agent = create_agent(model, middleware=[DeltaMemMiddleware(mem, "alice", tools=True)])
    said = agent.invoke({"messages": [HumanMessage("What is my favourite colour?")]})
    assert TEAL["content"] in said["messages"][-2].text and said["messages"][-1].text == "Teal."
    assert [each.text for each in mem.agent("alice").log()][1:] == ["What is my favourite colour?", "Teal."]
    store = DeltaMemStore(mem)
    store.put(("users", "1"), "food", {"text": "Ana eats no nuts."})
    assert [each.key for each in store.search(("users",), query="nuts")] == ["food"]
    assert store.list_namespaces() == [("users", "1")]
    store.delete(("users", "1"), "food")
    assert store.get(("users", "1"), "food") is None


def llama_index(mem: DeltaMem, folder: Path) -> None:
    from llama_index.core.base.llms.types import ChatMessage
    from llama_index.core.chat_engine import SimpleChatEngine
    from llama_index.core.llms import MockLLM

    from llama_index_deltamem import DeltaMemory, DeltaMemoryBlock, DeltaMemRetriever

    memory = DeltaMemory.from_defaults(mem, "alice", "s")
    memory.put(ChatMessage(role="user", content=TEAL["content"]))
    memory.put(ChatMessage(role="assistant", content="Noted, teal it is."))
    other = DeltaMemory.from_defaults(mem, "alice", "t")
    engine = SimpleChatEngine.from_defaults(llm=MockLLM(), memory=other)
    assert "teal" in str(engine.chat("What is my favourite colour?"))  # it says what it was told
    nodes = DeltaMemRetriever(mem=mem, agent_id="alice").retrieve("Which is my favourite colour?")
    assert any(TEAL["content"] == each.node.get_content() for each in nodes)
    block = DeltaMemoryBlock(mem=mem, agent_id="alice")
    assert "teal" in str(asyncio.run(block.aget([ChatMessage(role="user", content="My favourite colour?")])))


LIVES: dict[str, Callable[[DeltaMem, Path], None]] = {
    "memory": memory,
    "langchain": langchain,
    "llama_index": llama_index,
}


def main(kind: str, folder: Path) -> None:
    started = time.process_time()
    framework_of(kind)
    between = time.process_time()
    ours(kind)
    done: dict[str, Any] = {"framework": between - started, "ours": time.process_time() - between}

    from deltamem_agents import DeltaMem

    with DeltaMem.open(backbone=None, url=f"sqlite:///{folder / 'memory.db'}") as mem:
        LIVES[kind](mem, folder)
    print(json.dumps(done | {"heavy": [name for name in HEAVY if name in sys.modules]}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
