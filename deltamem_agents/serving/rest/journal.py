"""The journal: writing to it, reading it, and recalling from it."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import Response

from deltamem_agents.memory import AgentMemory
from deltamem_agents.serving.access import in_thread
from deltamem_agents.serving.dependencies import memory_of, reaching
from deltamem_agents.serving.rest import schemas
from deltamem_agents.serving.rest.agents import After, Limit
from deltamem_agents.serving.rest.idempotency import Key, named, once
from deltamem_agents.serving.rest.schemas import LIMIT, MOST, NewMessages, after, page
from deltamem_agents.terminal import entry_json, recall_json

router = APIRouter(tags=["journal"])

Session = Annotated[str | None, Query(description="Only this session.", examples=["s1"])]
At = Annotated[int | None, Query(ge=0, description="The journal as it was when it ended at this position.")]


@router.post("/agents/{agent}/messages", status_code=201, summary="Journal messages")
async def write(
    request: Request, body: NewMessages, memory: Annotated[AgentMemory, Depends(reaching("write"))], key: Key = None
) -> Response:
    """See `AgentMemory.write`. The messages are durable when this answers."""

    async def work() -> dict[str, Any]:
        messages = named(request, key, [each.plain() for each in body.messages])
        return {"ids": await memory.awrite(messages, body.session, wait=body.wait)}

    return await once(request, key, work, 201)


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


@router.get("/agents/{agent}/neighbours", summary="The messages around one, in its session")
async def neighbours(
    request: Request,
    memory: Annotated[AgentMemory, Depends(reaching("read"))],
    session: Annotated[str, Query(examples=["s1"])],
    position: Annotated[int, Query(ge=1, description="Position of the message, as a record has it.")],
    reach: Annotated[int, Query(ge=0, le=MOST)] = 2,
) -> dict[str, Any]:
    """See `AgentMemory.neighbours`; empty if the message is gone."""
    found = [each for each in await memory.alog(session)]
    place = next((place for place, each in enumerate(found) if each.position == position), None)
    around = [] if place is None else found[max(0, place - reach) : place + reach + 1]
    return {"data": [entry_json(each) for each in around]}


@router.get("/agents/{agent}/sessions", summary="The sessions, in the order in which they began")
async def sessions(memory: Annotated[AgentMemory, Depends(reaching("read"))]) -> dict[str, Any]:
    """The sessions that have live messages."""
    return {"data": await memory.asessions()}


@router.post("/agents/{agent}/recall", tags=["recall"], summary="What memory holds for a query")
async def recall(body: schemas.Query, memory: Annotated[AgentMemory, Depends(reaching("read"))]) -> dict[str, Any]:
    """See `AgentMemory.recall`. The state does not change."""
    return recall_json(await memory.arecall(**body.model_dump()))
