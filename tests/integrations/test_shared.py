"""What the two integrations share: messages, agents, options, and what is said where an extra is missing."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from deltamem_agents import DeltaMem
from deltamem_agents.errors import (
    ClosedError,
    ConfigError,
    NotPicklableError,
)
from deltamem_agents.frameworks.calling import VisibleText, beyond_prompt, chosen_tools, for_search
from deltamem_agents.frameworks.messages import (
    SANITIZED,
    FrameworkMessage,
    clearing,
    from_journal,
    own_role,
    session_name,
)
from deltamem_agents.frameworks.resent import unwritten
from deltamem_agents.memory import RecallOptions, Reply, ToolCall
from deltamem_agents.memory.open_memories import Handle, find_open

TOOLS = [{"type": "function", "function": {"name": name}} for name in ("add", "look_up")]


@pytest.mark.parametrize(
    ("package", "module", "extra"),
    [
        ("langchain_deltamem", "langchain_core", "langchain"),
        ("llama_index_deltamem", "llama_index", "llama-index"),
    ],
)
def test_a_missing_extra_is_named(python: Callable[..., Any], package: str, module: str, extra: str) -> None:
    script = (
        "import sys; from deltamem_agents.errors import MissingExtraError\n"
        f"sys.modules['{module}'] = None\n"
        f"try:\n    import {package}\nexcept MissingExtraError as error:\n    print(error)"
    )
    done = python("-c", script)
    assert f"install deltamem-agents[{extra}]" in done.stdout, done.stderr
    assert package in done.stdout


def test_messages_survive_the_journal(mem: DeltaMem) -> None:
    call = ToolCall(id="c1", name="add", arguments={"a": 1})
    given = [
        FrameworkMessage(role="user", content="Add one.", id="m1", metadata={"name": "Ann", "odd": object()}),
        FrameworkMessage(role="assistant", content="", id="m2", tool_calls=(call,)),
        FrameworkMessage(role="assistant", content="Adding.", id="m3", tool_calls=(call,)),
        FrameworkMessage(role="user", content=[{"type": "image", "url": "x"}, {"type": "text", "text": "?"}], id="m4"),
    ]
    journalled = [message.for_journal() for message in given]
    mem.agent("a").write([message for message in journalled if message], "s")
    back = [from_journal(entry) for entry in mem.agent("a").log()]
    assert [(m.role, m.content, m.tool_calls) for m in back] == [(m.role, m.content, m.tool_calls) for m in given]
    assert back[0].metadata == {"name": "Ann", "odd": "<object>", SANITIZED: ["metadata"]}
    assert [entry.text for entry in mem.agent("a").log()] == ["Add one.", "", "Adding.", "?"]


@pytest.mark.parametrize("content", [None, "", "  ", [], [{"type": "text", "text": " "}], [""]])
def test_what_says_nothing_is_left_out(content: Any) -> None:
    assert FrameworkMessage(role="assistant", content=content).for_journal() is None
    assert FrameworkMessage(role="assistant", content=content).for_prompt() is None
    assert FrameworkMessage(role="user", content=content).for_prompt() is not None  # an error worth raising


def test_roles() -> None:
    assert [own_role(role) for role in ("human", "ai", "developer", "function")] == [
        "user",
        "assistant",
        "system",
        "tool",
    ]
    assert own_role("narrator") == "user"  # somebody said it


def test_a_resent_conversation_is_written_once(mem: DeltaMem) -> None:
    agent = mem.agent("a")

    def said(*texts: str, ids: str | None = None) -> list[dict[str, Any]]:
        roles = ("user", "assistant")
        messages = [{"role": roles[i % 2], "content": text} for i, text in enumerate(texts)]
        return [m | {"id": f"{ids}{i}"} for i, m in enumerate(messages)] if ids else messages

    agent.write(said("Hi", "Hello", "More?", "Yes", ids="k"), "s")
    new = partial(unwritten, mem.store.messages, "a", "s")
    assert new(said("Hi", "Hello", "More?", "Yes", "Well?", "No")) == said("Well?", "No")
    assert new(said("More?", "Yes", "Well?")) == said("Well?")
    assert new(said("Something else")) == said("Something else")
    assert unwritten(mem.store.messages, "a", "other", said("Hi")) == said("Hi")
    edited = said("Hi", "Hello there", "More?", "Yes", "Well?", ids="k")
    assert [m["content"] for m in new(edited)] == ["Hello there", "Well?"]
    agent.write([clearing()], "s")
    assert new(said("Hi", "Hello", "More?", "Yes", "Well?")) == said("Well?")


def test_any_string_is_a_session() -> None:
    assert session_name(None) == "default"
    assert session_name("thread 1") == "thread 1"
    assert session_name(7) == "7"
    odd = ["", " ", "x" * 300, "a\0b", "\ud800"]
    assert len({session_name(each) for each in odd}) == len(odd)
    assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", session_name(each)) for each in odd)


@pytest.mark.parametrize("bad", [{"mode": "both"}, {"k": 0}, {"k": True}, {"budget": -1}, {"budget": "many"}])
def test_options_out_of_range(bad: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        RecallOptions(**bad)


def test_recall_does_not_repeat_the_prompt(mem: DeltaMem) -> None:
    agent = mem.agent("a")
    long = "The locker by the window holds spare keys. " * 10
    said = ["My locker code is 4417.", "What is my locker code?", "The locker is green.", long]
    agent.write([{"role": "user", "content": text} for text in said])
    prompt = ["My locker code is 4417.", " What is my locker code? ", f"{long} And so on."]
    options = RecallOptions(mode="vector", k=2)
    found = agent.recall("locker code", **for_search(options, prompt))
    text = beyond_prompt(mem, found, options, prompt)
    assert text.count(" - user: ") == 1 and " - user: The locker is green.\n" in text
    assert beyond_prompt(mem, found, RecallOptions(budget=2), prompt) == ""
    assert beyond_prompt(mem, found, options, []).count(" - user: ") == 2


def test_tool_choice() -> None:
    assert chosen_tools(None, "any") is None
    assert chosen_tools(TOOLS, "none") is None
    assert chosen_tools(TOOLS, "auto") == chosen_tools(TOOLS, True) == TOOLS
    assert chosen_tools(TOOLS, "add") == chosen_tools(TOOLS, {"function": {"name": "add"}}) == TOOLS[:1]
    with pytest.raises(ConfigError, match="'sub', which is not among the tools: add, look_up"):
        chosen_tools(TOOLS, "sub")


@pytest.mark.parametrize(
    ("pieces", "text", "calls"),
    [
        (["I ", "see."], "I see.", 0),
        (["Let me. <to", 'ol_call>{"name": "add"}</tool', "_call>"], "Let me.", 1),
        (['<tool_call>{"name": "add"}</tool_call>'], "", 1),
        (["a <b and c <", "tool d"], "a <b and c <tool d", 0),
        (["x <tool_call>not json</tool_call>"], "x <tool_call>not json</tool_call>", 0),
        (["trailing <"], "trailing <", 0),
    ],
)
def test_tool_calls_are_kept_out_of_streamed_text(pieces: list[str], text: str, calls: int) -> None:
    shown = VisibleText()
    reply = Reply(text=text, tool_calls=(ToolCall(id="c", name="add", arguments={}),) * calls)
    streamed = "".join(shown.feed(piece) for piece in pieces) + shown.rest(reply)
    assert streamed.rstrip() == text


def test_handles_are_shared_and_not_pickled(mem: DeltaMem, url: str) -> None:
    handle = Handle(mem)
    assert find_open(mem.store.url) is mem
    with pytest.raises(NotPicklableError, match="create it again where a DeltaMem is open"):
        pickle.dumps(handle)
    mem.close()
    with pytest.raises(ClosedError, match=re.escape(url)):
        find_open(url)


def test_the_newest_of_a_database_is_found(open_mem: Callable[[], DeltaMem], url: str) -> None:
    opened = [open_mem() for _ in range(4)]
    while opened:
        assert find_open(url) is opened[-1]
        opened.pop().close()


def test_databases_in_memory_are_not_confused() -> None:
    with DeltaMem.open("tiny", url="sqlite://", embedder=False) as one:
        assert find_open("sqlite://") is one
        with (
            DeltaMem.open("tiny", url="sqlite://", embedder=False),
            pytest.raises(ConfigError, match="2 databases in memory"),
        ):
            find_open("sqlite://")
