"""The server as a process of its own over stdio: start, protocols, cancellation, two at once, a client that dies."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest

from tests.mcp_server.servers import COMMAND, WORDS, Lines, over_stdio

FACT = "We deploy on Fridays, after the smoke tests."

# Starts a server as a client does, says that server's process id, and waits to be killed.
CLIENT = """
import subprocess, sys, time
server = subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
print(server.pid, flush=True)
time.sleep(600)
"""

# Calls every tool that needs no model in this process, and says which heavy libraries that brought in, and when.
LIGHT = """
import asyncio, sys
from mcp import Client
from deltamem_agents.mcp_server.memories import Memories
from deltamem_agents.mcp_server.server import build

def heavy():
    return [name for name in ("torch", "transformers", "sentence_transformers", "sqlalchemy") if name in sys.modules]

async def main():
    async with Client(build(Memories({"url": sys.argv[1]}, {"backbone": "tiny"}, False), "alice")) as client:
        await client.list_tools(), await client.list_resources(), await client.list_resource_templates()
        listed = heavy()
        for tool, arguments in (
            ("remember", {"text": "We deploy on Fridays. " * 900}), ("recall", {"query": "When do we deploy?"}),
            ("memory_log", {}), ("forget", {"session": "notes", "confirm": True}),
        ):
            assert not (await client.call_tool(tool, arguments)).is_error
        print(listed, heavy())

asyncio.run(main())
"""


def test_the_tools_are_listed_soon(url: str) -> None:
    """A second on an idle machine, most of it to import the SDK; that is measured too, as this machine is not idle."""

    def seconds(work: Callable[[], None]) -> float:
        """The processor's time of a process, start and end included."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        work()
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    def import_the_sdk() -> None:
        subprocess.run([sys.executable, "-c", "import mcp.server.mcpserver"], check=True)

    def list_tools() -> None:
        server = Lines(url)
        server.send({"id": 1, "method": "tools/list"})
        assert server.receive()["result"]["tools"]
        assert server.end() == 0

    rounds = [(seconds(list_tools), seconds(import_the_sdk)) for _ in range(2)]
    assert min(ours for ours, _ in rounds) < 1.5 * min(bare for _, bare in rounds)


def test_no_tool_that_needs_no_model_imports_torch(url: str) -> None:
    done = subprocess.run([sys.executable, "-c", LIGHT, url], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "[] ['sqlalchemy']\n", done.stderr[-2000:]


@pytest.mark.parametrize(("mode", "protocol"), [("auto", "2026-07-28"), ("legacy", "2025-11-25")])
async def test_what_one_process_remembers_another_recalls(url: str, mode: str, protocol: str) -> None:
    async with over_stdio(url, mode=mode) as client:
        assert client.protocol_version == protocol
        await client.call_tool("remember", {"text": FACT})
    async with over_stdio(url, mode=mode) as client:
        found = await client.call_tool("recall", {"query": "When do we deploy?"})
        assert FACT in str(found.structured_content)
    async with over_stdio(url, agent="bob", mode=mode) as client:
        found = await client.call_tool("recall", {"query": "When do we deploy?"})
        assert found.structured_content is not None and found.structured_content["notes"] == []


async def test_two_servers_on_one_database(url: str) -> None:
    async with over_stdio(url) as one, over_stdio(url) as two:
        texts = [f"Fact number {number}." for number in range(20)]
        calls = [(one, two)[number % 2].call_tool("remember", {"text": text}) for number, text in enumerate(texts)]
        assert not any(each.is_error for each in await asyncio.gather(*calls))
        for client in (one, two):
            log = (await client.call_tool("memory_log", {})).structured_content
            assert log is not None and sorted(each["text"] for each in log["entries"]) == sorted(texts)


def test_a_call_is_cancelled_and_the_server_goes_on(url: str) -> None:
    server = Lines(url, "--backbone", "tiny", "--embedder", "none")
    server.call(1, "recall", query="When do we deploy?", answer=True)  # loads a model, which takes seconds
    server.send(
        {"method": "notifications/cancelled", "params": {"requestId": 1, "reason": "the user changed its mind"}}
    )
    server.call(2, "remember", text=FACT)
    answers = {}
    while 2 not in answers:
        said = server.receive()
        answers[said.get("id")] = said
    assert not answers[2]["result"].get("isError")
    assert "result" not in answers.get(1, {})
    assert server.end() == 0  # at once, although the model may still be loading


async def test_a_client_that_waits_no_longer_loses_nothing_but_its_answer(url: str) -> None:
    async with over_stdio(url, "--backbone", "tiny", "--embedder", "none") as client:
        await client.call_tool("remember", {"text": FACT})
        with anyio.move_on_after(0.2) as scope:
            await client.call_tool("recall", {"query": "When do we deploy?", "answer": True})
        assert scope.cancelled_caught
        found = await client.call_tool("recall", {"query": "When do we deploy?"})
        assert FACT in str(found.structured_content)


@pytest.mark.slow
async def test_an_answer_reports_progress(url: str) -> None:
    steps: list[tuple[float, float | None, str | None]] = []

    async def progress(done: float, total: float | None, message: str | None) -> None:
        steps.append((done, total, message))

    async with over_stdio(url, "--backbone", "tiny", "--embedder", "none") as client:
        await client.call_tool("remember", {"text": "My favourite colour is teal."})
        question = {"query": "What is my favourite colour?", "answer": True}
        found = await client.call_tool("recall", question, progress_callback=progress)
        assert found.structured_content is not None and "teal" in found.structured_content["answer"]
        assert found.structured_content["source"] in ("records", "both")
    assert [message for _, _, message in steps] == ["loading the model", "searching and answering", "done"]
    assert [done for done, _, _ in steps] == sorted(done for done, _, _ in steps)


@pytest.mark.slow
async def test_words_are_searched_until_the_embedder_is_there(url: str) -> None:
    async with over_stdio(url, "--backbone", "none") as client:
        await client.call_tool("remember", {"text": "My sister plays the cello."})
        question = {"query": "Which musical instrument does a relative of mine practise?"}
        first = (await client.call_tool("recall", {"query": "cello"})).structured_content
        assert first is not None and len(first["notes"]) == 1
        assert first["hints"] == ["searched by words alone: the embedder is being loaded"]
        until = time.monotonic() + 60
        found = first
        while found["hints"] and time.monotonic() < until:
            await asyncio.sleep(0.5)
            found = (await client.call_tool("recall", question)).structured_content or {}
        assert [each["text"] for each in found["notes"]] == ["My sister plays the cello."]  # no word in common


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_server_ends_with_its_killed_client(url: str) -> None:
    command = [COMMAND, "mcp", "--url", url, *WORDS]
    client = subprocess.Popen([sys.executable, "-c", CLIENT, *command], stdout=subprocess.PIPE, text=True)
    assert client.stdout is not None
    server = Path("/proc") / client.stdout.readline().strip()
    assert server.exists()
    client.send_signal(signal.SIGKILL)
    client.wait()
    client.stdout.close()
    until = time.monotonic() + 20
    while _runs(server) and time.monotonic() < until:
        time.sleep(0.1)
    assert not _runs(server)


def _runs(process: Path) -> bool:
    try:
        return (process / "stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_ctrl_c_ends_it_without_a_traceback(url: str) -> None:
    command = [COMMAND, "mcp", "--url", url, *WORDS]
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert server.stdin is not None and server.stdout is not None
    server.stdin.write(b'{"jsonrpc": "2.0", "id": 1, "method": "nonsense"}\nnot json\n')
    server.stdin.flush()
    assert b"error" in server.stdout.readline()
    server.send_signal(signal.SIGINT)
    _, said = server.communicate(timeout=20)
    assert server.returncode in (0, 130) and said == b""
