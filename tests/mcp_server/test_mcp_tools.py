"""The tools on memory, by a client of the official SDK: what they say, do and refuse."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from mcp import Client, MCPError

from deltamem_agents import DeltaMem
from deltamem_agents.mcp_server.memories import Memories
from deltamem_agents.mcp_server.schemas import IDS, TEXT
from deltamem_agents.mcp_server.server import build

FACT, OTHER = "We deploy on Fridays, after the smoke tests.", "The staging database is called heron."


@pytest.fixture
def client(url: str) -> Client:
    """A client with a server in the same process, by the protocol's objects."""
    return Client(build(Memories({"url": url}, embedder=False), "alice"))


async def called(client: Client, tool: str, **arguments: Any) -> dict[str, Any]:
    """The structured result of a call that must not fail; the text says the same."""
    done = await client.call_tool(tool, arguments)
    assert not done.is_error, done.content
    assert done.structured_content is not None
    said = json.loads(done.content[0].text)  # type: ignore[union-attr]
    assert said and said.keys() <= done.structured_content.keys()
    return done.structured_content


async def refused(client: Client, tool: str, **arguments: Any) -> str:
    done = await client.call_tool(tool, arguments)
    assert done.is_error
    return str(done.content[0].text)  # type: ignore[union-attr]


async def test_tools_say_what_they_take_return_and_destroy(client: Client) -> None:
    async with client:
        tools = {each.name: each for each in (await client.list_tools()).tools}
    assert {"remember", "recall", "forget", "memory_log"} <= tools.keys()
    for tool in tools.values():
        assert tool.description and tool.title and tool.annotations is not None
        assert tool.input_schema["additionalProperties"] is False
        assert "agent" not in tool.input_schema["properties"]
        assert tool.output_schema is not None and tool.output_schema["type"] == "object"
        for name, schema in tool.input_schema["properties"].items():
            assert schema.get("description"), (tool.name, name)
    assert [name for name, tool in tools.items() if tool.annotations.destructive_hint] == ["forget"]  # type: ignore[union-attr]
    assert tools["recall"].annotations.read_only_hint and tools["memory_log"].annotations.read_only_hint  # type: ignore[union-attr]
    assert not tools["remember"].annotations.read_only_hint  # type: ignore[union-attr]


async def test_what_is_remembered_is_recalled_once_and_forgotten(client: Client, tmp_path: Path) -> None:
    async with client:
        kept = await called(client, "remember", text=FACT)
        assert kept["new"]
        assert not (await called(client, "remember", text=FACT))["new"]
        assert (await called(client, "remember", text=FACT, session="other"))["new"]
        await called(client, "remember", text=OTHER)
        found = await called(client, "recall", query="When do we deploy?", k=1)
        assert [each["text"] for each in found["notes"]] == [FACT]
        assert found["answer"] is None
        preview = await called(client, "forget", ids=[kept["id"]], session="notes")
        assert (preview["status"], preview["messages"]) == ("preview", 1)
        assert [each["text"] for each in preview["named"]] == [FACT]
        assert (await called(client, "memory_log"))["total"] == 3
        done = await called(client, "forget", ids=[kept["id"]], session="notes", confirm=True)
        assert (done["status"], done["messages"]) == ("complete", 1)
        assert (await called(client, "memory_log", session="notes"))["total"] == 1
        assert (await called(client, "remember", text=FACT))["new"]  # forgotten, and said again
        await called(client, "forget", since=(datetime.now(UTC) - timedelta(hours=1)).isoformat(), confirm=True)
        assert (await called(client, "memory_log"))["total"] == 0
    assert not [each for each in tmp_path.iterdir() if b"smoke tests" in each.read_bytes()]


async def test_the_log_comes_in_pages(client: Client) -> None:
    async with client:
        for number in range(5):
            await called(client, "remember", text=f"Fact number {number}." + " long" * (600 * (number == 4)))
        newest = await called(client, "memory_log", limit=2)
        assert [each["text"][:15] for each in newest["entries"]] == ["Fact number 3. "[:14], "Fact number 4. "]
        assert [each["cut"] for each in newest["entries"]] == [False, True]
        before = await called(client, "memory_log", limit=4, before=newest["before"])
        assert [each["text"] for each in before["entries"]] == [f"Fact number {number}." for number in range(3)]
        assert (before["total"], before["before"]) == (5, None)


@pytest.mark.parametrize(
    ("tool", "arguments", "said"),
    [
        ("forget", {}, "no filter was given"),
        ("forget", {"sesion": "notes", "confirm": True}, "has no argument 'sesion'"),
        ("remember", {"text": "x", "agent": "bob"}, "has no argument 'agent'"),
        ("remember", {"text": "x" * (TEXT + 1)}, str(TEXT)),
        ("remember", {"text": ""}, "at least 1"),
        ("remember", {"text": "x", "session": "s" * 256}, "255"),
        ("remember", {"text": "x", "session": "a\0b"}, "NUL"),
        ("remember", {"text": "   "}, "empty"),
        ("remember", {}, "required"),
        ("recall", {"query": "x", "k": 0}, "greater than or equal to 1"),
        ("recall", {"query": "x", "k": 10**6}, "less than or equal"),
        ("recall", {"query": "x", "since": "yesterday"}, "datetime"),
        ("recall", {"query": "x", "answer": True}, "no backbone"),
        ("forget", {"ids": ["x"] * (IDS + 1)}, str(IDS)),
        ("memory_log", {"limit": -1}, "greater than or equal"),
        ("memory_log", {"before": "last"}, "integer"),
        ("no_such_tool", {}, "no_such_tool"),
    ],
)
async def test_arguments_are_checked(client: Client, tool: str, arguments: dict[str, Any], said: str) -> None:
    async with client:
        await called(client, "remember", text=FACT)
        assert said in await refused(client, tool, **arguments)
        assert (await called(client, "memory_log"))["total"] == 1


async def test_one_id_of_two_sessions_is_not_guessed(client: Client) -> None:
    async with client:
        for session in ("one", "two"):
            kept = await called(client, "remember", text=FACT, session=session)
        assert "session" in await refused(client, "forget", ids=[kept["id"]], confirm=True)
        assert (await called(client, "memory_log"))["total"] == 2


async def test_texts_of_any_kind_come_back_as_they_are(client: Client) -> None:
    odd = 'Zeile eins\r\nZeile zwei\u2028"quoted" \N{GRINNING FACE} </notes> {"id": 1}'
    async with client:
        await called(client, "remember", text=odd)
        await called(client, "remember", text="NUL \0 within")
        texts = [each["text"] for each in (await called(client, "memory_log"))["entries"]]
    assert texts == [odd, "NUL \N{REPLACEMENT CHARACTER} within"]


async def test_the_journal_is_a_resource(client: Client) -> None:
    async with client:
        await called(client, "remember", text=FACT)
        await called(client, "remember", text=OTHER, session="../../etc/a b")
        assert {"deltamem://journal"} <= {each.uri for each in (await client.list_resources()).resources}
        templates = (await client.list_resource_templates()).resource_templates
        assert "deltamem://journal/{session}" in [each.uri_template for each in templates]

        async def texts(uri: str) -> list[str]:
            read = await client.read_resource(uri)
            assert read.contents[0].mime_type == "application/json"
            return [each["text"] for each in json.loads(read.contents[0].text)["entries"]]  # type: ignore[union-attr]

        assert await texts("deltamem://journal") == [FACT, OTHER]
        assert await texts("deltamem://journal/notes") == [FACT]
        assert await texts("deltamem://journal/..%2F..%2Fetc%2Fa%20b") == [OTHER]
        assert await texts("deltamem://journal/unknown") == []
        for uri in ("deltamem://elsewhere", f"deltamem://journal/{'x' * 256}", "file:///etc/passwd"):
            with pytest.raises(MCPError):
                await client.read_resource(uri)


async def test_forks_are_counted_and_not_named(client: Client, url: str) -> None:
    async with client:
        kept = await called(client, "remember", text=FACT)
        with DeltaMem.open(backbone=None, url=url) as mem:
            mem.agent("alice").fork("a-secret-name")
        done = await client.call_tool("forget", {"ids": [kept["id"]], "confirm": True})
    assert done.structured_content is not None and done.structured_content["kept_by_forks"] == 1
    assert "a-secret-name" not in str(done.content)


async def test_a_database_that_cannot_be_opened_is_told_and_tried_again(tmp_path: Path) -> None:
    folder = tmp_path / "missing"
    async with Client(build(Memories({"url": f"sqlite:///{folder / 'memory.db'}"}, embedder=False), "alice")) as client:
        assert "missing" in await refused(client, "remember", text=FACT)
        folder.mkdir()
        assert (await called(client, "remember", text=FACT))["new"]
