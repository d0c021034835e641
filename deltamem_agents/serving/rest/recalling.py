"""Recall."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends

from deltamem_agents.memory import AgentMemory
from deltamem_agents.serving.dependencies import reaching
from deltamem_agents.serving.rest.schemas import Query
from deltamem_agents.terminal import recall_json

router = APIRouter(tags=["recall"])


@router.post("/agents/{agent}/recall", summary="What memory holds for a query")
async def recall(body: Query, memory: Annotated[AgentMemory, Depends(reaching("read"))]) -> dict[str, Any]:
    """See `AgentMemory.recall`. The state does not change."""
    return recall_json(await memory.arecall(**body.model_dump()))
