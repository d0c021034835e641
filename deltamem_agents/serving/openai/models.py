"""``/v1/models``."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from starlette.responses import JSONResponse, Response

from deltamem_agents.memory import DeltaMem
from deltamem_agents.serving.access import Access
from deltamem_agents.serving.dependencies import allowed, memory_of, settings_of
from deltamem_agents.serving.failures import HttpFailure
from deltamem_agents.serving.openai.proxying import passed_on

router = APIRouter(tags=["openai"])


@router.get("/models", summary="The models that answer here")
async def models(request: Request, access: Annotated[Access, Depends(allowed("read"))]) -> Response:
    """The backbone and the embedder; in proxy mode, the upstream's models."""
    if settings_of(request).upstream is not None:
        return await passed_on(request, "/models")
    return JSONResponse({"object": "list", "data": [_json(each) for each in names(memory_of(request))]})


@router.get("/models/{model}", summary="One model")
async def model(request: Request, model: str, access: Annotated[Access, Depends(allowed("read"))]) -> Response:
    """The backbone or the embedder."""
    if settings_of(request).upstream is not None:
        return await passed_on(request, f"/models/{model}")
    if model not in names(memory_of(request)):
        raise HttpFailure(404, f"the model {model[:60]!r} does not exist here", "model_not_found", param="model")
    return JSONResponse(_json(model))


def names(mem: DeltaMem) -> list[str]:
    """Names of the models here, in order, as they stand in a path."""
    backbone = [mem.engine.name] if mem.backbone.present else []
    return [*backbone, *([mem.retriever.model] if mem.retriever.model else [])]


def _json(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "deltamem"}
