"""Time travel and the state: fork, rollback, diff, state, verify, rebuild."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import Response

from deltamem_agents.memory import AgentMemory
from deltamem_agents.serving.dependencies import access_of, reaching
from deltamem_agents.serving.rest.idempotency import Key, once
from deltamem_agents.serving.rest.journal import At
from deltamem_agents.serving.rest.schemas import Fork, Rollback
from deltamem_agents.store import check_id
from deltamem_agents.terminal import entry_json

router = APIRouter(tags=["time travel"])

Reader = Annotated[AgentMemory, Depends(reaching("read"))]
Admin = Annotated[AgentMemory, Depends(reaching("admin"))]


@router.post("/agents/{agent}/fork", status_code=201, summary="Make another agent with the same journal and states")
async def fork(
    request: Request, body: Fork, memory: Annotated[AgentMemory, Depends(reaching("write"))], key: Key = None
) -> Response:
    """See `AgentMemory.fork`; the token must reach the new agent too."""
    access_of(request).check(check_id(body.new), "write")

    async def work() -> dict[str, Any]:
        return {"id": (await memory.afork(body.new)).id}

    return await once(request, key, work, 201)


@router.post("/agents/{agent}/rollback", summary="Continue the journal from an earlier position")
async def rollback(request: Request, body: Rollback, memory: Admin, key: Key = None) -> Response:
    """See `AgentMemory.rollback`. Nothing is erased: rolling back to the entry before undoes it."""

    async def work() -> dict[str, Any]:
        return {"position": await memory.arollback(body.position)}

    return await once(request, key, work)


@router.get("/agents/{agent}/diff", summary="What changed between two positions")
async def diff(
    memory: Reader,
    a: Annotated[int, Query(ge=0, description="The first position.")],
    b: Annotated[int | None, Query(ge=0, description="The second; by default the journal's end.")] = None,
) -> dict[str, Any]:
    """See `AgentMemory.diff`."""
    found = await memory.adiff(a, b)
    return {
        "added": [entry_json(each) for each in found.added],
        "removed": [entry_json(each) for each in found.removed],
        "layers": found.layers,
    }


@router.get("/agents/{agent}/state", summary="The matrices")
async def state(memory: Reader, at: At = None) -> dict[str, Any]:
    """See `AgentMemory.state`: module names to nested lists of float32 numbers."""
    found = await memory.astate(at=at)
    return {"state": {name: matrix.tolist() for name, matrix in found.items()}}


@router.post("/agents/{agent}/verify", summary="Compare the state in use with a fresh fold")
async def verify(memory: Reader) -> dict[str, Any]:
    """See `AgentMemory.verify`."""
    found = await memory.averify()
    return asdict(found) | {"worst": found.worst}


@router.post("/agents/{agent}/rebuild", summary="Fold the whole journal again")
async def rebuild(memory: Admin) -> dict[str, Any]:
    """See `AgentMemory.rebuild`."""
    found = await memory.arebuild()
    return {"state": {name: matrix.tolist() for name, matrix in found.items()}}
