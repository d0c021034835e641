"""The backbone under an agent's state as LlamaIndex's LLM."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
from llama_index.core import Settings
from llama_index.core.base.llms.types import ImageBlock, TextBlock, ToolCallBlock
from llama_index.core.llms import ChatMessage, ChatResponse
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.tools import FunctionTool

from deltamem_agents import DeltaMem
from deltamem_agents.errors import (
    ClosedError,
    ConfigError,
    ContextLengthError,
    InvalidAgentError,
    InvalidMessageError,
    NotPicklableError,
)
from llama_index_deltamem import DeltaMemLLM

FACT, QUESTION = "My locker code is 4417.", "What is my locker code?"
CALL = '<tool_call>{{"name": "{}", "arguments": {{"a": 2, "b": 3}}}}</tool_call>'


def user(text: str | None) -> ChatMessage:
    return ChatMessage(role="user", content=text)


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def subtract(a: int, b: int) -> int:
    """Take one number from another."""
    return a - b


TOOLS = [FunctionTool.from_defaults(each) for each in (add, subtract)]


async def test_all_ways_to_ask_agree(mem: DeltaMem, prompts: list[str]) -> None:
    mem.agent("alice").write([{"role": "user", "content": FACT}])
    llm = DeltaMemLLM(mem, "alice", max_tokens=24)
    whole = llm.chat([user(QUESTION)])
    expected = whole.message.content
    assert FACT in prompts[-1]
    assert whole.raw is not None and whole.raw["source"] == "both"
    assert whole.raw["usage"]["total_tokens"] > whole.raw["usage"]["completion_tokens"] > 0
    assert (await llm.achat([user(QUESTION)])).message.content == expected
    assert llm.complete(QUESTION).text == (await llm.acomplete(QUESTION)).text == expected
    streams: list[list[Any]] = [
        list(llm.stream_chat([user(QUESTION)])),
        [response async for response in await llm.astream_chat([user(QUESTION)])],
        list(llm.stream_complete(QUESTION)),
        [response async for response in await llm.astream_complete(QUESTION)],
    ]
    for stream in streams:
        assert len(stream) > 1
        assert "".join(response.delta for response in stream) == expected
        last = stream[-1]
        assert (last.text if hasattr(last, "text") else last.message.content) == expected
    assert [entry.text for entry in mem.agent("alice").log()] == [FACT]
    assert len(set(prompts)) == 1


def test_metadata(mem: DeltaMem, monkeypatch: pytest.MonkeyPatch) -> None:
    llm = DeltaMemLLM(mem, max_tokens=4)
    metadata = llm.metadata
    assert (metadata.model_name, metadata.context_window, metadata.num_output) == ("tiny", mem.engine.window, 4)
    assert metadata.is_chat_model and metadata.is_function_calling_model
    tokenizer_fn = llm.tokenizer_fn
    tokenizer_fn(FACT).clear()  # what it gave is the caller's
    assert len(tokenizer_fn(FACT)) == mem.engine.count(FACT)
    monkeypatch.setattr(Settings, "_tokenizer", None)
    Settings.tokenizer = llm.tokenizer_fn
    memory = ChatMemoryBuffer.from_defaults(llm=llm)
    assert 0 < memory.token_limit < mem.engine.window
    assert memory.tokenizer_fn("teal") == mem.engine.tokenizer.encode("teal", add_special_tokens=False)


def test_an_agent_by_call(mem: DeltaMem, prompts: list[str]) -> None:
    for agent in ("alice", "bob"):
        mem.agent(agent).write([{"role": "user", "content": f"{agent} has a dog."}])
    llm = DeltaMemLLM(mem, default_agent_id="alice", max_tokens=1)
    for given, expected in (({}, "alice"), ({"delta_agent_id": "bob"}, "bob")):
        reply = llm.chat([user("Who has a dog?")], **given)
        assert reply.raw is not None and reply.raw["agent_id"] == expected
        assert f"{expected} has a dog." in prompts[-1] and prompts[-1].count("has a dog.") == 1


def test_sampling_by_call(mem: DeltaMem) -> None:
    llm = DeltaMemLLM(mem, "alice", max_tokens=24)
    whole = llm.complete("Tell me about birds.")
    short = llm.complete("Tell me about birds.", max_tokens=2)
    assert short.raw["finish_reason"] == "length" and whole.text.startswith(short.text)
    word = whole.text[1:3]
    for stop in (word, [word, "\x03"]):
        assert word not in llm.complete("Tell me about birds.", stop=stop).text
    drawn = [llm.complete("Hello", temperature=5.0, seed=seed).text for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_system_messages_are_one(mem: DeltaMem, prompts: list[str]) -> None:
    mem.agent("alice").write([{"role": "user", "content": FACT}])
    told = [ChatMessage(role="system", content="Be brief."), ChatMessage(role="system", content="Be kind.")]
    DeltaMemLLM(mem, "alice", max_tokens=1).chat([*told, user(QUESTION)])
    assert prompts[0].count("<|system|>") == 1
    assert all(text in prompts[0] for text in ("Be brief.", "Be kind.", FACT))


def test_pictures_in_a_prompt_are_passed_over(mem: DeltaMem, prompts: list[str]) -> None:
    blocks = [TextBlock(text="Look at this."), ImageBlock(image=b"GIF89a")]
    DeltaMemLLM(mem, "alice", max_tokens=1).chat([ChatMessage(role="user", blocks=blocks)])
    assert "Look at this." in prompts[0] and "R0lG" not in prompts[0]


# Tools; the bundled backbone calls none, so words are put in its mouth.


async def test_tool_calls(mem: DeltaMem, speak: Callable[..., None], prompts: list[str]) -> None:
    speak(mem, f"Let me see. {CALL.format('add')}{CALL.format('subtract')}")
    llm = DeltaMemLLM(mem, "alice", max_tokens=4)
    responses = [
        llm.chat_with_tools(TOOLS, user_msg="2 and 3?", allow_parallel_tool_calls=True),
        await llm.achat_with_tools(TOOLS, user_msg=user("2 and 3?")),
        list(llm.stream_chat_with_tools(TOOLS, chat_history=[user("2 and 3?")]))[-1],
        [each async for each in await llm.astream_chat_with_tools(TOOLS, "2 and 3?")][-1],
    ]
    for response in responses:
        assert response.message.content == "Let me see."
        calls = llm.get_tool_calls_from_response(response)
        assert [(call.tool_name, call.tool_kwargs) for call in calls] == [
            ("add", {"a": 2, "b": 3}),
            ("subtract", {"a": 2, "b": 3}),
        ]
        assert len({call.tool_id for call in calls}) == 2
    assert all("Add two numbers." in prompt for prompt in prompts)


def test_no_tool_call_of_a_stream_is_shown_as_text(mem: DeltaMem, speak: Callable[..., None]) -> None:
    speak(mem, f"Let me see. {CALL.format('add')}")
    llm = DeltaMemLLM(mem, "alice", max_tokens=4)
    *pieces, last = llm.stream_chat_with_tools(TOOLS, "2 and 3?")
    assert "".join(piece.delta or "" for piece in [*pieces, last]).strip() == "Let me see."
    assert all("tool_call" not in str(piece.message.content) for piece in pieces)
    assert llm.predict_and_call(TOOLS, "2 and 3?").response == "5"


def test_tool_choice(mem: DeltaMem, prompts: list[str]) -> None:
    llm = DeltaMemLLM(mem, "alice", max_tokens=1)
    for choice, shown in (("add", (True, False)), ("none", (False, False)), ("any", (True, True))):
        llm.chat_with_tools(TOOLS, "2 and 3?", tool_choice=choice)
        assert tuple(str(each.__doc__) in prompts[-1] for each in (add, subtract)) == shown
    with pytest.raises(ConfigError, match="'multiply', which is not among the tools: add, subtract"):
        llm.chat_with_tools(TOOLS, "2 and 3?", tool_choice="multiply")


def test_tool_calls_and_results_are_shown_again(mem: DeltaMem, prompts: list[str]) -> None:
    call = ToolCallBlock(tool_call_id="c", tool_name="add", tool_kwargs='{"a": 2}')
    history = [
        user("2 and 3?"),
        ChatMessage(role="assistant", blocks=[call]),
        ChatMessage(role="tool", content="5", additional_kwargs={"tool_call_id": "c"}),
    ]
    DeltaMemLLM(mem, "alice", max_tokens=1).chat_with_tools(TOOLS, chat_history=history)
    assert '"arguments": {"a": 2}' in prompts[0] and "<|tool|> 5" in prompts[0]


def test_no_tool_call(mem: DeltaMem) -> None:
    llm = DeltaMemLLM(mem, "alice", max_tokens=1)
    response = ChatResponse(message=ChatMessage(role="assistant", content="No."))
    assert llm.get_tool_calls_from_response(response, error_on_no_tool_call=False) == []
    with pytest.raises(ValueError, match=r"called no tool; it said 'No.'"):
        llm.get_tool_calls_from_response(response)


# Bad input


async def test_no_agent_anywhere(mem: DeltaMem) -> None:
    llm = DeltaMemLLM(mem, max_tokens=4)
    ways = r"no agent id.*agent_id=….*delta_agent_id=…"
    with pytest.raises(ConfigError, match=ways):
        llm.chat([user("Hi")])
    with pytest.raises(ConfigError, match=ways):
        await llm.achat([user("Hi")])
    for agent in (7, "", b"alice"):
        with pytest.raises(InvalidAgentError):
            DeltaMemLLM(mem, agent)  # type: ignore[arg-type]
        with pytest.raises(InvalidAgentError):
            llm.chat([user("Hi")], delta_agent_id=agent)


@pytest.mark.parametrize(
    "bad", [{"mode": "both"}, {"k": 0}, {"k": "3"}, {"budget": -1}, {"temperature": -1}, {"max_tokens": 0}]
)
def test_options_out_of_range(mem: DeltaMem, bad: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(bad))):
        DeltaMemLLM(mem, "alice", **bad)


def test_prompts_that_cannot_be(mem: DeltaMem) -> None:
    llm = DeltaMemLLM(mem, "alice", max_tokens=4)
    for messages in ([user(None)], [], [ChatMessage(role="user", blocks=[ImageBlock(image=b"GIF89a")])]):
        with pytest.raises(InvalidMessageError):
            llm.chat(messages)
    with pytest.raises(ContextLengthError, match=str(mem.engine.window)):
        llm.complete("word " * mem.engine.window)


async def test_a_closed_memory(mem: DeltaMem) -> None:
    llm = DeltaMemLLM(mem, "alice", max_tokens=4)
    mem.close()
    with pytest.raises(ClosedError):
        await llm.achat([user("Hi")])
    with pytest.raises(ClosedError):
        list(llm.stream_chat([user("Hi")]))


def test_copies_and_pickles(mem: DeltaMem) -> None:
    llm = DeltaMemLLM(mem, "alice", max_tokens=4)
    assert copy.deepcopy(llm).chat([user("Hi")]).message == llm.chat([user("Hi")]).message
    with pytest.raises(NotPicklableError, match="cannot be pickled; create it again where a DeltaMem is open"):
        pickle.dumps(llm)
    assert llm.to_dict()["agent_id"] == "alice" and "sqlite" not in str(llm.to_dict())
