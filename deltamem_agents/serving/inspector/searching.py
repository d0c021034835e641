"""Search: what memory finds for a query, with the scores and why each record was found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import Response

from deltamem_agents.memory import AgentMemory, Recall
from deltamem_agents.recall import Reason, Record
from deltamem_agents.serving.access import in_thread
from deltamem_agents.serving.dependencies import memory_of, reaching
from deltamem_agents.serving.inspector.agents import subject
from deltamem_agents.serving.inspector.pages import PageRoute, render

router = APIRouter(route_class=PageRoute)


@dataclass(frozen=True, slots=True)
class Hit:
    """A record, and why it was found."""

    record: Record
    reason: Reason


@router.get("/inspect/{agent}/search")
async def search(
    request: Request,
    memory: Annotated[AgentMemory, Depends(reaching("read"))],
    q: Annotated[str, Query(max_length=10_000)] = "",
    session: Annotated[str, Query(max_length=255)] = "",
    k: Annotated[int, Query(ge=1, le=50)] = 10,
    ask: bool = False,
) -> Response:
    """The records for a query; with ``ask``, the backbone's answer too."""
    about = await subject(request, memory)
    mem = memory_of(request)
    ask = ask and mem.backbone.present
    found: Recall | None = None
    hits: list[Hit] = []
    if q.strip():
        found = await memory.arecall(
            q, session=session or None, k=k, mode="hybrid" if ask else "vector", generate=ask, outdated="mark"
        )
        records = found.records
        why = await in_thread(mem, "inspect", lambda: mem.retriever.reasons(memory.id, q, records))
        hits = [Hit(record, reason) for record, reason in zip(records, why, strict=True)]
    template = "_hits.html" if "hx-request" in request.headers else "search.html"
    return render(
        request,
        template,
        **about.shown("search"),
        q=q,
        session=session,
        k=k,
        ask=ask,
        can_ask=mem.backbone.present,
        found=found,
        hits=hits,
    )
