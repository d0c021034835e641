"""REST: the memory itself over HTTP, with what can go wrong on the way."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from deltamem_agents import DeltaMem
from tests.faults.test_restarted import Server
from tests.serving.conftest import bearer, served

BLUE = {"role": "user", "content": "My boat is blue."}


def write(client: httpx.Client, agent: str, *messages: Any, **more: Any) -> httpx.Response:
    return client.post(f"/v1/agents/{agent}/messages", json={"messages": [*messages], **more})


def test_a_page_follows_the_other(client: httpx.Client, words: DeltaMem) -> None:
    for name in "abcde":
        words.agent(name).write([{"role": "user", "content": f"{name}{number}"} for number in range(7)])
    for path, at, count in (("/v1/agents", {}, 5), ("/v1/agents/c/log", {}, 7), ("/v1/agents/c/log", {"at": 6}, 6)):
        seen: list[Any] = []
        after: Any = None
        while True:
            page = client.get(path, params={"limit": 2, **at, **({"after": after} if after else {})}).json()
            seen += page["data"]
            after = page["next"]
            assert len(page["data"]) <= 2
            if after is None:
                break
        assert len(seen) == count and seen == client.get(path, params=at).json()["data"]
    for odd in ("x", "MQ", "bnVsbA", "ImEi" * 200, "WzFd"):
        assert client.get("/v1/agents/c/log", params={"after": odd}).status_code in (400, 200)
    assert client.get("/v1/agents", params={"limit": 0}).status_code == 422


def test_a_request_with_a_key_counts_once(client: httpx.Client, words: DeltaMem) -> None:
    headers = {"idempotency-key": "k1"}
    body = {"messages": [BLUE, BLUE]}
    first = client.post("/v1/agents/alice/messages", json=body, headers=headers)
    again = client.post("/v1/agents/alice/messages", json=body, headers=headers)
    assert first.status_code == again.status_code == 201 and first.json() == again.json()
    assert again.headers["idempotency-replayed"] == "true"
    assert len(words.agent("alice").log()) == 2
    other = client.post("/v1/agents/alice/messages", json={"messages": [BLUE]}, headers=headers)
    assert other.status_code == 422 and other.json()["code"] == "key_used"
    failed = client.post("/v1/agents/alice/rollback", json={"position": 99}, headers={"idempotency-key": "k2"})
    assert failed.status_code == 400
    assert client.post("/v1/agents/alice/rollback", json={"position": 1}, headers={"idempotency-key": "k2"}).is_success
    # What a server that died has begun is taken over, and written once.
    words.store.requests.end("-", "k1", 201, "{}")
    words.store.requests.abandon("-", "k1")
    stem = first.json()["ids"][0].rpartition("-")[0]
    assert stem and first.json()["ids"] == [f"{stem}-0", f"{stem}-1"]


def test_keys_are_each_tokens_own(words: DeltaMem) -> None:
    mine, other = bearer(words, "*", "write"), bearer(words, "*", "write")
    with served(words) as url, httpx.Client(base_url=url) as client:
        for headers in (mine, other):
            sent = {"messages": [BLUE]}
            answer = client.post("/v1/agents/a/messages", json=sent, headers=headers | {"idempotency-key": "same"})
            assert answer.status_code == 201 and "idempotency-replayed" not in answer.headers
    assert len(words.agent("a").log()) == 2


@pytest.mark.parametrize("agent", ["team/al ice", "50%", "ü\u202eñ", "..", "a?b#c", "'; DROP TABLE x; --"])
def test_any_id_can_stand_in_a_path(words: DeltaMem, agent: str) -> None:
    from urllib.parse import quote

    with served(words) as url, httpx.Client(base_url=url) as client:
        path = f"/v1/agents/{quote(agent, safe='')}"
        if agent == "..":  # a client may resolve it; the server does not
            path = "/v1/agents/%2E%2E"
        answer = client.post(f"{path}/messages", json={"messages": [BLUE]})
        assert answer.status_code == 201
        assert [each["id"] for each in client.get("/v1/agents").json()["data"]] == [agent]
        assert client.get(path).json()["id"] == agent
        assert client.post(f"{path}/recall", json={"query": "boat"}).json()["records"][0]["text"] == BLUE["content"]


BAD: list[tuple[str, str, Any, int]] = [
    ("POST", "/v1/agents/a/messages", {"messages": [{"role": "robot", "content": "x"}]}, 422),
    ("POST", "/v1/agents/a/messages", {"messages": [{"role": "user", "content": ""}]}, 400),
    ("POST", "/v1/agents/a/messages", {"messages": [], "sesion": "x"}, 422),
    ("POST", "/v1/agents/a/messages", {"messages": [BLUE], "session": ""}, 400),
    ("POST", "/v1/agents/%00/messages", {"messages": [BLUE]}, 400),
    ("POST", "/v1/agents/%ff/messages", {"messages": [BLUE]}, 400),
    ("POST", f"/v1/agents/{'a' * 256}/messages", {"messages": [BLUE]}, 400),
    ("POST", "/v1/agents/a/recall", {"query": "x", "mode": "magic"}, 400),
    ("POST", "/v1/agents/a/recall", {"query": "x", "k": 0}, 400),
    ("POST", "/v1/agents/a/recall", {"query": 3}, 422),
    ("POST", "/v1/agents/a/erase", {}, 400),
    ("POST", "/v1/agents/a/erase", {"session": "s"}, 404),
    ("POST", "/v1/agents/a/fork", {"new": "b"}, 404),
    ("GET", "/v1/agents/a", None, 404),
    ("GET", "/v1/agents/a/export", None, 404),
    ("GET", "/v1/agents/a/state", None, 400),
    ("DELETE", "/v1/agents/a", None, 404),
    ("GET", "/v1/agents/a/diff", None, 422),
    ("GET", "/v1/nothing", None, 404),
    ("PUT", "/v1/agents/a", {}, 405),
]


@pytest.mark.parametrize(("method", "path", "body", "status"), BAD)
def test_what_is_wrong_is_said(
    client: httpx.Client, words: DeltaMem, method: str, path: str, body: Any, status: int
) -> None:
    answer = client.request(method, path, json=body, headers={"content-type": "application/json"})
    assert answer.status_code == status, answer.text
    if path.startswith("/v1/agents"):
        assert answer.headers["content-type"] == "application/problem+json"
        told = answer.json()
        assert told["status"] == status and told["detail"] and told["request_id"] == answer.headers["x-request-id"]
    assert words.agents() == []


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"messages": [' * 2000,
        b'{"query": "\xff"}',
        b'{"query": "\xed\xa0\x80"}',
        b'{"query": NaN}',
        b'{"query": ' + b"9" * 5000 + b"}",
        b"[" + b"1," * 200_000 + b"1]",
    ],
)
def test_bodies_that_are_no_json_of_ours(client: httpx.Client, content: bytes) -> None:
    headers = {"content-type": "application/json", "x-deltamem-agent": "a"}
    for path in ("/v1/agents/a/recall", "/v1/chat/completions", "/v1/responses"):
        answer = client.post(path, content=content, headers=headers)
        assert 400 <= answer.status_code < 500 or answer.status_code == 501, (path, answer.text)
        assert answer.json()


def test_large_bodies_are_refused_before_they_are_read(client: httpx.Client) -> None:
    url = urlsplit(str(client.base_url))
    with socket.create_connection((url.hostname or "", url.port or 0)) as raw:
        raw.sendall(
            b"POST /v1/agents/a/messages HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: 104857600\r\n\r\n"
        )
        raw.settimeout(20)
        assert b" 413 " in raw.recv(4096)

    def endless() -> Any:
        for _ in range(20):
            yield b" " * (1 << 20)

    headers = {"content-type": "application/json"}
    try:
        answer = client.post("/v1/agents/a/messages", content=endless(), headers=headers)
        assert answer.status_code == 413
    except httpx.WriteError:
        pass  # the server has closed before all was sent
    assert client.get("/health").status_code == 200


def test_half_sent_requests_are_given_up_and_nothing_is_written(words: DeltaMem) -> None:
    with (
        served(words, body_seconds=0.3) as url,
        socket.create_connection(("127.0.0.1", urlsplit(url).port or 0)) as raw,
    ):
        raw.sendall(
            b"POST /v1/agents/a/messages HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b'Content-Length: 500\r\n\r\n{"messages": ['
        )
        raw.settimeout(20)
        assert b" 408 " in raw.recv(4096)
    assert words.agents() == []


def test_readers_that_are_slow_hold_up_nobody(client: httpx.Client, words: DeltaMem) -> None:
    words.agent("big").write([{"role": "user", "content": "x" * 100_000} for _ in range(50)])
    url = urlsplit(str(client.base_url))
    slow = [socket.create_connection((url.hostname or "", url.port or 0)) for _ in range(20)]
    for each in slow:
        each.sendall(b"GET /v1/agents/big/log HTTP/1.1\r\nHost: localhost\r\n\r\n")
    began = time.monotonic()
    assert client.get("/v1/agents/big", timeout=20).status_code == 200
    assert time.monotonic() - began < 20
    for each in slow:
        each.close()


def test_archives_go_out_and_in(client: httpx.Client, words: DeltaMem) -> None:
    words.agent("alice").write([BLUE])
    kind = {"content-type": "application/octet-stream"}
    archive = client.get("/v1/agents/alice/export")
    assert archive.headers["content-type"] == "application/octet-stream"
    assert client.post("/v1/agents/bob/import", content=archive.content, headers=kind).json() == {"id": "bob"}
    assert client.get("/v1/agents/bob/log").json()["data"][0]["content"] == BLUE["content"]
    assert client.post("/v1/agents/bob/import", content=archive.content, headers=kind).status_code == 400
    assert client.post("/v1/import", content=archive.content, headers=kind).status_code == 400  # alice is there
    for damaged in (archive.content[:-50], b"", b"PK\x03\x04" + b"x" * 100):
        assert client.post("/v1/agents/eve/import", content=damaged, headers=kind).status_code == 400
    assert client.post("/v1/agents/eve/import", content=archive.content).status_code == 415
    assert [each.id for each in words.agents()] == ["alice", "bob"]


def test_large_archives_are_refused(words: DeltaMem) -> None:
    with served(words, import_bytes=1000) as url:
        kind = {"content-type": "application/octet-stream"}
        assert httpx.post(f"{url}/v1/import", content=b"x" * 1001, headers=kind).status_code == 413
        pieces = iter([b"x" * 600, b"x" * 600])
        assert httpx.post(f"{url}/v1/import", content=pieces, headers=kind).status_code == 413


def test_erasure_gives_a_receipt(client: httpx.Client, words: DeltaMem) -> None:
    write(client, "alice", BLUE | {"id": "m1"}, session="s1")
    words.agent("alice").fork("bob")
    preview = client.post("/v1/agents/alice/erase", json={"ids": ["m1"], "dry_run": True}).json()
    assert preview["status"] == "dry run" and preview["held_by"] == {"bob": [{"session": "s1", "id": "m1"}]}
    only = bearer(words, "alice", "admin")
    with served(words) as url, httpx.Client(base_url=url, headers=only) as narrow:
        body = {"ids": [{"session": "s1", "id": "m1"}]}
        assert narrow.post("/v1/agents/alice/erase", json=body | {"forks": True}).status_code == 403
        receipt = narrow.post("/v1/agents/alice/erase", json=body).json()
        assert receipt["erased"][0]["messages"] == 1 and receipt["held_by"] == {}  # bob is none of its business
        assert narrow.delete("/v1/agents/alice", headers={"content-type": "application/json"}).is_success
    assert [each.id for each in words.agents()] == ["bob"]


def test_messages_are_not_logged(client: httpx.Client, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    write(client, "alice", {"role": "user", "content": "quicksilver"})
    client.post("/v1/agents/alice/recall", json={"query": "quicksilver", "mode": "quicksilver"})
    client.get("/v1/agents/quicksilver")
    assert not any("quicksilver" in each.getMessage() for each in caplog.records if each.name != "httpx")


@pytest.mark.slow
def test_a_database_that_goes_and_comes_back() -> None:
    with tempfile.TemporaryDirectory(prefix="pg", dir="/tmp") as folder:  # a socket's path must be short
        server = Server(Path(folder))
        with (
            DeltaMem.open(None, url=server.url, retry_seconds=1.0) as mem,
            served(mem) as base,
            httpx.Client(base_url=base, timeout=60) as client,
        ):
            assert write(client, "a", BLUE).status_code == 201
            server.stop("immediate")
            for path in ("/health", "/v1/agents/a/log"):
                gone = client.get(path)
                assert gone.status_code == 503 and int(gone.headers["retry-after"]) > 0
            assert write(client, "a", BLUE).status_code == 503
            server.start()
            deadline = time.monotonic() + 60
            while client.get("/health").status_code != 200:
                assert time.monotonic() < deadline
                time.sleep(0.2)
            assert len(client.get("/v1/agents/a/log").json()["data"]) == 1
            assert write(client, "a", BLUE).status_code == 201
        server.cleanup()


def test_concurrent_writes_with_one_key_write_once(client: httpx.Client, words: DeltaMem) -> None:
    answers: list[int] = []

    def send() -> None:
        headers = {"idempotency-key": "k"}
        sent = httpx.post(f"{client.base_url}/v1/agents/a/messages", json={"messages": [BLUE]}, headers=headers)
        answers.append(sent.status_code)

    threads = [threading.Thread(target=send) for _ in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert set(answers) <= {201, 409} and 201 in answers
    assert len(words.agent("a").log()) == 1


def test_the_command_serves_and_says_where(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/m.db"
    command = [sys.executable, "-m", "deltamem_agents.cli"]
    asked = [*command, "serve", "--port", "0", "--url", url, "--backbone", "none", "--host", "0.0.0.0"]
    with subprocess.Popen(asked, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        lines = [process.stderr.readline() for _ in range(2)]
        assert "no tokens" in lines[0] and "127.0.0.1 instead of 0.0.0.0" in lines[0]
        address = lines[1].split()[-1]
        assert httpx.get(f"{address}/health").json()["status"] == "ok"
        made = subprocess.run(
            [*command, "tokens", "create", "--agent", "a*", "--scope", "write", "--url", url, "--json"],
            capture_output=True,
            text=True,
            check=True,
        )
        token = json.loads(made.stdout)
        deadline = time.monotonic() + 20
        while httpx.get(f"{address}/v1/agents").status_code != 401:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        mine = {"x-deltamem-token": token["token"]}
        assert httpx.get(f"{address}/v1/agents", headers=mine).status_code == 200
        process.terminate()
        assert process.wait(30) == 0
