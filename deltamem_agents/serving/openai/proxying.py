"""Proxy mode: memory is recalled into a request, the upstream answers, and its answer passes through as it comes.

The events of a stream are passed on one by one, unchanged. Only the last is held back until the turn is journalled.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any, Literal, Protocol, cast

import httpx
from fastapi import Request
from starlette.responses import Response

from deltamem_agents.frameworks.messages import FrameworkMessage
from deltamem_agents.memory import RecallOptions
from deltamem_agents.serving.failures import HttpFailure
from deltamem_agents.serving.openai.messages import upstream_message, with_recalled
from deltamem_agents.serving.openai.streaming import EventStream, told, while_connected
from deltamem_agents.serving.openai.turn import Turn
from deltamem_agents.serving.openai.upstream import ERROR_BYTES, UpstreamClient, headers_back, whole

EVENT_BYTES = 16 << 20  # of one event, or of what is collected of a reply


Progress = Literal["more", "complete", "failed"]


class Collector(Protocol):
    """Puts a reply together from the events of its stream."""

    def take(self, data: Mapping[str, Any]) -> Progress:
        """Take the data of one event; returns how far the reply is with it."""

    def reply(self) -> FrameworkMessage | None:
        """The reply, for the journal; None if it says nothing."""


def upstream_of(request: Request) -> UpstreamClient:
    """The server's client of its upstream."""
    return cast(UpstreamClient, request.app.state.upstream)


async def proxied_chat(request: Request, body: dict[str, Any], turn: Turn, options: RecallOptions) -> Response:
    """The upstream's answer to a chat, with memory; journalled once it is complete."""
    text = await while_connected(request, turn.recalled(options))
    sent = body | {"messages": with_recalled(body["messages"], str(text), options.placement)}

    async def journal(reply: FrameworkMessage | None) -> None:
        await turn.journal(reply)

    return await answered(request, "/chat/completions", sent, ChatCollector, _reply_of, journal)


async def answered(
    request: Request,
    path: str,
    body: dict[str, Any],
    collector: Callable[[], Collector],
    reply_of: Callable[[Mapping[str, Any]], FrameworkMessage | None],
    journal: Callable[[FrameworkMessage | None], Any],
) -> Response:
    """Send a request upstream, and pass its answer on; what failed there is passed on as it is, and not journalled."""
    response = await while_connected(request, upstream_of(request).send("POST", path, request.headers, body))
    headers = headers_back(response)
    if response.status_code >= 300:
        content = await while_connected(request, whole(response, ERROR_BYTES))
        return Response(content, response.status_code, headers=headers)
    if response.headers.get("content-type", "").startswith("text/event-stream"):
        events = _passing(response, collector(), journal)
        return EventStream(told(events, request.state.request_id), headers=headers)
    content = await while_connected(request, whole(response))
    found = _object(content)
    if found is not None:
        await journal(reply_of(found))
    return Response(content, response.status_code, headers=headers)


async def passed_on(request: Request, path: str, body: Any = None) -> Response:
    """The upstream's answer to a request that memory has no part in."""
    method = "GET" if body is None else "POST"
    response = await while_connected(request, upstream_of(request).send(method, path, request.headers, body))
    headers = headers_back(response)
    if response.headers.get("content-type", "").startswith("text/event-stream"):
        return EventStream(told(_unread(response), request.state.request_id), headers=headers)
    return Response(await while_connected(request, whole(response)), response.status_code, headers=headers)


async def _unread(response: httpx.Response) -> AsyncGenerator[bytes]:
    try:
        async for piece in response.aiter_bytes():
            yield piece
    except httpx.HTTPError as error:
        raise _broken(error) from None
    finally:
        await response.aclose()


async def _passing(
    response: httpx.Response, collector: Collector, journal: Callable[[FrameworkMessage | None], Any]
) -> AsyncGenerator[bytes]:
    """The events of the upstream's stream."""
    held = b""
    progress: Progress = "more"
    try:
        async for piece in response.aiter_bytes():
            if progress != "more":
                yield piece
                continue
            held += piece
            if len(held) > EVENT_BYTES:
                raise HttpFailure(502, "an event of the upstream is too long", "upstream_broken")
            while progress == "more" and (end := _event_end(held)):
                event, held = held[:end], held[end:]
                progress = _taken(collector, event)
                if progress == "complete":
                    await journal(collector.reply())
                yield event
            if progress != "more" and held:
                yield held
                held = b""
    except httpx.HTTPError as error:
        raise _broken(error) from None
    finally:
        await response.aclose()
    if progress == "more":  # an upstream that ends without saying so
        raise HttpFailure(502, "the upstream's stream ended before its reply; nothing is journalled", "upstream_broken")


def _event_end(held: bytes) -> int:
    """The length of the first event, with the empty line after it; 0 if it has not come whole."""
    ends = [at + len(mark) for mark in (b"\n\n", b"\r\n\r\n", b"\r\r") if (at := held.find(mark)) >= 0]
    return min(ends, default=0)


def _taken(collector: Collector, event: bytes) -> Progress:
    """How far the reply is with this event."""
    lines = event.decode("utf-8", "replace").splitlines()
    data = "\n".join(line[5:].removeprefix(" ") for line in lines if line.startswith("data:"))
    if data.strip() == "[DONE]":
        return "complete"
    found = _object(data)
    if found is None:
        return "more"
    return "failed" if found.get("error") else collector.take(found)


def _object(text: str | bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _broken(error: httpx.HTTPError) -> HttpFailure:
    if isinstance(error, httpx.TimeoutException):
        return HttpFailure(504, "the upstream's stream stopped; try again", "upstream_timeout")
    return HttpFailure(502, f"the upstream's stream broke off ({type(error).__name__}); try again", "upstream_broken")


def _reply_of(found: Mapping[str, Any]) -> FrameworkMessage | None:
    """The reply in a chat completion."""
    choices = found.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    message = first.get("message") if isinstance(first, Mapping) else None
    return upstream_message(message, first.get("finish_reason")) if isinstance(message, Mapping) and first else None


class ChatCollector:
    """Puts the first choice of a streamed chat completion together."""

    def __init__(self) -> None:
        self._text: list[str] = []
        self._calls: dict[int, dict[str, Any]] = {}
        self._reason: object = None

    def take(self, data: Mapping[str, Any]) -> Progress:
        """See `Collector.take`; the stream itself says when it is complete, with [DONE]."""
        for choice in data.get("choices") or ():
            if not isinstance(choice, Mapping) or choice.get("index", 0) != 0:
                continue
            delta = choice.get("delta")
            self._reason = choice.get("finish_reason") or self._reason
            if isinstance(delta, Mapping):
                self._add(delta)
        return "more"

    def _add(self, delta: Mapping[str, Any]) -> None:
        if isinstance(delta.get("content"), str):
            self._text.append(delta["content"])
        for call in delta.get("tool_calls") or ():
            if not isinstance(call, Mapping):
                continue
            known = self._calls.setdefault(int(call.get("index") or 0), {"id": "", "name": "", "arguments": ""})
            function = call.get("function") or {}
            known["id"] = call.get("id") or known["id"]
            known["name"] += function.get("name") or ""
            known["arguments"] += function.get("arguments") or ""

    def reply(self) -> FrameworkMessage | None:
        """See `Collector.reply`."""
        calls = [
            {"id": each["id"], "function": {"name": each["name"], "arguments": each["arguments"]}}
            for _, each in sorted(self._calls.items())
        ]
        return upstream_message({"content": "".join(self._text), "tool_calls": calls}, self._reason)
