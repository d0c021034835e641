"""The client: the same results and errors as `AgentMemory`, in both forms, over a server that is away now and then."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from deltamem_agents import DeltaMem
from deltamem_agents.client import Client
from deltamem_agents.errors import (
    AccessDeniedError,
    ArchiveError,
    ConfigError,
    InvalidAgentError,
    InvalidMessageError,
    ServerError,
    UnknownAgentError,
)
from deltamem_agents.memory import AgentMemory
from deltamem_agents.serving.server import listen
from tests.serving.conftest import bearer, served

BLUE = {"role": "user", "content": "My boat is blue.", "id": "m1", "metadata": {"a": [1]}}
WHEN = datetime(2026, 3, 1, tzinfo=UTC)


def test_it_has_the_names_of_a_memory() -> None:
    from deltamem_agents.client import RemoteMemory

    local = {"generate", "agenerate", "stream", "astream", "chat", "achat", "chat_stream", "achat_stream", "pool"}
    local |= {"write_selected", "awrite_selected"}  # a function of what the session holds cannot be sent
    local |= {"trend", "atrend"}  # dozens of whole states; the inspector draws them where they are
    wanted = {each for each in vars(AgentMemory) if not each.startswith("_")} - local
    assert wanted <= set(vars(RemoteMemory))


def test_results_are_those_of_the_memory(words: DeltaMem, tmp_path: Path) -> None:
    with served(words) as url, Client(url) as client:
        remote, local = client.agent("team/al"), words.agent("team/al")
        assert remote.write([BLUE, {"role": "assistant", "content": "Noted.", "created_at": WHEN}], "s1")[0] == "m1"
        assert remote.log() == local.log() and remote.log("s1", at=1) == local.log("s1", at=1)
        assert remote.sessions() == ["s1"] and client.agents() == words.agents()
        mine, theirs = remote.recall("boat", k=2), local.recall("boat", k=2)
        assert mine.records == theirs.records and mine.notes == theirs.notes
        assert remote.neighbours(mine.records[0]) == local.neighbours(theirs.records[0])
        assert remote.recall("boat", since=datetime(2031, 1, 1, tzinfo=UTC)).records == []
        assert remote.health() == local.health() and remote.diff(0) == local.diff(0)
        assert remote.fork("bob").id == "bob" and client.agent("bob").log() == words.agent("bob").log()
        assert remote.rollback(1) == 3 and len(remote.log()) == 1
        file = tmp_path / "a.deltamem"
        client.export("team/al", file)
        assert client.import_(file, agent="eve").log()[0].content == BLUE["content"]
        receipt = remote.erase(ids=[("s1", "m1")])
        assert receipt.ids == (("s1", "m1"),) and receipt.held_by.keys() == {"bob"} and remote.log() == []
        assert client.agent("bob").delete().erased[0].messages == 2


async def test_async_twins(words: DeltaMem) -> None:
    with served(words) as url:
        async with Client(url) as client:
            remote = client.agent("alice")
            await remote.awrite([BLUE])
            assert [each.text for each in (await remote.arecall("boat")).records] == [BLUE["content"]]
            assert [each.id for each in await client.aagents()] == ["alice"]


def test_errors_are_those_of_the_memory(words: DeltaMem, tmp_path: Path) -> None:
    with served(words) as url, Client(url) as client:
        alice = client.agent("alice")
        for call, kind in (
            (lambda: client.agent(""), InvalidAgentError),
            (lambda: alice.write([BLUE], ""), InvalidAgentError),
            (lambda: alice.write([{"role": "user", "content": ""}]), InvalidMessageError),
            (lambda: alice.erase(session="s"), UnknownAgentError),
            (lambda: alice.recall("x", k=0), ConfigError),
            (lambda: alice.recall("x", metadata={"a": object()}), ConfigError),
            (lambda: alice.state(), ConfigError),
            (lambda: client.export("alice", tmp_path / "x"), UnknownAgentError),
            (lambda: client.import_(tmp_path / "none", agent="a"), ArchiveError),
            (lambda: Client("ftp://x"), ConfigError),
        ):
            with pytest.raises(kind):
                call()
        assert list(tmp_path.glob("x*")) == [] and words.agents() == []
    only = bearer(words, "bob", "read")["authorization"].split()[1]
    with served(words) as url, Client(url, token=only) as narrow, Client(url) as nobody:
        for refused in (lambda: narrow.agent("alice").log(), lambda: narrow.agent("bob").write([BLUE]), nobody.agents):
            with pytest.raises(AccessDeniedError):
                refused()


def test_a_write_whose_answer_is_lost_is_written_once(words: DeltaMem, monkeypatch: pytest.MonkeyPatch) -> None:
    sent = httpx.Client.request
    lost: list[Any] = []

    def losing(self: httpx.Client, *args: Any, **kwargs: Any) -> httpx.Response:
        answer = sent(self, *args, **kwargs)
        if len(lost) < 2:
            lost.append(answer)
            raise httpx.ReadError("lost")
        return answer

    monkeypatch.setattr(httpx.Client, "request", losing)
    with served(words) as url, Client(url) as client:
        client.agent("alice").write([{"role": "user", "content": "once"}])
    assert len(lost) == 2 and len(words.agent("alice").log()) == 1


def test_a_server_that_is_away() -> None:
    with listen("127.0.0.1", 0) as listening:
        port = listening.getsockname()[1]
    with Client(f"http://127.0.0.1:{port}") as client, pytest.raises(ServerError, match="deltamem serve"):
        client.agents()
