"""What a turn of a long conversation looks at: as much at its 500th turn as at its 50th."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.checkpoint.memory import InMemorySaver
from llama_index.core.base.llms.types import ChatMessage

from deltamem_agents import DeltaMem
from deltamem_agents.frameworks.resent import unwritten_turn
from deltamem_agents.store import MessageLookup
from langchain_deltamem import DeltaMemMiddleware
from llama_index_deltamem import DeltaMemory
from llama_index_deltamem.tokens import tokenizer_of

THREAD: Any = {"configurable": {"thread_id": "s"}}


@pytest.fixture
def mem() -> Iterator[DeltaMem]:
    with DeltaMem.open(backbone=None, url="sqlite://", embedder=None) as opened:
        yield opened


class Seen:
    """How many messages the store was asked for, and gave."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        for name in ("find", "ever_said"):
            monkeypatch.setattr(MessageLookup, name, self._counted(getattr(MessageLookup, name), name == "find"))

    def _counted(self, call: Any, asks: bool) -> Any:
        def counted(*given: Any, **options: Any) -> Any:
            found = call(*given, **options)
            self.count += len(given[2]) if asks else len(found)
            return found

        return counted

    def since(self) -> int:
        count, self.count = self.count, 0
        return count


def an_agent(mem: DeltaMem, turns: int) -> Any:
    """An agent whose thread has so many turns, the newest of which it was told."""
    model = GenericFakeChatModel(messages=iter(AIMessage(f"Yes, {number}.") for number in range(99)))
    agent = create_agent(model, [], middleware=[DeltaMemMiddleware(mem, "a")], checkpointer=InMemorySaver())
    said = [
        each(f"{each.__name__} {number}", id=f"{each.__name__}-{number}")
        for number in range(turns)
        for each in (HumanMessage, AIMessage)
    ]
    agent.update_state(THREAD, {"messages": said})
    for number in range(2):
        agent.invoke({"messages": [HumanMessage(f"Begun {number}", id=f"begun-{number}")]}, THREAD)
    return agent


def texts(mem: DeltaMem) -> list[str]:
    return [entry.text for entry in mem.agent("a").log("s")]


@pytest.mark.parametrize("turns", [50, 200])
def test_a_turn_of_a_thread_looks_up_its_end(mem: DeltaMem, monkeypatch: pytest.MonkeyPatch, turns: int) -> None:
    agent, seen = an_agent(mem, turns), Seen(monkeypatch)
    agent.invoke({"messages": [HumanMessage("And now?", id="now")]}, THREAD)
    assert seen.since() <= 12
    assert texts(mem).count("And now?") == 1 and len(texts(mem)) == 2 * turns + 6

    # An edit, however far back, is seen, and then needs one look at everything.
    agent.update_state(THREAD, {"messages": [HumanMessage("Other words", id="HumanMessage-3")]})
    agent.invoke({"messages": [HumanMessage("Well?", id="well")]}, THREAD)
    assert "Other words" in texts(mem) and "HumanMessage 3" not in texts(mem)
    agent.invoke({"messages": [HumanMessage("Thanks.", id="thanks")]}, THREAD)
    seen.since()
    agent.invoke({"messages": [HumanMessage("Bye.", id="bye")]}, THREAD)
    assert seen.since() <= 12

    # What was erased does not come back, and words that were erased elsewhere in the thread do not either.
    mem.agent("a").erase(ids=["HumanMessage-7"], session="s")
    agent.invoke({"messages": [HumanMessage("Still there?", id="still")]}, THREAD)
    assert "HumanMessage 7" not in texts(mem) and texts(mem).count("Bye.") == 1


def test_an_edit_that_could_not_be_written_is_written_later(mem: DeltaMem, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = an_agent(mem, 3)
    agent.update_state(THREAD, {"messages": [HumanMessage("Other words", id="HumanMessage-1")]})

    def refuse(_agent: str, messages: Any, _session: str) -> Any:
        messages(mem.store)
        raise RuntimeError("the database is away")

    with monkeypatch.context() as patched:
        patched.setattr(mem.store, "append", refuse)
        agent.invoke({"messages": [HumanMessage("Well?", id="well")]}, THREAD)
    assert "Other words" not in texts(mem)
    agent.invoke({"messages": [HumanMessage("And now?", id="now")]}, THREAD)
    assert "Other words" in texts(mem)
    assert texts(mem).count("Well?") == texts(mem).count("And now?") == 1


@pytest.mark.parametrize("turns", [50, 500])
def test_an_answer_without_its_question_reads_the_end_of_a_session(
    mem: DeltaMem, monkeypatch: pytest.MonkeyPatch, turns: int
) -> None:
    told = [{"role": role, "content": f"{role} {number}"} for number in range(turns) for role in ("user", "assistant")]
    mem.agent("a").write(told, "s", wait=False)
    seen, answer = Seen(monkeypatch), {"role": "assistant", "content": f"assistant {turns - 1}"}
    question = {"role": "user", "content": f"user {turns - 1}"}
    assert unwritten_turn(mem.store.messages, "a", "s", [answer], question) == []
    assert seen.since() <= 60
    # One that is far back is found, too.
    early = {"role": "assistant", "content": "assistant 2"}
    assert unwritten_turn(mem.store.messages, "a", "s", [early], {"role": "user", "content": "user 2"}) == []
    assert unwritten_turn(mem.store.messages, "a", "s", [early], {"role": "user", "content": "user 3"}) == [early]
    assert unwritten_turn(mem.store.messages, "a", "s", [early], {"role": "user", "content": "never"}) == [early]


async def test_a_buffer_counts_each_message_once_and_is_the_callers(mem: DeltaMem) -> None:
    """Of more messages than a cache of 1,024 texts would hold."""
    encoded: list[str] = []
    memory = DeltaMemory.from_defaults(mem, "a", "s", tokenizer_fn=lambda text: encoded.append(text) or [0] * 9)
    said = [
        ChatMessage(role=role, content=f"{role} {number}") for number in range(600) for role in ("user", "assistant")
    ]
    await memory.aset(said)
    encoded.clear()
    given = await memory.aget("a question")
    assert len(given) == len(said) and len(encoded) <= 2 * len(said) + 2  # LlamaIndex's own count, and ours
    given[0].blocks.clear()
    (await memory.aget_all())[1].blocks.clear()
    assert [each.content for each in await memory.aget_all()] == [each.content for each in said]
    resumed = DeltaMemory.from_defaults(mem, "a", "s", tokenizer_fn=str.split)
    assert [each.content for each in await resumed.aget_all()][:3] == ["user 0", "assistant 0", "user 1"]


def test_a_text_is_encoded_once_however_many_there_are(mem: DeltaMem, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[str] = []
    monkeypatch.setattr(
        "llama_index_deltamem.tokens.get_tokenizer", lambda: lambda text: encoded.append(text) or [len(text)]
    )
    monkeypatch.setattr("llama_index_deltamem.tokens.REMEMBERED", 20_000 * 17)
    count, texts = tokenizer_of(mem), [f"text {number}" for number in range(5_000)]
    assert [count(text) for text in texts] == [count(text) for text in texts] == [[len(text)] for text in texts]
    assert len(encoded) == len(texts)
    assert asyncio.run(asyncio.to_thread(count, "text 1")) == [6]
    monkeypatch.setattr("llama_index_deltamem.tokens.REMEMBERED", 17 * 100)  # the oldest go
    count("another"), count("text 0")
    assert len(encoded) == len(texts) + 2
