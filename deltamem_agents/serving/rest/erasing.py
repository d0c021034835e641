"""Erasure, of messages and of whole agents, with receipts."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import Response

from deltamem_agents.memory import AgentMemory
from deltamem_agents.serving.dependencies import access_of, memory_of, reaching
from deltamem_agents.serving.failures import HttpFailure
from deltamem_agents.serving.rest.idempotency import Key, once
from deltamem_agents.serving.rest.schemas import Erase

router = APIRouter(tags=["erasure"])

Admin = Annotated[AgentMemory, Depends(reaching("admin"))]


@router.post("/agents/{agent}/erase", summary="Erase messages and all that was computed from them")
async def erase(request: Request, body: Erase, memory: Admin, key: Key = None) -> Response:
    """See `AgentMemory.erase`; answers with its receipt. `dry_run` only reports."""
    if body.forks:
        _check_reaches_all(request)

    async def work() -> dict[str, Any]:
        fields = body.model_dump(exclude={"ids"})
        return _shown(request, (await memory.aerase(ids=body.refs(), **fields)).as_dict())

    return await once(request, key, work)


@router.delete("/agents/{agent}", summary="Erase a whole agent")
async def delete(
    request: Request,
    memory: Admin,
    forks: Annotated[bool, Query(description="Erase its messages from forks that share them, too.")] = False,
    dry_run: Annotated[bool, Query(description="Only report what would be erased.")] = False,
) -> dict[str, Any]:
    """See `AgentMemory.delete`; answers with its receipt."""
    if forks:
        _check_reaches_all(request)
    return _shown(request, (await memory.adelete(forks=forks, dry_run=dry_run)).as_dict())


@router.post("/agents/{agent}/purge", summary="Remove erased data from the database's files")
async def purge(request: Request, memory: Admin) -> dict[str, Any]:
    """See `DeltaMem.purge`, which works on all agents; `pending` says why it has to wait."""
    return {"pending": await memory_of(request).apurge()}


def _check_reaches_all(request: Request) -> None:
    if not access_of(request).reaches_all:
        raise HttpFailure(
            403, "erasing from forks needs a token that reaches all agents, as of '--agent *'", "agent_not_allowed"
        )


def _shown(request: Request, receipt: dict[str, Any]) -> dict[str, Any]:
    """A receipt without agents that the token does not reach."""
    access = access_of(request)
    for name in ("held_by", "remaining"):
        receipt[name] = {agent: held for agent, held in receipt[name].items() if access.reaches(agent)}
    return receipt
