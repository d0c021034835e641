"""Live pages: server-sent events that tell a page that its agent, or the list of agents, has changed.

An event carries positions and counts, never text; the page then asks for what it shows. The database is asked every
second whether anything changed, so changes by other processes are seen too. A stream ends after `LIFETIME`, and the
browser opens the next one with its cookie, so that a revoked token does not go on listening.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response, StreamingResponse

from deltamem_agents.errors import DeltaMemError
from deltamem_agents.memory import AgentMemory
from deltamem_agents.serving.access import Access, in_thread
from deltamem_agents.serving.dependencies import allowed, memory_of, reaching
from deltamem_agents.serving.failures import RETRY_SECONDS, HttpFailure
from deltamem_agents.serving.inspector.agents import LIMIT, reached

TYPE = "text/event-stream"
SECONDS = 1.0  # between two looks at one agent
LIST_SECONDS = 3.0  # between two looks at the list, which counts messages
LIFETIME = 300.0
BEAT = 15.0  # between two signs of life, which find out that a browser has gone
STREAMS = 64  # of one process at once

router = APIRouter()


@router.get("/inspect/{agent}/events")
async def of_agent(request: Request, memory: Annotated[AgentMemory, Depends(reaching("read"))]) -> Response:
    """Tells when the agent's journal has changed."""
    mem = memory_of(request)

    async def look() -> dict[str, Any]:
        version = await in_thread(mem, "inspect", lambda: mem.store.records.version(memory.id))
        return {} if version is None else {"epoch": str(version[0]), "position": version[1]}

    return _stream(request, look, SECONDS)


@router.get("/events")
async def of_list(request: Request, access: Annotated[Access, Depends(allowed("read"))]) -> Response:
    """Tells when the first page of the list has changed."""
    mem = memory_of(request)

    async def look() -> dict[str, Any]:
        found = await in_thread(mem, "inspect", lambda: reached(mem.store, access, "", LIMIT))
        return {"agents": [[each.position, str(each.epoch)] for each in found]}

    return _stream(request, look, LIST_SECONDS)


def _stream(request: Request, look: Callable[[], Awaitable[dict[str, Any]]], seconds: float) -> Response:
    """A stream with an event for each change.

    Raises:
        HttpFailure: 406; the caller does not take such a stream. 503; there are too many.
    """
    if TYPE not in request.headers.get("accept", ""):
        raise HttpFailure(406, f"this is a stream; ask for it with 'Accept: {TYPE}'", "not_acceptable")
    state = request.app.state
    if state.streams >= STREAMS:
        raise HttpFailure(
            503,
            f"{STREAMS} pages are watching already; close some",
            "too_many_streams",
            headers={"Retry-After": str(RETRY_SECONDS)},
        )
    return StreamingResponse(_events(state, look, seconds), media_type=TYPE, headers={"x-accel-buffering": "no"})


async def _events(state: Any, look: Callable[[], Awaitable[dict[str, Any]]], seconds: float) -> AsyncIterator[str]:
    stopping: asyncio.Event = state.stopping
    ends, beat, known = time.monotonic() + LIFETIME, time.monotonic() + BEAT, None
    state.streams += 1
    try:
        yield "retry: 3000\n\n"
        while not stopping.is_set() and time.monotonic() < ends:
            try:
                found = await look()
            except DeltaMemError:  # the browser tries again, and meets the failure there
                return
            if found != known:
                yield f"event: {'hello' if known is None else 'change'}\ndata: {json.dumps(found)}\n\n"
                known, beat = found, time.monotonic() + BEAT
            elif time.monotonic() >= beat:
                yield ": still here\n\n"
                beat = time.monotonic() + BEAT
            try:
                await asyncio.wait_for(stopping.wait(), seconds)
            except TimeoutError:
                continue
    finally:
        state.streams -= 1
