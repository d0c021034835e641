"""A repository's rules in the prompts of LangChain's and LlamaIndex's agents: once, for the task, after a summary."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import SummarizationMiddleware
from langgraph.checkpoint.memory import InMemorySaver
from llama_index.core.llms import ChatMessage

from deltamem_agents import DeltaMem
from deltamem_agents.errors import RepositoryError
from langchain_deltamem import ChatDeltaMem, DeltaMemMiddleware
from llama_index_deltamem import DeltaMemory

RULE, OTHER = "Run the tests with `make check`.", "Indent Python with two spaces."
MARK = re.compile(r"<rules-[0-9a-f]{8}>")


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    root = tmp_path / "repository"
    root.mkdir()
    (root / "AGENTS.md").write_text(f"# Rules\n\n- {RULE}\n- {OTHER}\n")
    for command in (["init", "-q"], ["add", "-A"], ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "x"]):
        subprocess.run(["git", *command], cwd=root, check=True)
    return root


def in_prompt(prompt: str) -> int:
    """How many briefs a prompt has; each has the rule."""
    found = len(MARK.findall(prompt))
    assert (RULE in prompt) == bool(found)
    return found


def test_langchain_gets_the_rules_in_each_call_once(mem: DeltaMem, prompts: list[str], repository: Path) -> None:
    memory = DeltaMemMiddleware(mem, "alice", guidelines=repository)
    agent = create_agent(
        ChatDeltaMem(mem=mem, agent_id="alice", max_tokens=4),
        system_prompt="Be kind.",
        middleware=[memory],
        checkpointer=InMemorySaver(),
    )
    thread = {"configurable": {"thread_id": "t"}}
    for question in ("How do I run the tests?", "How do I indent?"):
        agent.invoke({"messages": [("user", question)]}, thread)
        assert in_prompt(prompts[-1]) == 1
        assert "AGENTS.md:3" in prompts[-1]
    (repository / "AGENTS.md").write_text("# Rules\n\n- Run the tests with `pytest -q`.\n")
    agent.invoke({"messages": [("user", "And how are the tests run now?")]}, thread)
    assert "pytest -q" in prompts[-1] and RULE not in prompts[-1]
    assert not any("AGENTS.md" in entry.text for entry in mem.agent("alice").log())


async def test_langchain_has_them_after_a_summary(mem: DeltaMem, prompts: list[str], repository: Path) -> None:
    model = ChatDeltaMem(mem=mem, agent_id="alice", max_tokens=4)
    agent = create_agent(
        model,
        middleware=[
            SummarizationMiddleware(model, trigger=("messages", 4), keep=("messages", 1)),
            DeltaMemMiddleware(mem, "alice", guidelines=repository),
        ],
        checkpointer=InMemorySaver(),
    )
    thread = {"configurable": {"thread_id": "t"}}
    for number in range(4):
        await agent.ainvoke({"messages": [("user", f"Question {number}: how do I run the tests?")]}, thread)
        assert in_prompt(prompts[-1]) == 1


async def test_llama_index_has_them_after_a_flush(open_mem: Callable[[], DeltaMem], repository: Path) -> None:
    memory = DeltaMemory.from_defaults(open_mem(), "alice", guidelines=repository, token_limit=1200)
    for number in range(6):
        question = ChatMessage(role="user", content=f"Question {number}: how do I run the tests? " + "word " * 60)
        await memory.aput(question)
        prompt = await memory.aget()
        assert in_prompt("".join(each.content or "" for each in prompt)) == 1
        assert prompt[0].role == "system" and "AGENTS.md:3" in (prompt[0].content or "")
        await memory.aset(prompt)  # what a prompt has may be given back
        again = await memory.aget()
        assert in_prompt("".join(each.content or "" for each in again)) == 1
        await memory.aput(ChatMessage(role="assistant", content="With make check. " + "word " * 60))
    assert not any("AGENTS.md" in (each.content or "") for each in await memory.aget_all())


async def test_a_restored_memory_knows_its_repository(open_mem: Callable[[], DeltaMem], repository: Path) -> None:
    mem = open_mem()
    memory = DeltaMemory.from_defaults(mem, "alice", guidelines=str(repository))
    restored = DeltaMemory.from_dict(memory.to_dict(), mem)
    await restored.aput(ChatMessage(role="user", content="How do I run the tests?"))
    assert in_prompt("".join(each.content or "" for each in await restored.aget())) == 1


def test_rules_that_cannot_be_read_do_not_end_a_run(mem: DeltaMem, prompts: list[str], repository: Path) -> None:
    with pytest.raises(RepositoryError):
        DeltaMemMiddleware(mem, "alice", guidelines=repository / "missing")
    with pytest.raises(RepositoryError):
        DeltaMemory.from_defaults(mem, "alice", guidelines=repository / "missing")
    middleware = DeltaMemMiddleware(mem, "alice", guidelines=repository)
    agent = create_agent(ChatDeltaMem(mem=mem, agent_id="alice", max_tokens=4), middleware=[middleware])
    repository.rename(repository.with_name("moved"))
    assert agent.invoke({"messages": [("user", "How do I run the tests?")]})["messages"]
    assert in_prompt(prompts[-1]) == 0
