"""Agents: which there are, and how each is."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request

from deltamem_agents.errors import UnknownAgentError, shown
from deltamem_agents.memory import AgentMemory
from deltamem_agents.serving.access import Access, in_thread
from deltamem_agents.serving.dependencies import allowed, memory_of, reaching
from deltamem_agents.serving.rest.schemas import LIMIT, MOST, after, page
from deltamem_agents.store import AgentInfo, Store
from deltamem_agents.terminal import agent_json

router = APIRouter(tags=["agents"])

READ_AHEAD = 500  # agents that are looked at in one transaction

Limit = Annotated[int, Query(ge=1, le=MOST, description="The most items of the page.")]
After = Annotated[
    str | None, Query(alias="after", description="The cursor `next` of the page before.", max_length=4096)
]


@router.get("/agents", summary="The agents that the token reaches, ordered by id")
async def agents(
    request: Request, access: Annotated[Access, Depends(allowed("read"))], limit: Limit = LIMIT, after_: After = None
) -> dict[str, Any]:
    """One page of agents."""
    mem = memory_of(request)
    start = after(after_, str, "")
    found = await in_thread(mem, "agents", lambda: _reached(mem.store, access, start, limit + 1))
    more = found[limit - 1].id if len(found) > limit else None
    return page([agent_json(each) for each in found[:limit]], more)


@router.get("/agents/{agent}", summary="One agent")
async def agent(request: Request, memory: Annotated[AgentMemory, Depends(reaching("read"))]) -> dict[str, Any]:
    """Its epoch, the number of its live messages, and the end of its journal."""
    store = memory_of(request).store
    found = await in_thread(memory_of(request), "agent", lambda: store.agent(memory.id))
    if found is None:
        raise UnknownAgentError(f"nothing was ever written to agent {shown(memory.id)}")
    return agent_json(found)


@router.get("/agents/{agent}/health", summary="What is journalled, folded and stored")
async def health(
    memory: Annotated[AgentMemory, Depends(reaching("read"))],
    examine: Annotated[bool, Query(description="Fold the whole journal again for more figures.")] = False,
) -> dict[str, Any]:
    """See `AgentMemory.health`."""
    return (await memory.ahealth(examine=examine)).as_dict()


def _reached(store: Store, access: Access, start: str, count: int) -> list[AgentInfo]:
    """The next agents after ``start`` that the token reaches."""
    found: list[AgentInfo] = []
    while len(found) < count:
        some = store.agents(after=start, limit=READ_AHEAD)
        found += [each for each in some if access.reaches(each.id)]
        if len(some) < READ_AHEAD:
            break
        start = some[-1].id
    return found[:count]
