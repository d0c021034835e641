"""Messages with tool calls: `chat`, LangChain and LlamaIndex journal the same; blocks have one text everywhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from llama_index.core.base.llms.types import ChatMessage, TextBlock, ToolCallBlock

from deltamem_agents import DeltaMem
from deltamem_agents.engine import Sampling
from deltamem_agents.errors import InvalidMessageError
from deltamem_agents.frameworks.messages import FrameworkMessage, for_prompt
from deltamem_agents.memory import ToolCall
from deltamem_agents.memory.journalling import says_something
from deltamem_agents.memory.prompting import prompt_messages
from deltamem_agents.memory.tool_output import ToolOutput
from deltamem_agents.messages import check_messages, text_of
from langchain_deltamem import DeltaMemChatMessageHistory
from llama_index_deltamem import DeltaMemory

ADD = '<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>'
FUNCTION = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
BLOCK = {"type": "tool_call", "id": "c1", "name": "add", "args": {"a": 1}}
TEXT = {"type": "text", "text": "Adding."}
FORMS: dict[str, Any] = {
    "a ToolCall": ToolCall(id="c1", name="add", arguments={"a": 1}),
    "OpenAI": FUNCTION | {"function": {"name": "add", "arguments": '{"a": 1}'}},
    "a template": FUNCTION,
    "LangChain": {"name": "add", "args": {"a": 1}, "id": "c1", "type": "tool_call"},
    "flat": {"id": "c1", "name": "add", "arguments": {"a": 1}},
}
PAGE = "The ferry leaves at noon. " * 200
ONE = Sampling(max_tokens=1)

# A conversation as the mappings of `chat`, as LangChain's messages and as LlamaIndex's.
CALLING = ToolCallBlock(tool_call_id="c1", tool_name="add", tool_kwargs={"a": 1})
LANGCHAIN_CALL = {"name": "add", "args": {"a": 1}, "id": "c1"}
TALKS: dict[str, tuple[list[dict[str, Any]], list[Any], list[ChatMessage]]] = {
    name: (
        [
            {"role": "user", "content": "Add one."},
            {"role": "assistant", "content": said, "tool_calls": [FUNCTION]},
            {"role": "tool", "content": result, "tool_call_id": "c1"},
        ],
        [
            HumanMessage("Add one."),
            AIMessage(said or "", tool_calls=[LANGCHAIN_CALL]),
            ToolMessage(result, tool_call_id="c1"),
        ],
        [
            ChatMessage(role="user", content="Add one."),
            ChatMessage(role="assistant", content=[*([TextBlock(text=said)] if said else []), CALLING]),
            ChatMessage(role="tool", content=result, additional_kwargs={"tool_call_id": "c1"}),
        ],
    )
    for name, said, result in [
        ("calls alone", None, "2"),
        ("calls with empty text", "", "2"),
        ("text and calls", "Adding.", "2"),
        ("a long result", "Adding.", PAGE),
        ("an empty result", "Adding.", ""),
    ]
}


def journal(mem: DeltaMem, agent: str) -> list[Any]:
    return [(e.role, e.content, e.text, e.folded, e.metadata.get("tool_call_id")) for e in mem.agent(agent).log()]


@pytest.mark.parametrize("name", TALKS)
def test_chat_and_the_integrations_journal_the_same(mem: DeltaMem, speak: Callable[..., None], name: str) -> None:
    ours, langchain, llama_index = TALKS[name]
    speak(mem, "")  # journalled by nobody
    mem.agent("chat").chat(ours, sampling=ONE)
    DeltaMemChatMessageHistory(mem, "langchain", on_error="raise").add_messages(langchain)
    memory = DeltaMemory.from_defaults(mem, "llama-index", on_error="raise")
    memory.put_messages(llama_index)
    memory.flush()

    said = [*([TEXT] if ours[1]["content"] else []), BLOCK]
    assert journal(mem, "chat")[1] == ("assistant", said, ours[1]["content"] or "", True, None)
    assert journal(mem, "chat") == journal(mem, "langchain") == journal(mem, "llama-index")
    results = [entry for entry in mem.agent("chat").log() if entry.role == "tool"]
    assert len(results) == bool(ours[2]["content"])
    assert all(not each.folded and len(each.text) < 4_060 for each in results)


@pytest.mark.parametrize("way", ["chat", "achat", "chat_stream", "achat_stream"])
@pytest.mark.parametrize("text", ["", "Adding."])
async def test_a_reply_that_calls_is_journalled(mem: DeltaMem, speak: Callable[..., None], way: str, text: str) -> None:
    agent, asked = mem.agent("alice"), [{"role": "user", "content": "Add one."}]
    speak(mem, text + ADD)
    if way == "chat":
        agent.chat(asked)
    elif way == "achat":
        await agent.achat(asked)
    elif way == "chat_stream":
        list(agent.chat_stream(asked))
    else:
        _ = [piece async for piece in agent.achat_stream(asked)]
    _, reply = agent.log()
    *said, call = reply.content
    assert (reply.role, reply.text, said) == ("assistant", text, [TEXT] if text else [])
    assert call == {"type": "tool_call", "id": call["id"], "name": "add", "args": {"a": 1}} and call["id"]


def test_what_a_journal_cannot_hold_does_not_lose_a_reply(mem: DeltaMem, speak: Callable[..., None]) -> None:
    speak(mem, r'<tool_call>{"name": "add", "arguments": {"a": "\ud800 \u0000", "b": NaN}}</tool_call>')
    mem.agent("alice").chat([{"role": "user", "content": "Add."}])
    assert mem.agent("alice").log()[1].content[0]["args"] == {"a": "\ufffd \ufffd", "b": "nan"}


@pytest.mark.parametrize("form", FORMS)
def test_calls_have_one_form_inside(form: str) -> None:
    message = {"role": "assistant", "content": None, "tool_calls": [FORMS[form]]}
    assert prompt_messages([message]) == [{"role": "assistant", "content": "", "tool_calls": [FUNCTION]}]
    assert check_messages([message])[0].blocks == [BLOCK]


@pytest.mark.parametrize("odd", ["add", 7, [7], [{}], [{"function": 3}], [{"name": None}], {"name": "add"}])
def test_odd_calls_are_refused_before_a_word_is_generated(mem: DeltaMem, odd: object) -> None:
    message = {"role": "assistant", "content": "Adding.", "tool_calls": odd}
    for refuse in (prompt_messages, check_messages, mem.agent("odd").chat):
        with pytest.raises(InvalidMessageError, match=r"message 0 has (a tool call|tool_calls)"):
            refuse([message])  # type: ignore[operator]
    with pytest.raises(InvalidMessageError, match="which only an assistant makes"):
        mem.agent("odd").write([{"role": "user", "content": "Hi", "tool_calls": [FUNCTION]}])
    assert mem.agent("odd").log() == []


CONTENTS: list[tuple[Any, str]] = [
    ("plain", "plain"),
    (["one", "two"], "one\ntwo"),
    ([TEXT], "Adding."),
    ([{"block_type": "text", "text": "LlamaIndex"}], "LlamaIndex"),
    ([{"type": "input_text", "text": "in"}, {"type": "output_text", "text": "out"}], "in\nout"),
    ([{"text": "no type"}], "no type"),
    ([{"type": "reasoning", "text": "hm"}, TEXT], "Adding."),
    ([{"type": "reasoning", "reasoning": "hm"}, TEXT], "Adding."),
    ([{"type": "thinking", "thinking": "hm"}, TEXT], "Adding."),
    ([{"type": "refusal", "refusal": "No.", "text": "No."}, TEXT], "Adding."),
    ([{"type": "image_url", "image_url": {"url": "x"}}, TEXT], "Adding."),
    ([{"type": "text", "text": " "}, TEXT], "Adding."),
    ([TEXT, BLOCK], "Adding."),
]


@pytest.mark.parametrize(("content", "text"), CONTENTS)
def test_blocks_have_one_text_everywhere(content: Any, text: str) -> None:
    message = {"role": "tool", "content": content}
    assert text_of(content) == text == check_messages([message])[0].text
    assert prompt_messages([message])[0]["content"] == text
    (plain,) = for_prompt([FrameworkMessage(role="tool", content=content)])
    assert prompt_messages([plain])[0]["content"] == text
    journalled = FrameworkMessage(role="tool", content=content).for_journal(ToolOutput(limit=1_000))
    assert journalled is not None and check_messages([journalled])[0].text == text
    assert says_something(content)
