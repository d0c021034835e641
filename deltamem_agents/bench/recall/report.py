"""The recall benchmark's results as JSON, as Markdown, and as a plot."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from deltamem_agents.bench.figures import Figure, table
from deltamem_agents.bench.recall.beam import BELOW, OURS, OVERALL, REACH, Row
from deltamem_agents.bench.recall.facts import MODES, Score
from deltamem_agents.bench.recall.reliability import Bin, Separation, calibration_error
from deltamem_agents.errors import MissingExtraError
from deltamem_agents.terminal import counted

COLOURS = {
    "none": "#999999",
    "state": "#cc79a7",
    "vector": "#0072b2",
    "hybrid": "#009e73",
    "preload": "#56b4e9",
    "history": "#e69f00",
}
HYBRID_REACH, KNOWN_REACH, WITHHELD_REACH, CHANGED_REACH = 0.95, 0.95, 0.02, 0.95
AREA_REACH = {1: 0.97, 2: 0.97, 4: 0.90}


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """Everything that was measured, and the machine's facts."""

    machine: Mapping[str, str]
    facts: Sequence[Score]
    changed: Sequence[Score]
    separations: Sequence[Separation]
    bins: Sequence[Bin]
    locomo: Sequence[Figure] = field(default_factory=list)
    beam: Sequence[Row] = field(default_factory=list)
    search: Sequence[Figure] = field(default_factory=list)

    def write(self, folder: Path) -> list[Path]:
        """Write ``recall.json``, ``recall.md`` and ``recall.png`` into a folder; return their paths.

        Raises:
            MissingExtraError: matplotlib is not installed.
        """
        folder.mkdir(parents=True, exist_ok=True)
        paths = files_in(folder)
        plot(self, paths[2])
        paths[0].write_text(json.dumps(_finite(asdict(self)), indent=1) + "\n", encoding="utf-8")
        paths[1].write_text(markdown(self) + "\n", encoding="utf-8")
        return paths


def files_in(folder: Path) -> list[Path]:
    """The files that `Results.write` writes."""
    return [folder / f"recall.{kind}" for kind in ("json", "md", "png")]


def markdown(results: Results) -> str:
    """The results as Markdown tables."""
    parts = [" · ".join(f"{name} {value}" for name, value in results.machine.items())]
    sizes = list(dict.fromkeys(each.facts for each in results.facts))
    modes = [mode for mode in MODES if any(each.mode == mode for each in results.facts)]
    of = {(each.facts, each.mode): each for each in results.facts}

    def rows(what: str) -> Iterator[list[str]]:
        for mode in modes:
            yield [mode, *(_short(getattr(of[size, mode], what)) if (size, mode) in of else "–" for size in sizes)]

    for title, what in (
        ("Right answers, of questions about what was said", "right"),
        ("No answer, of questions about what was never said", "silent"),
        ("No answer, of questions about what was said", "withheld"),
        ("Context tokens, mean", "context_tokens"),
        ("Seconds a question, median", "seconds"),
    ):
        if not sizes:
            break
        parts.append(f"{title}, by number of facts:\n\n{_grid(['', *map(str, sizes)], rows(what))}")
    if results.changed:
        heads = ["", "questions", "the newest", "no answer", "never said: no answer"]
        lines = [[s.mode, str(s.questions), *map(_short, (s.right, s.withheld, s.silent))] for s in results.changed]
        first = results.changed[0]
        parts.append(f"{first.changed} of {first.facts} facts changed once; these:\n\n{_grid(heads, lines)}")
    if results.separations:
        areas = {(each.facts, each.mode): each.area for each in results.separations}
        lines = [
            [mode, *(_short(areas.get((size, mode), math.nan)) for size in sizes)]
            for mode in modes
            if any(known == mode for _, known in areas)
        ]
        title = "Area under the ROC curve of confidence, stated against unstated facts"
        parts.append(f"{title}, by number of facts:\n\n{_grid(['', *map(str, sizes)], lines)}")
    if results.bins:
        errors = ", ".join(
            f"{mode} {_short(calibration_error([each for each in results.bins if each.mode == mode]))}"
            for mode in dict.fromkeys(each.mode for each in results.bins)
        )
        lines = [[b.mode, _short(b.confidence), _short(b.right), str(b.answers)] for b in results.bins]
        grid = _grid(["", "confidence", "right", "answers"], lines)
        parts.append(f"What confidence is worth (expected calibration error: {errors}):\n\n{grid}")
    bars = [f"- {'reached' if met else '**not reached**'}: {text}" for text, met in reached(results)]
    if bars:
        parts.append("To reach:\n\n" + "\n".join(bars))
    if results.locomo:
        parts.append("LoCoMo:\n\n" + table(results.locomo, {}).strip())
    if results.beam:
        ways = list(results.beam[0].shares)
        lines = [
            [row.kind.replace("_", " "), str(row.questions), *(_short(row.shares[w]) for w in ways)]
            for row in results.beam
        ]
        parts.append(f"BEAM, evidence among the first 10 messages:\n\n{_grid(['', 'questions', *ways], lines)}")
    if results.search:
        parts.append("Search and indexing:\n\n" + table(results.search, {}).strip())
    return "\n\n".join(parts)


def reached(results: Results) -> Iterator[tuple[str, bool]]:
    """Each target, and whether it is reached."""
    of = {(each.facts, each.mode): each for each in results.facts}
    sizes = [size for size, mode in of if mode == "hybrid"]
    if sizes:
        most = of[max(sizes), "hybrid"]
        text = f"hybrid {_short(most.right)} at {most.facts} facts within {most.most_context_tokens} context tokens"
        yield f"{text} (≥ {HYBRID_REACH}, ≤ 128)", most.right >= HYBRID_REACH and most.most_context_tokens <= 128
        alone = [(size, mode) for size in sizes for mode in ("state", "vector") if (size, mode) in of]
        below = max((of[size, mode].right - of[size, "hybrid"].right for size, mode in alone), default=0.0)
        yield f"hybrid below state or vector alone by {max(below, 0):.3f} at most (≤ 0.01)", below <= 0.01
        silent = _mean([(of[size, "hybrid"].silent, of[size, "hybrid"].unknown_questions) for size in sizes])
        withheld = _mean([(of[size, "hybrid"].withheld, of[size, "hybrid"].questions) for size in sizes])
        yield f'"nothing known" {silent:.3f} of what was never said (≥ {KNOWN_REACH}), all sizes', silent >= KNOWN_REACH
        yield f"{withheld:.3f} of answers withheld (≤ {WITHHELD_REACH}), all sizes", withheld <= WITHHELD_REACH
    for each in results.changed:
        if each.mode == "hybrid":
            yield f"newest answer {_short(each.right)} (≥ {CHANGED_REACH})", each.right >= CHANGED_REACH
    for one in results.separations:
        if one.mode == "state" and one.facts in AREA_REACH:
            reach = AREA_REACH[one.facts]
            yield (
                f"area under the ROC curve {one.area:.3f} at {counted(one.facts, 'fact')} (≥ {reach})",
                one.area >= reach,
            )
    for row in results.beam:
        others = max(share for way, share in row.shares.items() if way != OURS)
        least = max(others - BELOW, REACH if row.kind == OVERALL else 0)
        yield f"BEAM, {row.kind.replace('_', ' ')}: {_short(row.shares[OURS])} (≥ {_short(least)})", row.reached
    for figure in (*results.locomo, *results.search):
        if figure.reached is not None:
            value = f"{figure.value:.3g} {figure.unit}".strip()
            yield f"{figure.on}, {figure.what}: {value} ({figure.reach})", figure.reached


def plot(results: Results, path: Path) -> None:
    """Plot right answers and areas by number of facts, and the reliability diagram, as a PNG.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    import_matplotlib().use("agg")
    from matplotlib import pyplot

    figure, (answers, areas, reliability) = pyplot.subplots(1, 3, figsize=(13, 4.2), layout="constrained")
    for mode in MODES:
        of = [each for each in results.facts if each.mode == mode]
        if of:
            answers.plot([s.facts for s in of], [s.right for s in of], "o-", color=COLOURS[mode], label=mode)
        curve = [each for each in results.separations if each.mode == mode]
        if curve:
            areas.plot([s.facts for s in curve], [s.area for s in curve], "o-", color=COLOURS[mode], label=mode)
        points = [each for each in results.bins if each.mode == mode]
        if points:
            areas_of = [12 + 180 * b.answers / max(each.answers for each in points) for b in points]
            reliability.plot(
                [b.confidence for b in points], [b.right for b in points], "-", color=COLOURS[mode], label=mode
            )
            reliability.scatter([b.confidence for b in points], [b.right for b in points], areas_of, COLOURS[mode])
    answers.set(title="Right answers", xlabel="facts, among 10 × as many messages", ylim=(-0.03, 1.03))
    areas.set(title="Confidence: stated against unstated", xlabel="facts", ylabel="area under the ROC curve")
    areas.set_ylim(0.4, 1.02)
    reliability.plot([0, 1], [0, 1], ":", color="#999999")
    reliability.set(title="Reliability (size: number of answers)", xlabel="confidence", ylabel="share right")
    for axes in (answers, areas):
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    for axes in (answers, areas, reliability):
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[1]:
            axes.legend(frameon=False)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def import_matplotlib() -> Any:
    """Import and return matplotlib.

    Raises:
        MissingExtraError: It is not installed.
    """
    try:
        import matplotlib as mpl
    except ImportError as error:
        raise MissingExtraError("the plot needs matplotlib; pip install 'deltamem-agents[bench]'") from error
    return mpl


def _grid(heads: Sequence[str], rows: Sequence[Sequence[str]] | Iterator[list[str]]) -> str:
    lines = [f"| {' | '.join(heads)} |", f"| {' | '.join('---' for _ in heads)} |"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def _short(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3f}" if value < 2 else f"{value:,.0f}"


def _mean(weighted: Sequence[tuple[float, int]]) -> float:
    return sum(value * weight for value, weight in weighted) / max(1, sum(weight for _, weight in weighted))


def _finite(value: Any) -> Any:
    """Replace NaN by None, as NaN is not JSON."""
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and math.isnan(value) else value
