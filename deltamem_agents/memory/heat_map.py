"""A state as a heat map, for files and notebooks."""

from __future__ import annotations

import html
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deltamem_agents import arguments
from deltamem_agents.errors import ConfigError, MissingExtraError, StoreError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from deltamem_agents.core.state import State

FORMATS = (".png", ".svg")
COLUMNS = 6  # layers side by side


def save_heat_map(state: State, path: str | Path) -> None:
    """Draw a state's matrices, one panel a layer, into a PNG or SVG file.

    Colours run from −m to m, where m is the largest magnitude of all layers; heads stand side by side.

    Args:
        state: As `AgentMemory.state` returns it.

    Raises:
        ConfigError: The state is empty, or the file's name ends in neither .png nor .svg.
        MissingExtraError: matplotlib is not installed.
        StoreError: The file cannot be written.
    """
    file = check_heat_map(path)
    picture = draw(state, file.suffix.lower()[1:])
    try:
        file.write_bytes(picture)
    except OSError as error:
        raise StoreError(f"the heat map cannot be written to {file}: {error.strerror}; give another path") from error


def check_heat_map(path: str | Path) -> Path:
    """The path of a heat map's file, checked before anything is computed.

    Raises:
        ConfigError: Its name ends in neither .png nor .svg.
        MissingExtraError: matplotlib is not installed.
    """
    file = arguments.path(path)
    if file.suffix.lower() not in FORMATS:
        raise ConfigError(f"the heat map's file is {file.name!r}; give a name that ends in {' or '.join(FORMATS)}")
    _figure()
    return file


def draw(state: State, form: str) -> bytes:
    """The heat map as a file's content, "png" or "svg"; see `save_heat_map`."""
    if not state:
        raise ConfigError("there is no state to draw; write to the agent, and fold with a backbone")
    panels = {
        name: np.hstack(list(matrices.numpy().reshape(-1, *matrices.shape[-2:]))) for name, matrices in state.items()
    }
    most = max(float(np.abs(panel).max()) for panel in panels.values()) or 1.0
    columns = min(COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    figure = _figure()(figsize=(2.6 * columns + 0.8, 2.6 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    image: Any = None
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, (name, panel) in zip(axes.flat, panels.items(), strict=False):
        image = axis.imshow(panel, cmap="RdBu_r", vmin=-most, vmax=most, interpolation="nearest")
        axis.set_title(name.removeprefix("model.layers.").removesuffix(".self_attn"), fontsize=9)
    figure.suptitle("state by layer", fontsize=10)
    figure.colorbar(image, ax=axes, shrink=0.7)
    written = io.BytesIO()
    figure.savefig(written, format=form, dpi=110, metadata={"Date": None} if form == "svg" else None)
    return written.getvalue()


def _figure() -> Any:
    """matplotlib's Figure, which needs no display."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("a heat map needs matplotlib; pip install 'deltamem-agents[bench]'") from error
    return Figure


def health_html(figures: Mapping[str, Any], state: State) -> str:
    """An agent's health for a notebook: its figures, and the heat map if matplotlib is installed.

    Args:
        figures: As `Health.as_dict` gives them.
    """
    plain = {name: value for name, value in figures.items() if name not in ("layers", "drift", "warnings")}
    parts = [_table(["", "value"], [[name, _shown(value)] for name, value in plain.items()])]
    parts += [f"<p><strong>{html.escape(each)}</strong></p>" for each in figures["warnings"]]
    if figures["layers"]:
        columns = list(next(iter(figures["layers"].values())))
        rows = [[name, *(_shown(layer[column]) for column in columns)] for name, layer in figures["layers"].items()]
        parts.append(_table(["layer", *columns], rows))
    if state:
        try:
            _, tag, rest = draw(state, "svg").decode().partition("<svg")
            parts.append(tag + rest)
        except MissingExtraError:
            parts.append("<p>With matplotlib (pip install 'deltamem-agents[bench]'), the state is drawn here.</p>")
    return "".join(parts)


def _table(head: list[str], rows: list[list[str]]) -> str:
    titles = "".join(f"<th>{html.escape(each)}</th>" for each in head)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(each)}</td>" for each in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table>"


def _shown(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else "" if value is None else str(value)
