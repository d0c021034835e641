"""Export and import of whole agents, streamed."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Depends, Request
from starlette.responses import StreamingResponse

from deltamem_agents.memory import AgentMemory, DeltaMem
from deltamem_agents.serving.access import Access
from deltamem_agents.serving.dependencies import allowed, memory_of, reaching
from deltamem_agents.serving.failures import HttpFailure
from deltamem_agents.serving.guard import ARCHIVE_TYPE

router = APIRouter(tags=["archives"])

CHUNK = 1 << 20

ARCHIVE = {"content": {ARCHIVE_TYPE: {"schema": {"type": "string", "format": "binary"}}}}
BODY = {"requestBody": {"required": True, **ARCHIVE}}


@router.get(
    "/agents/{agent}/export",
    summary="An agent's journal, states and embeddings as one file",
    response_class=StreamingResponse,
    responses={200: {"description": "The archive.", **ARCHIVE}},
)
async def export(request: Request, memory: Annotated[AgentMemory, Depends(reaching("read"))]) -> StreamingResponse:
    """See `DeltaMem.export`."""
    folder = await asyncio.to_thread(tempfile.TemporaryDirectory, prefix="deltamem-")
    path = Path(folder.name) / "agent.deltamem"
    try:
        await memory_of(request).aexport(memory.id, path)
        size = path.stat().st_size
    except BaseException:
        await asyncio.to_thread(folder.cleanup)
        raise
    headers = {
        "content-length": str(size),
        "content-disposition": f"attachment; filename*=UTF-8''{quote(memory.id, safe='')}.deltamem",
    }
    return StreamingResponse(_sent(path, folder), media_type=ARCHIVE_TYPE, headers=headers)


@router.post("/agents/{agent}/import", status_code=201, summary="Create an agent from a file", openapi_extra=BODY)
async def import_as(request: Request, memory: Annotated[AgentMemory, Depends(reaching("admin"))]) -> dict[str, Any]:
    """See `DeltaMem.import_`. The body is the file, at most 1 GiB; all of it is checked before anything is stored."""
    return await _imported(request, memory_of(request), memory.id)


@router.post("/import", status_code=201, summary="Create the agent that a file names", openapi_extra=BODY)
async def import_named(request: Request, access: Annotated[Access, Depends(allowed("admin"))]) -> dict[str, Any]:
    """As above, under the id in the file; the token must reach all agents, as the file may name any."""
    if not access.reaches_all:
        raise HttpFailure(403, "this needs a token that reaches all agents; name one in the path", "agent_not_allowed")
    return await _imported(request, memory_of(request), None)


async def _imported(request: Request, mem: DeltaMem, agent: str | None) -> dict[str, Any]:
    folder = await asyncio.to_thread(tempfile.TemporaryDirectory, prefix="deltamem-")
    path = Path(folder.name) / "agent.deltamem"
    try:
        with path.open("wb") as file:
            async for piece in request.stream():
                await asyncio.to_thread(file.write, piece)
        return {"id": (await mem.aimport_(path, agent=agent)).id}
    finally:
        await asyncio.to_thread(folder.cleanup)


async def _sent(path: Path, folder: tempfile.TemporaryDirectory[str]) -> AsyncGenerator[bytes]:
    try:
        with path.open("rb") as file:
            while piece := await asyncio.to_thread(file.read, CHUNK):
                yield piece
    finally:
        await asyncio.to_thread(folder.cleanup)
