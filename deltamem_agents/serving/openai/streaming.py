"""Server-sent events, and what becomes of them when a caller goes away."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Mapping
from typing import Any, TypeVar

from fastapi import Request
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from deltamem_agents.serving.failures import HttpFailure, failure_of, openai_error

DONE = b"data: [DONE]\n\n"

T = TypeVar("T")


class EventStream(StreamingResponse):
    """A stream of events; its generator ends with it, also when the caller goes away in the middle."""

    def __init__(self, events: AsyncGenerator[bytes], headers: Mapping[str, str] | None = None) -> None:
        super().__init__(events, media_type="text/event-stream", headers=headers)
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._events.aclose()


def event(data: Any, name: str | None = None) -> bytes:
    """One event."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return f"{'' if name is None else f'event: {name}{chr(10)}'}data: {text}\n\n".encode("utf-8", "replace")


async def told(events: AsyncGenerator[bytes], request_id: str) -> AsyncGenerator[bytes]:
    """The events; if they fail, an event with the error ends them, as OpenAI's clients expect."""
    try:
        async for each in events:
            yield each
    except Exception as error:
        yield event(openai_error(failure_of(error, request_id)))
    finally:
        await events.aclose()


async def begun(events: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    """The events, of which the first has come: what fails before it is answered with a status, not in the stream."""
    first = await anext(events, None)

    async def all_of_them() -> AsyncGenerator[bytes]:
        try:
            if first is not None:
                yield first
            async for each in events:
                yield each
        finally:
            await events.aclose()

    return all_of_them()


async def stream(request: Request, events: AsyncGenerator[bytes]) -> EventStream:
    """The response that sends these events.

    Raises:
        Exception: Whatever fails before the first event.
    """
    try:
        started = await while_connected(request, begun(events))
    except BaseException:
        await events.aclose()
        raise
    return EventStream(told(started, request.state.request_id))


async def while_connected(request: Request, work: Awaitable[T]) -> T:
    """Await this, but cancel it when the caller goes away.

    Raises:
        HttpFailure: The caller has gone; nobody reads it.
    """
    working = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise HttpFailure(499, "the caller closed the connection", "closed")
        return await working
    finally:
        for each in (working, gone):
            each.cancel()
        await asyncio.gather(working, gone, return_exceptions=True)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def last(items: AsyncIterator[T]) -> T | None:
    """The last item; None if there are none."""
    found = None
    async for each in items:
        found = each
    return found
