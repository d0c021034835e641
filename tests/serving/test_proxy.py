"""Proxy mode: words alone before a second `deltamem serve`, and before endpoints that fail in every way."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from deltamem_agents import DeltaMem
from deltamem_agents.serving.server import listen
from deltamem_agents.serving.settings import Upstream
from tests.serving.conftest import SECONDS, bearer, served

TEAL = {"role": "user", "content": "My favourite colour is teal."}
ASKED = {"role": "user", "content": "What is my favourite colour?"}

Answer = Callable[[Request], Any]


class Endpoint:
    """An OpenAI-compatible endpoint of a test: notes what it received, and answers as it is told."""

    def __init__(self, answer: Answer) -> None:
        self.received: list[tuple[dict[str, str], Any]] = []
        self._answer = answer
        self.app = Starlette(routes=[Route("/v1/{rest:path}", self._take, methods=["GET", "POST"])])
        self.gone = threading.Event()

    async def _take(self, request: Request) -> Response:
        body = await request.body()
        self.received.append((dict(request.headers), json.loads(body) if body else None))
        found = self._answer(request)
        return await found if asyncio.iscoroutine(found) else found  # type: ignore[no-any-return]

    @contextmanager
    def running(self) -> Iterator[str]:
        listening = listen("127.0.0.1", 0)
        server = uvicorn.Server(uvicorn.Config(self.app, log_level="error", ws="none", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
        finally:
            server.should_exit = True
            thread.join(SECONDS)
            listening.close()


def completion(text: str = "Noted.") -> Any:
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return {"id": "c1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}


def chunks(*texts: str, done: bool = True) -> list[bytes]:
    frame = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    deltas: list[Any] = [({"content": each}, None) for each in texts] + [({}, "stop")]
    events = [
        f"data: {json.dumps(frame | {'choices': [{'index': 0, 'delta': delta, 'finish_reason': reason}]})}\n\n".encode()
        for delta, reason in deltas
    ]
    return [*events, *([b"data: [DONE]\n\n"] if done else [])]


@contextmanager
def before(endpoint: Endpoint, mem: DeltaMem, **settings: Any) -> Iterator[str]:
    """A proxy before an endpoint; gives the proxy's base URL."""
    key = settings.pop("key", None)
    with endpoint.running() as url, served(mem, upstream=Upstream(url=url, key=key), agent="alice", **settings) as own:
        yield f"{own}/v1"


def client_of(url: str, **options: Any) -> openai.OpenAI:
    return openai.OpenAI(base_url=url, max_retries=0, timeout=60, **{"api_key": "sk-caller", **options})


def texts(mem: DeltaMem, agent: str = "alice") -> list[str]:
    return [each.text for each in mem.agent(agent).log()]


def ask(client: openai.OpenAI, *messages: Any, **options: Any) -> Any:
    return client.chat.completions.create(model="m", messages=[*messages], **options)


def test_memory_goes_into_the_prompt_and_the_rest_is_as_it_was_sent(words: DeltaMem) -> None:
    words.agent("alice").write([TEAL], session="earlier")
    endpoint = Endpoint(lambda _: JSONResponse(completion(), headers={"openai-version": "7"}))
    with before(endpoint, words) as url, client_of(url) as client:
        image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
        question = {"role": "user", "content": [{"type": "text", "text": ASKED["content"]}, image], "name": "al"}
        raw = client.chat.completions.with_raw_response.create(
            model="m",
            messages=[{"role": "developer", "content": "Be brief."}, question],  # type: ignore[list-item]
            top_p=0.3,
            extra_body={"top_k": 7, "chat_template_kwargs": {"x": [1]}},
            extra_headers={"x-session-id": "now", "x-deltamem-agent": "alice", "cookie": "a=b"},
        )
    assert raw.headers["openai-version"] == "7" and raw.parse().choices[0].message.content == "Noted."
    ((headers, body),) = endpoint.received
    assert body["top_k"] == 7 and body["top_p"] == 0.3 and body["chat_template_kwargs"] == {"x": [1]}
    system, sent = body["messages"]
    assert system["role"] == "developer" and system["content"].startswith("Be brief.\n\n")
    assert "My favourite colour is teal." in system["content"] and sent == question
    assert headers["authorization"] == "Bearer sk-caller"
    assert not {name for name in headers if name.startswith(("x-deltamem", "x-session", "cookie"))}
    log = words.agent("alice").log("now")
    assert [each.role for each in log] == ["user", "assistant"] and log[0].content[1] == image  # type: ignore[index]
    handed = log[1].metadata["handed"]
    assert (handed["mode"], handed["positions"], handed["state"]) == ("hybrid", [1], None) and handed["tokens"] > 5
    assert "handed" not in log[0].metadata


def test_events_pass_one_by_one_and_the_turn_is_journalled_before_the_last(words: DeltaMem) -> None:
    passed = threading.Semaphore(0)

    async def slowly() -> Any:
        for each in chunks("Te", "al", ".", done=False):
            yield each
            await asyncio.to_thread(passed.acquire, timeout=SECONDS)
        yield b"data: [DO"
        await asyncio.sleep(0.05)
        yield b"NE]\n\n"

    endpoint = Endpoint(lambda _: StreamingResponse(slowly(), media_type="text/event-stream"))
    with before(endpoint, words) as url, client_of(url) as client:
        seen = []
        for chunk in ask(client, ASKED, stream=True):
            seen.append(chunk.choices[0].delta.content)
            assert texts(words) == []
            passed.release()  # the next one is only sent now
        assert "".join(each or "" for each in seen) == "Teal."
        assert texts(words) == [ASKED["content"], "Teal."]


def test_streamed_tool_calls_are_journalled_whole(words: DeltaMem) -> None:
    frame = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    parts = [{"id": "t1", "function": {"name": "count", "arguments": ""}}, {"function": {"arguments": '{"n":'}}]
    parts.append({"function": {"arguments": " 3}"}})
    deltas = [{"tool_calls": [{"index": 0, **each}]} for each in parts]
    events = [f"data: {json.dumps(frame | {'choices': [{'index': 0, 'delta': each}]})}\r\n\r\n" for each in deltas]
    body = "".join(events) + "data: [DONE]\r\n\r\n"
    endpoint = Endpoint(lambda _: Response(body, media_type="text/event-stream"))
    with before(endpoint, words) as url, client_of(url) as client:
        assert len(list(ask(client, ASKED, stream=True))) == 3
    (call,) = words.agent("alice").log()[-1].content
    assert call["name"] == "count" and call["args"] == {"n": 3}  # type: ignore[index]


FAILURES: dict[str, tuple[Answer, int]] = {
    "refuses": (lambda _: JSONResponse({"error": {"message": "no", "code": "bad"}}, 400), 400),
    "limits": (lambda _: JSONResponse({"error": {"message": "slow down"}}, 429, headers={"retry-after": "7"}), 429),
    "fails": (lambda _: Response("<html>oops</html>", 500, media_type="text/html"), 500),
    "redirects": (lambda _: RedirectResponse("http://127.0.0.1:9/v1/chat/completions"), 502),
}


@pytest.mark.parametrize("kind", FAILURES)
def test_a_failure_upstream_is_passed_on_and_journals_nothing(words: DeltaMem, kind: str) -> None:
    answer, status = FAILURES[kind]
    endpoint = Endpoint(answer)
    with before(endpoint, words) as url, client_of(url) as client:
        for stream in (False, True):
            with pytest.raises(openai.APIStatusError) as told:
                ask(client, ASKED, stream=stream)
            assert told.value.status_code == status
            if kind == "limits":
                assert told.value.response.headers["retry-after"] == "7"
            if kind == "fails":
                assert told.value.response.text == "<html>oops</html>"
    assert texts(words) == [] and len(endpoint.received) == 2


def test_a_stream_that_breaks_off_ends_with_an_error_and_journals_nothing(words: DeltaMem) -> None:
    async def broken() -> Any:
        for each in chunks("Te", done=False)[:1]:
            yield each
        raise OSError("gone")

    ends: list[Answer] = [
        lambda _: StreamingResponse(broken(), media_type="text/event-stream"),
        lambda _: Response(b"".join(chunks("Te", done=False)), media_type="text/event-stream"),
        lambda _: Response(b'data: {"error": {"message": "no"}}\n\n', media_type="text/event-stream"),
    ]
    for answer in ends:
        with before(Endpoint(answer), words) as url, client_of(url) as client, pytest.raises(openai.APIError):
            list(ask(client, ASKED, stream=True))
    assert texts(words) == []


def test_an_upstream_that_is_away_or_slow(words: DeltaMem) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}/v1"
        with served(words, upstream=Upstream(url=url, seconds=0.5), agent="alice") as own:
            with client_of(f"{own}/v1") as client, pytest.raises(openai.APIStatusError) as told:
                ask(client, ASKED)
            assert told.value.status_code == 504
    with served(words, upstream=Upstream(url=url), agent="alice") as own:
        with client_of(f"{own}/v1") as client, pytest.raises(openai.APIStatusError) as told:
            ask(client, ASKED)
        assert told.value.status_code == 502 and told.value.code == "upstream_unreachable"
    assert texts(words) == []


def test_a_retry_after_a_failure_is_journalled_once(words: DeltaMem) -> None:
    answers = iter([JSONResponse({"error": {"message": "x"}}, 500), JSONResponse(completion("Teal."))])
    endpoint = Endpoint(lambda _: next(answers))
    with before(endpoint, words) as url, openai.OpenAI(base_url=url, api_key="x", max_retries=2) as client:
        assert ask(client, ASKED).choices[0].message.content == "Teal."
    assert len(endpoint.received) == 2 and texts(words) == [ASKED["content"], "Teal."]


def test_a_caller_that_goes_away_ends_the_upstreams_stream(words: DeltaMem) -> None:
    ended = threading.Event()

    async def forever() -> Any:
        try:
            while True:
                yield chunks("x")[0]
                await asyncio.sleep(0.01)
        finally:
            ended.set()

    endpoint = Endpoint(lambda _: StreamingResponse(forever(), media_type="text/event-stream"))
    with before(endpoint, words) as url, client_of(url) as client:
        stream = ask(client, ASKED, stream=True)
        next(iter(stream))
        stream.close()
        assert ended.wait(SECONDS)
    assert texts(words) == []


def test_keys_and_tokens_go_where_they_belong(words: DeltaMem, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    endpoint = Endpoint(lambda _: JSONResponse(completion()))
    token = bearer(words, "alice", "write")["authorization"].removeprefix("Bearer ")
    with before(endpoint, words) as url:
        with client_of(url) as client, pytest.raises(openai.AuthenticationError):
            ask(client, ASKED)
        with client_of(url, api_key=token) as client, pytest.raises(openai.AuthenticationError):
            ask(client, ASKED)  # the token does not stand where the key does
        with client_of(url, default_headers={"x-deltamem-token": token}) as client:
            ask(client, ASKED)
    ((headers, _),) = endpoint.received
    assert headers["authorization"] == "Bearer sk-caller" and token not in str(headers)
    endpoint.received.clear()
    with before(endpoint, words, key="sk-server") as url, client_of(url, api_key=token) as client:
        ask(client, ASKED)
        assert [each.id for each in client.models.list().data or []] == []  # what the endpoint says
    assert {headers["authorization"] for headers, _ in endpoint.received} == {"Bearer sk-server"}
    assert token not in str(endpoint.received)
    assert not any(secret in caplog.text for secret in (token, "sk-caller", "sk-server"))
    words.close()
    files = b"".join(each.read_bytes() for each in Path(words.store.url.removeprefix("sqlite:///")).parent.iterdir())
    assert not any(secret.encode() in files for secret in (token, "sk-caller", "sk-server"))


def test_responses_pass_through_with_memory_in_their_instructions(words: DeltaMem) -> None:
    words.agent("alice").write([TEAL], session="earlier")
    made: Any = {
        "id": "resp_up1",
        "object": "response",
        "created_at": 1,
        "status": "completed",
        "model": "m",
        "output": [
            {
                "id": "msg_1",
                "type": "message",
                "role": "assistant",
                "status": "completed",
                "content": [{"type": "output_text", "text": "Teal.", "annotations": []}],
            }
        ],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
    }
    event = {"type": "response.completed", "sequence_number": 0, "response": made | {"id": "resp_up2"}}
    stream = f"event: response.completed\ndata: {json.dumps(event)}\n\n"
    answers = iter([JSONResponse(made), Response(stream, media_type="text/event-stream")])
    endpoint = Endpoint(lambda _: next(answers))
    with before(endpoint, words) as url, client_of(url) as client:
        first = client.responses.create(model="m", input="What is my favourite colour?", instructions="Be brief.")
        assert first.output_text == "Teal."
        list(client.responses.create(model="m", input="And why?", previous_response_id=first.id, stream=True))
        with pytest.raises(openai.NotFoundError):  # another's, or invented
            client.responses.create(model="m", input="x", previous_response_id="resp_else")
    sent = [body for _, body in endpoint.received]
    assert "My favourite colour is teal." in sent[0]["instructions"] and sent[1]["previous_response_id"] == "resp_up1"
    log = words.agent("alice").log()
    assert [each.text for each in log[1:]] == ["What is my favourite colour?", "Teal.", "And why?", "Teal."]
    assert [each.id for each in log if each.id.startswith("resp")] == ["resp_up1", "resp_up2"]


@pytest.mark.slow
def test_before_a_second_deltamem_serve(words: DeltaMem, tmp_path: Path) -> None:
    words.agent("alice").write([TEAL], session="earlier")
    with (
        DeltaMem.open("tiny", url=f"sqlite:///{tmp_path}/model.db", embedder=False) as model,
        served(model) as behind,
        served(words, upstream=Upstream(url=f"{behind}/v1")) as own,
        client_of(f"{own}/v1") as client,
    ):
        headers = {"x-deltamem-agent": "alice", "x-session-id": "now"}
        options: Any = {"model": "tiny", "messages": [ASKED], "user": "alice", "extra_headers": headers}
        whole = client.chat.completions.create(**options)
        assert "teal" in whole.choices[0].message.content
        streamed = list(client.chat.completions.create(stream=True, **options))
        assert "teal" in "".join(each.choices[0].delta.content or "" for each in streamed)
        with pytest.raises(openai.NotFoundError, match="tiny"):
            client.chat.completions.create(**options | {"model": "x"})
        assert [each.text for each in words.agent("alice").log("now")] == [
            ASKED["content"],
            whole.choices[0].message.content,
        ]
        assert httpx.get(f"{own}/v1/models").json()["data"][0]["id"] == "tiny"


def test_words_alone_import_no_torch(tmp_path: Path) -> None:
    script = Path(__file__).with_name("words_only.py")
    done = subprocess.run(
        [sys.executable, str(script), f"sqlite:///{tmp_path}/m.db"], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == {"status": 502, "heavy": []}
