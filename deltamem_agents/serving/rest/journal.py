"""The journal: writing to it, and reading it."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request

from deltamem_agents.memory import AgentMemory
from deltamem_agents.serving.access import in_thread
from deltamem_agents.serving.dependencies import memory_of, reaching
from deltamem_agents.serving.rest.agents import After, Limit
from deltamem_agents.serving.rest.pages import LIMIT, after, page
from deltamem_agents.serving.rest.schemas import NewMessages
from deltamem_agents.terminal import entry_json

router = APIRouter(tags=["journal"])

Session = Annotated[str | None, Query(description="Only this session.", examples=["s1"])]
At = Annotated[int | None, Query(ge=0, description="The journal as it was when it ended at this position.")]


@router.post("/agents/{agent}/messages", status_code=201, summary="Journal messages")
async def write(body: NewMessages, memory: Annotated[AgentMemory, Depends(reaching("write"))]) -> dict[str, Any]:
    """See `AgentMemory.write`. The messages are durable when this answers."""
    return {"ids": await memory.awrite([each.plain() for each in body.messages], body.session, wait=body.wait)}


@router.get("/agents/{agent}/log", summary="The live messages, in order")
async def log(
    request: Request,
    memory: Annotated[AgentMemory, Depends(reaching("read"))],
    session: Session = None,
    at: At = None,
    limit: Limit = LIMIT,
    after_: After = None,
) -> dict[str, Any]:
    """One page of the live journal; empty for an unknown agent."""
    start = after(after_, int, 0)
    if at is None:
        store = memory_of(request).store
        found = await in_thread(
            memory_of(request), "log", lambda: store.live(memory.id, start, session, limit=limit + 1)
        )
    else:
        found = [each for each in await memory.alog(session, at=at) if each.position > start]
    more = found[limit - 1].position if len(found) > limit else None
    return page([entry_json(each) for each in found[:limit]], more)


@router.get("/agents/{agent}/sessions", summary="The sessions, in the order in which they began")
async def sessions(memory: Annotated[AgentMemory, Depends(reaching("read"))]) -> dict[str, Any]:
    """The sessions that have live messages."""
    return {"data": await memory.asessions()}
