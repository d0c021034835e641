"""Who may do what: no route is unguarded, and a token does only what it is for."""

from __future__ import annotations

import re
import socket
import time
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from deltamem_agents import DeltaMem
from deltamem_agents.serving import Settings, create_app
from deltamem_agents.serving.app import PUBLIC
from deltamem_agents.serving.dependencies import scopes
from tests.serving.conftest import bearer, served

ORDER = ("read", "write", "admin")
CHANGING = ("POST", "PUT", "PATCH", "DELETE")


def routes(mem: DeltaMem) -> list[tuple[str, str, set[str]]]:
    """Method, path and scopes of every route, for agent "alice"."""
    found = scopes(create_app(mem))
    return [(method, re.sub(r"\{\w+\}", "alice", path), checked) for (method, path), checked in found.items()]


def call(client: httpx.Client, method: str, path: str, headers: dict[str, str]) -> httpx.Response:
    kind = "application/octet-stream" if path.endswith("/import") else "application/json"
    content = {"content": b"{}", "headers": {"content-type": kind, **headers}}
    return (
        client.request(method, path, **content) if method in CHANGING else client.request(method, path, headers=headers)
    )


def test_no_route_is_unguarded(words: DeltaMem) -> None:
    scoped = {each for each in ORDER}
    everybody = bearer(words, "*", "admin")
    weaker = {scope: bearer(words, "*", scope) for scope in ORDER}
    other = bearer(words, "bob", "admin")
    found = routes(words)
    assert len(found) > 5
    with served(words, rate=0, agent="alice") as url, httpx.Client(base_url=url, timeout=30) as client:
        for method, path, checked in found:
            if path in PUBLIC:
                assert checked == {""}
                continue
            assert checked and checked <= scoped, f"{method} {path} checks {checked}"
            strange = {"authorization": "Bearer dm_wrong"}
            assert call(client, method, path, {}).status_code == 401, (method, path)
            assert call(client, method, path, strange).status_code == 401, (method, path)
            needed = max(map(ORDER.index, checked))
            for scope in ORDER[:needed]:
                refused = call(client, method, path, weaker[scope])
                assert refused.status_code == 403, (method, path, scope)
                assert "insufficient_scope" in refused.text
            if path.startswith("/v1/agents/alice"):
                refused = call(client, method, path, other)
                assert refused.status_code == 403 and "agent_not_allowed" in refused.text, (method, path)
            assert call(client, method, path, everybody).status_code not in (401, 403), (method, path)


def test_a_form_of_a_foreign_page_is_refused_everywhere(words: DeltaMem) -> None:
    with served(words, agent="alice") as url, httpx.Client(base_url=url) as client:
        for method, path, _ in routes(words):
            headers = {"host": urlsplit(url).netloc}
            assert client.request(method, path, headers=headers | {"host": "evil.example"}).status_code == 403
            assert client.request(method, path, headers=headers | {"origin": "https://evil.example"}).status_code == 403
            assert client.request(method, path, headers=headers | {"origin": "null"}).status_code == 403
            assert client.request(method, path, headers=headers | {"origin": "http://127.0.0.1:1"}).status_code == 403
            if method in CHANGING:
                form: dict[str, Any] = {"data": {"a": "b"}}
                assert client.request(method, path, **form).status_code == 415
                assert client.request(method, path, content=b"{}").status_code == 415
                text = {"content-type": "text/plain"}
                assert client.request(method, path, content=b"{}", headers=text).status_code == 415


def test_pages_of_the_server_itself_and_of_allowed_origins_may_ask(words: DeltaMem) -> None:
    with served(words, origins=("https://app.example",), hosts=("Memory.example",)) as url:
        for headers in ({"origin": url}, {"origin": "https://app.example"}, {"host": "memory.example:80"}):
            answer = httpx.get(f"{url}/v1/agents", headers=headers)
            assert answer.status_code == 200
            assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("host", ["", "127.0.0.1/..", "a b", "127.0.0.1@evil", "evil\\@127.0.0.1", "[::1", "x:y"])
def test_odd_hosts_are_refused(client: httpx.Client, host: str) -> None:
    assert client.get("/v1/agents", headers={"host": host}).status_code in (400, 403)


def test_a_token_reaches_its_agents_only(words: DeltaMem) -> None:
    words.agent("team-a").write([{"role": "user", "content": "blue"}])
    words.agent("team").write([{"role": "user", "content": "red"}])
    words.agent("other/team-b").write([{"role": "user", "content": "green"}])
    mine = bearer(words, "team-*", "read")
    with served(words) as url, httpx.Client(base_url=url, headers=mine) as client:
        assert [each["id"] for each in client.get("/v1/agents").json()["data"]] == ["team-a"]
        assert client.get("/v1/agents/team-a/log").json()["data"][0]["content"] == "blue"
        for agent in ("team", "other%2Fteam-b", "team%2Da%00", "TEAM-a", "team-a%0A"[:-3] + "%2e%2e"):
            answer = client.get(f"/v1/agents/{agent}/log")
            assert answer.status_code in (200, 400, 403)
            assert "red" not in answer.text and "green" not in answer.text


def test_tokens_are_asked_for_from_the_first_one_on(words: DeltaMem) -> None:
    with served(words) as url, httpx.Client(base_url=url) as client:
        assert client.get("/v1/agents").status_code == 200
        secret, token = words.store.tokens.create(["*"], "read")
        mine = {"x-deltamem-token": secret}
        deadline = time.monotonic() + 10
        while client.get("/v1/agents").status_code == 200:
            assert time.monotonic() < deadline, "it never asks for a token"
            time.sleep(0.1)
        assert client.get("/v1/agents").status_code == 401
        assert client.get("/health").status_code == 200
        assert client.get("/v1/agents", headers=mine).status_code == 200
        words.store.tokens.create(["x"], "read")
        assert words.store.tokens.revoke(token.name)
        while client.get("/v1/agents", headers=mine).status_code == 200:
            assert time.monotonic() < deadline, "a revoked token goes on"
            time.sleep(0.1)
        assert client.get("/v1/agents", headers=mine).status_code == 401


def test_a_tokens_requests_are_limited(words: DeltaMem) -> None:
    mine, other = bearer(words, "*", "read"), bearer(words, "*", "read")
    with served(words, rate=5) as url, httpx.Client(base_url=url) as client:
        answers = [client.get("/v1/agents", headers=mine) for _ in range(8)]
        assert [each.status_code for each in answers[:5]] == [200] * 5
        assert answers[-1].status_code == 429 and int(answers[-1].headers["retry-after"]) >= 1
        assert client.get("/v1/agents", headers=other).status_code == 200


def test_secrets_are_stored_as_hashes(words: DeltaMem, tmp_path: Any) -> None:
    secret, _ = words.store.tokens.create(["*"], "admin")
    words.store.tokens.create(["*"], "admin", parent=words.store.tokens.all()[0].name)
    words.close()
    files = [each.read_bytes() for each in tmp_path.iterdir()]
    assert files and not any(secret.encode() in each for each in files)


def test_headers_that_do_not_end_are_given_up(words: DeltaMem, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deltamem_agents.serving.server.HEADER_SECONDS", 0.5)
    with served(words) as url, socket.create_connection(("127.0.0.1", urlsplit(url).port)) as slow:
        slow.sendall(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert b"200 OK" in slow.recv(4096)
        slow.settimeout(10)
        for _ in range(40):  # a byte now and then does not prolong it
            try:
                slow.sendall(b"G" if _ == 0 else b"E")
            except OSError:
                break
            slow.settimeout(0.1)
            try:
                if slow.recv(4096) == b"":
                    break
            except TimeoutError:
                continue
        else:
            pytest.fail("the connection stays open")


def test_settings_are_checked() -> None:
    with pytest.raises(ValueError, match="rate"):
        Settings(rate=-1)


def test_connections_send_at_once_what_is_written():
    """Otherwise the first event of a stream waits 40 ms for the client to acknowledge the headers."""
    from deltamem_agents.mcp_server import http
    from deltamem_agents.serving import server

    for listening in (server.listen("127.0.0.1", 0), http.listen(0)):
        with listening, socket.create_connection(listening.getsockname()[:2]) as client:
            accepted, _ = listening.accept()
            with accepted:
                assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            client.close()
