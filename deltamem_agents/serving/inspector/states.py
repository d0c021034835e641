"""The state: heat maps of its matrices, and how it filled as the journal grew."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import Response

from deltamem_agents.memory import AgentMemory
from deltamem_agents.serving.dependencies import memory_of, reaching
from deltamem_agents.serving.inspector.agents import subject
from deltamem_agents.serving.inspector.heat import LEVELS, heat_maps
from deltamem_agents.serving.inspector.pages import PageRoute, render

POINTS = 60  # stored states that the chart shows

router = APIRouter(route_class=PageRoute)


@router.get("/inspect/{agent}/state")
async def state(
    request: Request,
    memory: Annotated[AgentMemory, Depends(reaching("read"))],
    at: Annotated[int | None, Query(ge=0, le=2**63 - 1)] = None,
) -> Response:
    """The newest stored state, or the last one of the chart at or before a position. Folds nothing."""
    about = await subject(request, memory)
    health = await memory.ahealth()
    points = await memory.atrend(points=POINTS)
    chosen = next((each for each in reversed(points) if at is None or each.position <= at), None)
    maps, most = heat_maps(chosen.state if chosen else {})
    series = [
        [each.position for each in points],
        [round(100 * each.saturation, 2) for each in points],
        [None if each.fullness is None else round(100 * each.fullness, 2) for each in points],
    ]
    return render(
        request,
        "state.html",
        **about.shown("state"),
        health=health,
        backbone=memory_of(request).backbone.present,
        points=points,
        chosen=chosen,
        newest=chosen is None or chosen is points[-1],
        maps=maps,
        most=most,
        levels=[each for each in range(-LEVELS, LEVELS + 1)],
        series=series,
    )
