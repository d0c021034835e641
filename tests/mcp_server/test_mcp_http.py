"""The server over streamable HTTP: tokens and their agents, Host and Origin, many clients at once, a new start."""

from __future__ import annotations

import asyncio
import os
import subprocess
from contextlib import suppress
from pathlib import Path

import httpx2
import pytest

from deltamem_agents.errors import ConfigError, InvalidAgentError
from deltamem_agents.mcp_server.http import LARGEST_BODY
from deltamem_agents.mcp_server.server import Tokens
from deltamem_agents.mcp_server.tokens import read_tokens
from tests.mcp_server.servers import COMMAND, HANDSHAKE, WORDS, HttpServer

HELLO = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": HANDSHAKE}
ACCEPT = {"Accept": "application/json, text/event-stream"}
every_mode = pytest.mark.parametrize("mode", ["auto", "legacy"])


async def said(server: HttpServer, token: str | None = "alices-token", **headers: str) -> int:
    """The status of a handshake."""
    known = {"Authorization": f"Bearer {token}"} if token is not None else {}
    async with httpx2.AsyncClient() as http:
        return (await http.post(server.url, json=HELLO, headers=ACCEPT | known | headers)).status_code


@every_mode
async def test_a_token_is_its_agents(server: HttpServer, mode: str) -> None:
    async with (
        server.client("alices-token", mode) as alice,
        server.client("bobs-token", mode) as bob,
        server.client("plain-token", mode) as carol,
    ):
        for client, text in ((alice, "Alice likes teal."), (bob, "Bob likes red."), (carol, "Carol likes blue.")):
            await client.call_tool("remember", {"text": text})
        for client, name in ((alice, "Alice"), (bob, "Bob"), (carol, "Carol")):
            log = (await client.call_tool("memory_log", {})).structured_content
            assert log is not None and [each["text"].split()[0] for each in log["entries"]] == [name]
            read = await client.read_resource("deltamem://journal")
            assert [each for each in ("Alice", "Bob", "Carol") if each in str(read.contents)] == [name]


@every_mode
async def test_many_clients_at_once(tokens: Path, server: HttpServer, mode: str) -> None:
    async def talk(number: int) -> int:
        async with server.client("bobs-token", mode) as client:
            session = f"{mode} {number}"
            texts = [f"Fact {each} of client {number}." for each in range(5)]
            done = [client.call_tool("remember", {"text": text, "session": session}) for text in texts]
            assert not any(each.is_error for each in await asyncio.gather(*done))
            log = (await client.call_tool("memory_log", {"session": session})).structured_content
            assert log is not None
            return int(log["total"])

    assert await asyncio.gather(*(talk(number) for number in range(8))) == [5] * 8


async def test_nothing_without_a_token(server: HttpServer) -> None:
    assert await said(server) == 200
    assert await said(server, None) == 401
    for wrong in (
        "alice",
        "alices-toke",
        "alices-token2",
        "ALICES-TOKEN",
        "bobs-token bob the builder",
        "alices-token,x",
    ):
        assert await said(server, wrong) == 401, wrong
    async with httpx2.AsyncClient() as http:
        odd = [(b"Authorization", "Bearer \xe4\N{GRINNING FACE}".encode()), (b"Accept", ACCEPT["Accept"].encode())]
        assert (await http.post(server.url, json=HELLO, headers=odd)).status_code == 401
    assert await said(server, None, Authorization="Basic YWxpY2VzLXRva2Vu") == 401
    with pytest.raises(BaseExceptionGroup):
        async with server.client("wrong") as client:
            await client.list_tools()


async def test_host_and_origin_must_be_the_server(server: HttpServer) -> None:
    port = server.port
    for host in (f"127.0.0.1:{port}", f"localhost:{port}"):
        assert await said(server, Host=host, Origin=f"http://{host}") == 200
    for host in ("evil.example", f"evil.example:{port}", f"127.0.0.1.evil.example:{port}", "127.0.0.1", "localhost:1"):
        assert await said(server, Host=host) == 421, host
    for origin in ("http://evil.example", "null", f"https://127.0.0.1:{port}", f"http://127.0.0.1:{port}.evil.example"):
        assert await said(server, Origin=origin) == 403, origin


async def test_bodies_have_a_limit_and_a_type(server: HttpServer) -> None:
    async with httpx2.AsyncClient(headers=ACCEPT | {"Authorization": "Bearer alices-token"}) as http:
        large = await http.post(
            server.url, content=b" " * (LARGEST_BODY + 1), headers={"Content-Type": "application/json"}
        )
        assert large.status_code == 413
        form = await http.post(
            server.url, content=b"a=b", headers={"Content-Type": "application/x-www-form-urlencoded"}
        )
        assert form.status_code in (400, 415)
        garbage = await http.post(server.url, content=b"{", headers={"Content-Type": "application/json"})
        assert garbage.status_code == 400
    assert await said(server) == 200


async def test_a_session_is_of_the_token_that_began_it(server: HttpServer) -> None:
    async with httpx2.AsyncClient(headers=ACCEPT) as http:
        begun = await http.post(server.url, json=HELLO, headers={"Authorization": "Bearer alices-token"})
        session = {"Mcp-Session-Id": begun.headers["mcp-session-id"]}
        call = {"jsonrpc": "2.0", "id": 2, "method": "tools/list"}
        for token, status in (("bobs-token", 404), ("alices-token", 200)):
            answer = await http.post(server.url, json=call, headers=session | {"Authorization": f"Bearer {token}"})
            assert answer.status_code == status


@every_mode
async def test_clients_come_back_after_a_new_start(tokens: Path, url: str, mode: str) -> None:
    first = HttpServer(url, tokens)
    with suppress(BaseExceptionGroup):  # the connection that is lost
        async with first.client("alices-token", mode) as client:
            await client.call_tool("remember", {"text": "The staging database is called heron."})
            first.stop()
            await client.call_tool("memory_log", {})
            pytest.fail("a server that has stopped answered")
    second = HttpServer(url, tokens, port=first.port or 0)
    try:
        async with second.client("alices-token", mode) as client:
            found = await client.call_tool("recall", {"query": "staging database"})
            assert "heron" in str(found.structured_content)
    finally:
        second.stop()


def test_it_listens_on_the_loopback_interface_alone(server: HttpServer) -> None:
    listening = {
        line.split()[1].split(":")[0]
        for table in ("/proc/net/tcp", "/proc/net/tcp6")
        for line in (Path(table).read_text().splitlines()[1:] if Path(table).exists() else [])
        if line.split()[3] == "0A" and int(line.split()[1].split(":")[1], 16) == server.port
    }
    assert listening <= {"0100007F"}


# Tokens


def failed(*arguments: str, token: str = "") -> str:
    """What a server that must not start says."""
    environment = {name: value for name, value in os.environ.items() if name != "DELTAMEM_TOKEN"}
    done = subprocess.run(
        [COMMAND, "mcp", *WORDS, "--http", *arguments],
        env=environment | ({"DELTAMEM_TOKEN": token} if token else {}),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1 and done.stdout == ""
    return done.stderr


def test_it_does_not_start_without_a_token_or_a_free_port(server: HttpServer, tmp_path: Path) -> None:
    assert "DELTAMEM_TOKEN" in failed("0")
    assert "cannot be used" in failed(str(server.port), token="secret")
    assert "space" in failed("0", token="two words")
    assert "missing" in failed("0", "--token-file", str(tmp_path / "missing"))


@pytest.mark.parametrize("way", ["variable", "option"])
async def test_a_token_may_come_by_variable_or_option(url: str, way: str) -> None:
    command = [COMMAND, "mcp", *WORDS, "--url", url, "--http", "0", *(["--token", "secret"] if way == "option" else [])]
    environment = os.environ | ({"DELTAMEM_TOKEN": "secret"} if way == "variable" else {})
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        lines = [process.stderr.readline()]
        if way == "option":
            assert lines[0].startswith("warning: --token shows the token")
            lines.append(process.stderr.readline())
        async with httpx2.AsyncClient(headers=ACCEPT | {"Authorization": "Bearer secret"}) as http:
            assert (await http.post(lines[-1].split()[1], json=HELLO)).status_code == 200
        assert "secret" not in "".join(lines)
    finally:
        process.terminate()
        process.communicate(timeout=20)


def test_a_token_file_names_agents(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    path.write_bytes(b"\xef\xbb\xbf# a comment\r\n\r\none\r\n  two  bob the builder \r\n")
    assert read_tokens(path, "alice") == {"one": "alice", "two": "bob the builder"}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "no token"),
        (b"# nothing\n", "no token"),
        (b"one\none bob\n", "twice"),
        (b"\xff\xfe", "UTF-8"),
        (b"x" * 70_000, "larger"),
    ],
)
def test_a_token_file_that_is_none(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "tokens"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=said):
        read_tokens(path, "alice")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_tokens(tmp_path, "alice")


def test_tokens_are_checked() -> None:
    for token in ("", "a b", "a\n", "x" * 5000):
        with pytest.raises(ConfigError):
            Tokens({token: "alice"})
    with pytest.raises(ConfigError):
        Tokens({})
    with pytest.raises(InvalidAgentError):
        Tokens({"token": "x" * 256})
