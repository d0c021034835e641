"""``/v1/models``, and ``/v1/embeddings`` by the embedder that memory searches with."""

from __future__ import annotations

import base64
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from starlette.responses import JSONResponse, Response

from deltamem_agents.memory import DeltaMem
from deltamem_agents.serving.access import Access, in_thread
from deltamem_agents.serving.dependencies import allowed, memory_of, settings_of
from deltamem_agents.serving.failures import HttpFailure
from deltamem_agents.serving.openai.proxying import passed_on
from deltamem_agents.serving.openai.requests import EmbeddingRequest, checked, described, json_object

router = APIRouter(tags=["openai"])

MOST = 2048  # texts of a request for embeddings


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


@router.post("/embeddings", summary="Embeddings of texts", openapi_extra=described(EmbeddingRequest))
async def embeddings(request: Request, access: Annotated[Access, Depends(allowed("read"))]) -> Response:
    """Vectors of the local embedder; in proxy mode, the upstream's."""
    body = await json_object(request)
    if settings_of(request).upstream is not None:
        return await passed_on(request, "/embeddings", body)
    asked: EmbeddingRequest = checked(EmbeddingRequest, body)
    mem = memory_of(request)
    retriever = mem.retriever
    if retriever.model is None:
        told = "this server has no embedder; install deltamem-agents[retrieval], or start it with --embedder"
        raise HttpFailure(501, told, "embedder_missing", param="model")
    if asked.model != retriever.model:
        told = f"the model {asked.model[:60]!r} does not exist here; use {retriever.model!r}"
        raise HttpFailure(404, told, "model_not_found", param="model")
    texts = [asked.input] if isinstance(asked.input, str) else asked.input
    if not 0 < len(texts) <= MOST or not all(texts):
        raise HttpFailure(400, f"input must be 1 to {MOST} texts, none of them empty", param="input")
    vectors = await in_thread(mem, "embeddings", lambda: retriever.embed(texts))
    if asked.dimensions not in (None, vectors.shape[1]):
        raise HttpFailure(400, f"this model's vectors have {vectors.shape[1]} dimensions", param="dimensions")

    def value(place: int) -> Any:
        row = vectors[place].astype("<f4")
        return base64.b64encode(row.tobytes()).decode() if asked.encoding_format == "base64" else row.tolist()

    data = [{"object": "embedding", "index": place, "embedding": value(place)} for place in range(len(texts))]
    count = sum(mem.backbone.count(text) for text in texts)
    used = {"prompt_tokens": count, "total_tokens": count}
    return JSONResponse({"object": "list", "data": data, "model": asked.model, "usage": used})
