"""A tool may give back a whole web page: memory keeps its two ends, folds none of it, and puts people first."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain.agents import create_agent
from langchain_core.language_models import FakeListChatModel
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from llama_index.core.base.llms.types import ChatMessage

from deltamem_agents import DeltaMem
from deltamem_agents.errors import ConfigError
from deltamem_agents.frameworks.messages import FrameworkMessage
from deltamem_agents.frameworks.resent import unwritten
from deltamem_agents.memory.tool_output import LIMIT, ToolOutput, capped, is_cut_of
from langchain_deltamem import DeltaMemChatMessageHistory, DeltaMemMiddleware
from langchain_deltamem.messages import for_journal
from llama_index_deltamem import DeltaMemory, DeltaMemoryBlock

PAGE = "BEGINNING " + "The ferry to Narvik leaves at noon. " * 3_000 + "ENDING"  # 100 KB
CALL = {"name": "fetch", "args": {"url": "x"}, "id": "c1"}
SPOKEN = [
    HumanMessage("My ferry leaves at nine.", id="1"),
    AIMessage("", tool_calls=[CALL], id="2"),
    ToolMessage(PAGE, tool_call_id="c1", id="3"),
    AIMessage("Noted.", id="4"),
]
LLAMA = [
    ChatMessage(role="user", content="My ferry leaves at nine."),
    ChatMessage(role="tool", content=PAGE),
    ChatMessage(role="assistant", content="Noted."),
]
REACT = (
    "Thought: I have to look.\nAction: fetch\nAction Input: {'url': 'x'}\nObservation: " + PAGE.replace(". ", ".\n") +
    "\nThought: I can answer.\nAnswer: Noted."
)  # fmt: skip


@pytest.fixture(scope="module")
def mem() -> Iterator[DeltaMem]:
    with DeltaMem.open("tiny", url="sqlite://", embedder=False) as opened:
        yield opened


def by_middleware(mem: DeltaMem, agent: str, **options: Any) -> None:
    middleware = DeltaMemMiddleware(mem, agent, on_error="raise", **options)
    graph = create_agent(FakeListChatModel(responses=["Aha."]), middleware=[middleware])
    graph.invoke({"messages": SPOKEN})


def by_history(mem: DeltaMem, agent: str, **options: Any) -> None:
    history = DeltaMemChatMessageHistory(mem, agent, on_error="raise", **options)
    history.add_messages(SPOKEN)
    assert [type(each) for each in history.messages] == [type(each) for each in SPOKEN]


def by_memory(mem: DeltaMem, agent: str, **options: Any) -> None:
    memory = DeltaMemory.from_defaults(mem, agent, on_error="raise", token_limit=100_000, **options)
    memory.put_messages(LLAMA)
    assert memory.get_all()[1].content == PAGE  # the buffer has all of it


def by_react(mem: DeltaMem, agent: str, **options: Any) -> None:
    memory = DeltaMemory.from_defaults(mem, agent, on_error="raise", token_limit=100_000, **options)
    memory.put_messages([LLAMA[0], ChatMessage(role="assistant", content=REACT)])


def by_block(mem: DeltaMem, agent: str, **options: Any) -> None:
    block = DeltaMemoryBlock(mem, agent, on_error="raise", **options)
    asyncio.run(block.aput(LLAMA, from_short_term_memory=True))


WRITERS = [by_middleware, by_history, by_memory, by_react, by_block]


@pytest.mark.parametrize("write", WRITERS)
def test_two_ends_of_a_result_are_journalled_and_none_is_folded(mem: DeltaMem, write: Callable[..., None]) -> None:
    agent = mem.agent(write.__name__)
    before = mem.stats().engine.tokens_read
    write(mem, agent.id)
    agent.state()
    assert mem.stats().engine.tokens_read - before < 400  # all of it has thirty thousand

    log = agent.log()
    (result,) = [entry for entry in log if "BEGINNING" in entry.text]
    assert not result.folded and "ENDING" in result.text and "characters left out" in result.text
    assert len(result.text) < LIMIT + 200
    assert all(entry.folded for entry in log if entry is not result)
    records = agent.recall("When does my ferry leave?", generate=False).records
    assert records[0].text == "My ferry leaves at nine." and len(records) > 1


@pytest.mark.parametrize("write", WRITERS)
def test_all_of_a_result_is_kept_and_folded_where_that_is_asked_for(
    mem: DeltaMem, write: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mem.runtime.background, "later", lambda agent: None)  # a hundred kilobytes take half a minute
    agent = mem.agent(f"{write.__name__} whole")
    write(mem, agent.id, tool_output=None, fold_tool_output=True)
    (result,) = [entry for entry in agent.log() if "BEGINNING" in entry.text]
    assert result.folded and len(result.text) >= len(PAGE) and result.text.endswith(("ENDING", "Answer: Noted."))


@pytest.mark.parametrize("write", WRITERS)
def test_odd_options(mem: DeltaMem, write: Callable[..., None]) -> None:
    for odd in ({"tool_output": -1}, {"tool_output": 1.5}, {"tool_output": True}, {"fold_tool_output": "no"}):
        with pytest.raises(ConfigError, match="tool_output is"):
            write(mem, "odd", **odd)
    assert mem.agent("odd").log() == []


@given(st.text(alphabet="ab\n[…] ,1"), st.integers(0, 30))
def test_what_was_cut_is_known_again(text: str, limit: int) -> None:
    cut = capped(text, limit)
    assert cut == text if len(text) <= limit else is_cut_of(cut, text) and cut != text
    assert len(cut) <= limit + 40


@given(st.lists(st.one_of(st.text(max_size=9), st.fixed_dictionaries({"type": st.sampled_from(["text", "image"]),
                "text": st.text(max_size=9)})), max_size=6), st.integers(0, 30))  # fmt: skip
def test_blocks_are_cut_as_one_text(blocks: list[Any], limit: int) -> None:
    def said(content: list[Any]) -> str:
        texts = [each if isinstance(each, str) else each["text"] if each["type"] == "text" else "" for each in content]
        return "".join(texts)

    kept = ToolOutput(limit=limit).of(blocks)
    assert isinstance(kept, list) and said(kept) == capped(said(blocks), limit)
    assert [each for each in kept if "image" in str(each)] == [each for each in blocks if "image" in str(each)]


def test_a_resent_conversation_is_known_at_another_limit(mem: DeltaMem) -> None:
    """Whatever was journalled of it: all, as before there was a limit, or two ends."""
    agent = mem.agent("resent")
    agent.write(for_journal(SPOKEN, ToolOutput(limit=None)), "s", wait=False)
    anew = [each.model_copy(update={"id": None}) for each in SPOKEN]
    assert unwritten(mem.store.messages, "resent", "s", for_journal(anew)) == []
    agent.write(for_journal(SPOKEN, ToolOutput(limit=100)), "t", wait=False)
    assert unwritten(mem.store.messages, "resent", "t", for_journal(anew, ToolOutput(limit=None))) == []
    other = FrameworkMessage(role="tool", content=PAGE + "!").for_journal()
    assert other is not None and unwritten(mem.store.messages, "resent", "t", [other]) == [other]


@given(st.text(max_size=80), st.integers(0, 20))
def test_what_was_cut_is_not_cut_again(text: str, limit: int) -> None:
    cut = capped(text, limit)
    assert capped(cut, limit) == cut
    tools = ToolOutput(limit=limit)
    blocks = tools.of([{"type": "text", "text": text[:30]}, {"type": "image"}, {"type": "text", "text": text[30:]}])
    assert tools.of(blocks) == blocks


@pytest.mark.parametrize("told", [by_memory, by_react])
def test_a_client_sends_again_what_was_cut(mem: DeltaMem, told: Callable[..., None]) -> None:
    agent = f"again {told.__name__}"
    told(mem, agent, session_id="s1")
    entries = [entry.text for entry in mem.agent(agent).log()]
    for _ in range(2):
        memory = DeltaMemory.from_defaults(mem, agent, "s1")
        memory.set(memory.get_all())
    assert [entry.text for entry in mem.agent(agent).log()] == entries
