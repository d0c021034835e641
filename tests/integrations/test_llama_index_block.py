"""LlamaIndex's `Memory` with an agent's memory as one of its blocks."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import pytest
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.base.llms.types import ImageBlock, TextBlock
from llama_index.core.llms import ChatMessage
from llama_index.core.memory import InsertMethod, Memory, StaticMemoryBlock

from deltamem_agents import DeltaMem
from deltamem_agents.errors import ClosedError, ConfigError, InvalidAgentError, NotPicklableError
from llama_index_deltamem import DeltaMemLLM, DeltaMemoryBlock

FACT, QUESTION = "My locker code is 4417.", "What is my locker code?"


def said(role: str, text: str | None) -> ChatMessage:
    return ChatMessage(role=role, content=text)


def turn(number: int) -> list[ChatMessage]:
    return [said("user", f"Tell me about bird {number}."), said("assistant", f"Bird {number} sings.")]


def texts(mem: DeltaMem, session: str | None = None) -> list[str]:
    return [entry.text for entry in mem.agent("alice").log(session)]


def overflowing(*blocks: Any, session: str = "s1", **options: Any) -> Memory:
    """Holds a turn or two."""
    chosen = {"token_limit": 40, "token_flush_size": 5, "tokenizer_fn": str.split} | options
    return Memory.from_defaults(session, memory_blocks=list(blocks), **chosen)


def test_what_leaves_the_buffer_is_journalled_and_recalled(mem: DeltaMem) -> None:
    memory = overflowing(DeltaMemoryBlock(mem, "alice"))
    memory.put_messages([said("system", "Be brief."), said("user", FACT), said("assistant", "Noted.")])
    assert texts(mem) == []
    for number in range(6):
        memory.put_messages(turn(number))
    assert texts(mem, "s1")[:2] == [FACT, "Noted."] and "Be brief." not in texts(mem)
    assert len(texts(mem)) + len(memory.get()) == 14  # two turns are in either the journal or the buffer
    memory.put(said("user", QUESTION))
    got = memory.get()
    assert "<DeltaMem>" in str(got[0].content) and FACT in str(got[0].content)
    assert str(got).count(QUESTION) == 1


def test_what_the_prompt_has_is_not_recalled(mem: DeltaMem) -> None:
    mem.agent("alice").write([{"role": "user", "content": FACT}])
    memory = overflowing(DeltaMemoryBlock(mem, "alice"))
    memory.put_messages([said("user", FACT), said("assistant", "Noted."), said("user", QUESTION)])
    assert len(memory.get()) == 3
    memory = overflowing(DeltaMemoryBlock(mem, "alice"), insert_method=InsertMethod.USER)
    memory.put(said("user", None))
    assert memory.get()[0].content is None and FACT in str(memory.get(input=QUESTION))


async def test_a_conversation_handed_over_again_is_written_once(mem: DeltaMem) -> None:
    history = [message for number in range(9) for message in turn(number % 4)]  # turns that are said again count
    for portions in ([18], [18], [2, 16], [7, 7, 4], [1] * 18):
        block, rest = DeltaMemoryBlock(mem, "alice"), list(history)
        for portion in portions:
            await block.aput(rest[:portion], from_short_term_memory=True, session_id="s1")
            del rest[:portion]
        assert texts(mem, "s1") == [message.content for message in history]
    await DeltaMemoryBlock(mem, "alice").aput([*history, *turn(0)], session_id="s1")
    assert len(texts(mem, "s1")) == 20
    await DeltaMemoryBlock(mem, "alice").aput(history, session_id="s2")
    assert len(texts(mem, "s2")) == 18


async def test_a_failed_write_is_made_up_for(mem: DeltaMem, monkeypatch: pytest.MonkeyPatch) -> None:
    block = DeltaMemoryBlock(mem, "alice", on_error="raise")
    with monkeypatch.context() as patch:
        patch.setattr(mem.store, "append", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            await block.aput(turn(0))
    await block.aput([*turn(0), *turn(1)])
    assert texts(mem, "default") == [message.content for message in (*turn(0), *turn(1))]


async def test_what_could_not_be_written_is_written_next_time(mem: DeltaMem, monkeypatch: pytest.MonkeyPatch) -> None:
    block = DeltaMemoryBlock(mem, "alice")
    with monkeypatch.context() as patch:
        patch.setattr(mem.store, "append", lambda *_: 1 / 0)
        await block.aput(turn(0))
    await block.aput(turn(1))
    assert texts(mem, "default") == [message.content for message in (*turn(0), *turn(1))]


async def test_pictures_are_kept(mem: DeltaMem) -> None:
    picture = ChatMessage(role="user", blocks=[TextBlock(text="Look"), ImageBlock(image=b"GIF89a")])
    await DeltaMemoryBlock(mem, "alice").aput([picture, said("user", None)], session_id="s1")
    (entry,) = mem.agent("alice").log()
    assert entry.text == "Look" and [block["block_type"] for block in entry.content] == ["text", "image"]


async def test_short_term_memory_can_be_declined(mem: DeltaMem) -> None:
    block = DeltaMemoryBlock(mem, "alice", accept_short_term_memory=False)
    await block.aput(turn(0), from_short_term_memory=True)
    assert texts(mem) == []
    await block.aput(turn(0))
    assert len(texts(mem)) == 2


async def test_truncation_keeps_the_best_records(mem: DeltaMem) -> None:
    told = ["Rain again today.", "I like lockers.", FACT, "The gym has a code."]
    mem.agent("alice").write([{"role": "user", "content": text} for text in told])
    block = DeltaMemoryBlock(mem, "alice", tokenizer_fn=str.split)
    ranked = [record.text for record in mem.agent("alice").recall(QUESTION, generate=False).records]
    content: str | None = await block.aget([said("user", QUESTION)])
    kept = []
    while content:
        kept.append([text for text in ranked if text in content])
        fewer = await block.atruncate(content, 1)
        assert fewer is None or len(fewer.split()) < len(content.split())
        content = fewer
    assert kept == [ranked[:n] for n in (4, 3, 2, 1, 1)] and kept[-1] == [FACT]  # the last without its frame
    assert await block.atruncate("of another block", 1) is None


@pytest.mark.parametrize(("priority", "limit"), [(1, 90), (1, 22), (0, 22)])
def test_priority(mem: DeltaMem, priority: int, limit: int) -> None:
    told = [FACT, *(f"Somebody else has locker {number} of many." for number in range(4))]
    mem.agent("alice").write([{"role": "user", "content": text} for text in told], wait=False)
    ours = DeltaMemoryBlock(mem, "alice", priority=priority, tokenizer_fn=str.split)
    other = StaticMemoryBlock(name="who", static_content="You are Ann and kind", priority=2)
    memory = overflowing(ours, other, token_limit=limit, chat_history_token_ratio=0.5)
    memory.put(said("user", QUESTION))
    system = str(memory.get()[0].content)
    assert FACT in system
    assert system.count("locker ") == (4 if priority == 0 or limit == 90 else 0) + 1
    assert ("You are Ann" in system) == (priority == 1)  # where ours may not be truncated, it is the other's turn


async def test_in_an_agent(mem: DeltaMem, prompts: list[str]) -> None:
    mem.agent("alice").write([{"role": "user", "content": FACT}])
    agent = FunctionAgent(llm=DeltaMemLLM(mem, "alice", max_tokens=4), tools=[])
    for method in InsertMethod:
        memory = overflowing(DeltaMemoryBlock(mem, "alice"), token_limit=400, insert_method=method)
        await agent.run(QUESTION, memory=memory)
    assert [prompt.count(FACT) for prompt in prompts] == [1, 1]  # the LLM recalls no second time


def test_bad_input(mem: DeltaMem) -> None:
    for bad in ({"mode": "both"}, {"k": 0}, {"k": "3"}, {"budget": -1}):
        with pytest.raises(ConfigError, match=next(iter(bad))):
            DeltaMemoryBlock(mem, "alice", **bad)
    with pytest.raises(ConfigError, match=r"no agent id.*give DeltaMemoryBlock\(mem, agent_id=…\)"):
        DeltaMemoryBlock(mem)
    for agent in ("", 7):
        with pytest.raises(InvalidAgentError):
            DeltaMemoryBlock(mem, agent)  # type: ignore[arg-type]
    with pytest.raises(NotPicklableError, match="create it again"):
        pickle.dumps(DeltaMemoryBlock(mem, "alice"))
    with pytest.raises(ValueError, match="unique names"):
        overflowing(DeltaMemoryBlock(mem, "alice"), DeltaMemoryBlock(mem, "bob"))


def test_two_agents_in_one_memory(mem: DeltaMem) -> None:
    mem.agent("alice").write([{"role": "user", "content": FACT}])
    mem.agent("team").write([{"role": "user", "content": "Locker rooms close at nine."}])
    memory = overflowing(DeltaMemoryBlock(mem, "alice"), DeltaMemoryBlock(mem, "team", name="Team"), token_limit=90)
    memory.put(said("user", QUESTION))
    system = str(memory.get()[0].content)
    assert system.index("<DeltaMem>") < system.index(FACT) < system.index("<Team>") < system.index("close at nine")


async def test_a_closed_memory(open_mem: Callable[[], DeltaMem]) -> None:
    mem = open_mem()
    block = DeltaMemoryBlock(mem, "alice")
    mem.close()
    for call in (lambda: block.aput(turn(0)), lambda: block.aget(turn(0))):
        with pytest.raises(ClosedError):
            await call()
    with pytest.raises(ClosedError):
        DeltaMemoryBlock(mem, "alice")
