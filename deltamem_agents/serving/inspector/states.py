"""The page of a state: how it filled as the journal grew, and heat maps in SVG.

A heat map has one path a colour, so that a style sheet chooses the colours for light and dark.

Colours run in `LEVELS` steps from −m to m; m is the magnitude that all but `BEYOND` of the numbers of all layers stay
within, so that a few large ones do not make the others pale. A layer with more than
`CELLS` numbers is shown in blocks, each by its largest magnitude. Knows arrays, not tensors or pages.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import Response

from deltamem_agents.memory import AgentMemory
from deltamem_agents.serving.dependencies import memory_of, reaching
from deltamem_agents.serving.inspector.agents import subject
from deltamem_agents.serving.inspector.pages import PageRoute, render

if TYPE_CHECKING:
    from numpy.typing import NDArray

LEVELS = 9  # steps on each side of zero
BEYOND = 0.005
CELLS = 4096  # cells that are drawn of one layer


@dataclass(frozen=True, slots=True)
class HeatMap:
    """One layer, heads side by side.

    Args:
        name: The layer, short.
        module: The layer's module.
        width, height: In cells.
        paths: Level, −`LEVELS` to `LEVELS` without 0, and the path of its cells.
        heads: Where a head begins, but for the first.
        largest: The largest magnitude in it.
    """

    name: str
    module: str
    width: int
    height: int
    paths: Sequence[tuple[int, str]]
    heads: Sequence[int]
    largest: float


def heat_maps(state: Mapping[str, Any]) -> tuple[list[HeatMap], float]:
    """The layers' maps, and the magnitude of the strongest colour.

    Args:
        state: Module name to a tensor or array [R, R] or [H, R, R], finite.
    """
    arrays = {name: np.asarray(each, np.float32) for name, each in state.items()}
    sizes = np.concatenate([np.abs(each).ravel() for each in arrays.values()] or [np.zeros(1, np.float32)])
    most = float(np.quantile(sizes, 1 - BEYOND)) or float(sizes.max())
    return [_map(name, each, most or 1.0) for name, each in arrays.items()], most


def _map(module: str, matrices: NDArray[np.float32], most: float) -> HeatMap:
    heads = matrices.reshape(-1, *matrices.shape[-2:])
    largest = float(np.abs(heads).max())
    while heads.size > CELLS and heads.shape[-1] > 1:
        heads = _coarser(heads)
    panel = np.hstack(list(heads))
    levels = np.rint(panel / most * LEVELS).astype(int).clip(-LEVELS, LEVELS)
    paths = [(int(level), _path(levels == level)) for level in np.unique(levels) if level]
    rank = heads.shape[-1]
    return HeatMap(
        name=module.removeprefix("model.layers.").removesuffix(".self_attn"),
        module=module,
        width=panel.shape[1],
        height=panel.shape[0],
        paths=paths,
        heads=range(rank, panel.shape[1], rank),
        largest=largest,
    )


def _path(chosen: NDArray[np.bool_]) -> str:
    """A path of the chosen cells; neighbours in a row are one rectangle."""
    pieces = []
    for y, row in enumerate(chosen):
        edges = np.flatnonzero(np.diff(np.concatenate([[0], row.astype(np.int8), [0]])))
        pieces += [f"M{a} {y}h{b - a}v1h{a - b}z" for a, b in edges.reshape(-1, 2).tolist()]
    return "".join(pieces)


def _coarser(heads: NDArray[np.float32]) -> NDArray[np.float32]:
    """Half as many rows and columns; each cell the largest magnitude of four."""
    odd = heads.shape[-1] % 2
    padded = np.pad(heads, ((0, 0), (0, odd), (0, odd)))
    count, rank, _ = padded.shape
    blocks = padded.reshape(count, rank // 2, 2, rank // 2, 2).transpose(0, 1, 3, 2, 4)
    blocks = blocks.reshape(count, rank // 2, rank // 2, 4)
    places = np.abs(blocks).argmax(-1, keepdims=True)
    found: NDArray[np.float32] = np.take_along_axis(blocks, places, -1)[..., 0]
    return found


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
