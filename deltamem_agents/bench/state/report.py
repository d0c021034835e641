"""What the state does, as JSON, as CSV and as Markdown tables."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from deltamem_agents.bench.figures import write_csv
from deltamem_agents.bench.state.asking import ARMS, HYBRID, PINNED, STATE, VECTOR
from deltamem_agents.bench.state.controls import ANOTHER, CONTROLS, OWN, ZERO
from deltamem_agents.bench.state.cost import Cost
from deltamem_agents.bench.state.intervals import Interval
from deltamem_agents.bench.state.shares import (
    FOLLOWED,
    RIGHT,
    SILENT,
    UNCHANGED,
    WRONG,
    Cell,
    Effect,
    RuleKind,
)
from deltamem_agents.bench.state.tasks import EVERYDAY, RULES, TRAINED, UNTRAINED, VALUES
from deltamem_agents.errors import ConfigError

NO_EFFECT = "no effect shown"
TITLES = {
    FOLLOWED: "Replies that follow the rule",
    UNCHANGED: "Unrelated requests answered as the bare backbone answers them",
    RIGHT: "Right answers, of questions about what was said",
    WRONG: "Wrong answers, of questions about what was said",
    SILENT: "No answer, of questions about what was never said",
}
# Task, size and other messages, arm, measure, and the bar; a negative one is a limit that the share must not exceed.
Bar = tuple[str, int, int, str, str, float]
BARS: Mapping[str, Sequence[Bar]] = {
    "tiny": (
        *((RULES, size, 0, STATE, FOLLOWED, bar) for size, bar in ((1, 0.95), (2, 0.90), (4, 0.85))),
        *((RULES, size, 100, HYBRID, FOLLOWED, 0.90) for size in (1, 2, 4)),
        *((RULES, size, 0, STATE, UNCHANGED, 0.97) for size in (1, 2, 4)),
        *((VALUES, size, 0, STATE, RIGHT, bar) for size, bar in ((1, 0.98), (2, 0.97), (4, 0.95), (8, 0.90))),
        *((VALUES, size, 0, STATE, SILENT, bar) for size, bar in ((1, 0.95), (2, 0.93), (4, 0.90), (8, 0.85))),
        *((EVERYDAY, size, 0, HYBRID, RIGHT, bar) for size, bar in ((5, 0.85), (30, 0.75))),
        *((EVERYDAY, size, 0, HYBRID, WRONG, -0.03) for size in (5, 30)),
        *((EVERYDAY, size, 0, HYBRID, SILENT, 0.97) for size in (5, 30)),
    ),
    "gemma-3-270m": (
        *((VALUES, size, 0, STATE, RIGHT, bar) for size, bar in ((1, 0.90), (2, 0.80), (4, 0.60))),
        (RULES, 1, 0, STATE, FOLLOWED, 0.80),
        *((EVERYDAY, size, 0, HYBRID, RIGHT, bar) for size, bar in ((5, 0.90), (30, 0.85))),
        *((EVERYDAY, size, 0, HYBRID, WRONG, -0.03) for size in (5, 30)),
        *((EVERYDAY, size, 0, HYBRID, SILENT, 0.97) for size in (5, 30)),
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One figure of any kind, as a line of the CSV file."""

    what: str
    task: str
    size: int
    others: int
    arm: str
    state: str
    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StateResults:
    """Everything that was measured, and the machine's facts."""

    machine: Mapping[str, str]
    cells: Sequence[Cell] = field(default_factory=list)
    effects: Sequence[Effect] = field(default_factory=list)
    costs: Sequence[Cost] = field(default_factory=list)
    kinds: Sequence[RuleKind] = field(default_factory=list)

    def write(self, folder: Path) -> list[Path]:
        """Write ``state.json``, ``state.csv`` and ``state.md`` into a folder; return their paths.

        Raises:
            ConfigError: A file cannot be written.
        """
        paths = state_files_in(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            paths[0].write_text(json.dumps(_finite(asdict(self)), indent=1) + "\n", encoding="utf-8")
            write_csv(paths[1], list(lines(self)), dict(self.machine))
            paths[2].write_text(state_markdown(self) + "\n", encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"{str(folder)!r} cannot be written: {error}; name another folder") from error
        return paths


def state_files_in(folder: Path) -> list[Path]:
    """The files that `StateResults.write` writes."""
    return [folder / f"state.{kind}" for kind in ("json", "csv", "md")]


def lines(results: StateResults) -> Iterator[Line]:
    """All figures with intervals, one after another."""
    for cell in results.cells:
        yield _line(cell.measure, cell, cell.arm, cell.state, cell.share)
    for effect in results.effects:
        yield _line(
            f"{effect.measure}, difference", effect, effect.arm, f"own less {effect.control}", effect.difference
        )
    for cost in results.costs:
        yield _line("KL from the bare backbone, nats a token", cost, STATE, cost.state, cost.divergence)
        yield _line("changed replies", cost, STATE, cost.state, cost.changed)
        yield _line("perplexity, relative to that without", cost, STATE, cost.state, cost.perplexity)


def state_markdown(results: StateResults) -> str:
    """The results as Markdown tables."""
    parts = [" · ".join(f"{name} {value}" for name, value in results.machine.items())]
    parts.append("In brackets: 95 % bootstrap interval over episodes.")
    for task, others in dict.fromkeys((each.task, each.others) for each in results.cells):
        parts += _task_tables(results, task, others)
    for arm in (STATE, HYBRID):
        parts += _effect_table(results, arm)
    parts += _cost_table(results)
    if results.kinds:
        arms = [arm for arm in ARMS if any(each.arm == arm for each in results.kinds)]
        rows = []
        for kind in dict.fromkeys(each.kind for each in results.kinds):
            of = {each.arm: each for each in results.kinds if each.kind == kind}
            requests = str(max(each.requests for each in of.values()))
            rows.append([kind, requests, *(f"{of[arm].followed:.3f}" if arm in of else "–" for arm in arms)])
        parts.append(f"Replies that follow the rule, by kind, all sizes:\n\n{_grid(['', 'requests', *arms], rows)}")
    bars = [f"- {'reached' if met else '**not reached**'}: {text}" for text, met in reached(results)]
    if bars:
        parts.append("To reach, by the end of the interval:\n\n" + "\n".join(bars))
    return "\n\n".join(parts)


def reached(results: StateResults) -> Iterator[tuple[str, bool]]:
    """Each bar of this backbone that was measured, and whether the interval's end meets it."""
    backbone = results.machine.get("backbone", "")
    of = {(each.task, each.size, each.others, each.arm, each.measure): each for each in results.cells if each.meant}
    for task, size, others, arm, measure, bar in BARS.get(backbone, ()):
        cell = of.get((task, size, others, arm, measure))
        if cell is None:
            continue
        said = f"{_of(cell)}, {cell.arm}, {cell.measure} {cell.share}"
        if bar < 0:
            yield f"{said} (≤ {-bar:g})", cell.share.high <= -bar
        else:
            yield f"{said} (≥ {bar:g})", cell.share.low >= bar
    for effect in results.effects if backbone == "tiny" else ():
        if (effect.others, effect.arm, effect.control) == (100, HYBRID, VECTOR):
            shown = f"{effect.difference.value:+.3f} [{effect.difference.low:+.3f}, {effect.difference.high:+.3f}]"
            yield f"{_of(effect)}, hybrid less vector {shown} (> 0)", effect.difference.low > 0
    for each in results.cells if backbone == "gemma-3-270m" else ():
        if (each.task, each.arm, each.measure) == (VALUES, STATE, RIGHT) and each.state in (ZERO, ANOTHER):
            yield f"{_of(each)}, {each.state} state, right {each.share} (≤ 0.05)", each.share.high <= 0.05
    for cost in results.costs if backbone == "gemma-3-270m" else ():
        if cost.state == ANOTHER:
            said = f"{_of(cost)}, perplexity × {cost.perplexity} under another's state (≤ 1.02)"
            yield said, cost.perplexity.high <= 1.02


def _task_tables(results: StateResults, task: str, others: int) -> Iterator[str]:
    of = [each for each in results.cells if (each.task, each.others) == (task, others) and each.meant]
    sizes = list(dict.fromkeys(each.size for each in of))
    arms = [arm for arm in ARMS if any(each.arm == arm for each in of)]
    heads = ["", *map(str, sizes)]
    known = {(each.measure, each.arm, each.size): each for each in of}
    name = f"{task}{f', then {others} other messages' if others else ''}, by number of {_counted(task)}"
    for measure, title in TITLES.items():
        if any(each.measure == measure for each in of):
            rows = [
                [arm, *(_shown(known.get((measure, arm, size))) for size in sizes)]
                for arm in arms
                if any((measure, arm, size) in known for size in sizes)
            ]
            yield f"{title}. {name.capitalize()}:\n\n{_grid(heads, rows)}"
    measure = FOLLOWED if task in (RULES, UNTRAINED) else RIGHT
    rows = [
        [arm, *(f"{known[measure, arm, size].tokens:.0f}" if (measure, arm, size) in known else "–" for size in sizes)]
        for arm in arms
        if arm in (VECTOR, PINNED, HYBRID, STATE)
    ]
    yield f"Tokens handed over in the prompt, mean. {name.capitalize()}:\n\n{_grid(heads, rows)}"


def _effect_table(results: StateResults, arm: str) -> Iterator[str]:
    of = [each for each in results.effects if each.arm == arm]
    if not of:
        return
    controls = [*CONTROLS, VECTOR]
    rows = []
    for where in dict.fromkeys((each.task, each.size, each.others, each.measure) for each in of):
        known = {e.control: e for e in of if (e.task, e.size, e.others, e.measure) == where}
        one = next(iter(known.values()))
        rows.append([_of(one), one.measure, *(_claim(known.get(control)) for control in controls), _proved(known)])
    heads = ["", "", *(f"{each} state" if each != VECTOR else "vector" for each in CONTROLS), "vector", "by the state"]
    title = f'What is due to the right state: "{arm}" less the same with another state, and less "vector"'
    yield f"{title}:\n\n{_grid(heads, rows)}"


def _cost_table(results: StateResults) -> Iterator[str]:
    if not results.costs:
        return
    rows = [
        [_of(e), e.state, _small(e.divergence), _small(e.changed), f"{e.without:,.1f}", _small(e.perplexity)]
        for e in results.costs
        if e.state in (OWN, ANOTHER)
    ]
    heads = ["", "state", "KL, nats a token", "replies changed", "perplexity without", "× with the state"]
    title = "What a state costs on unrelated requests and on unrelated text"
    yield f"{title}:\n\n{_grid(heads, rows)}"


def _claim(effect: Effect | None) -> str:
    """The difference if it is shown."""
    if effect is None:
        return "–"
    found = effect.difference
    ends = f"[{found.low:+.3f}, {found.high:+.3f}]"
    return f"{found.value:+.3f} {ends}" if effect.shown else f"{NO_EFFECT} {ends}"


def _proved(known: Mapping[str, Effect]) -> str:
    """Whether the right state is better than every state in its place."""
    found = [known[control] for control in CONTROLS if control in known]
    return "yes" if found and all(each.difference.low > 0 for each in found) else NO_EFFECT


def _of(each: Cell | Effect | Cost) -> str:
    return f"{each.task}, {each.size}" + (f", {each.others} after" if each.others else "")


def _counted(task: str) -> str:
    return "facts" if task in (VALUES, EVERYDAY, TRAINED) else "rules"


def _shown(cell: Cell | None) -> str:
    return "–" if cell is None else str(cell.share)


def _small(found: Interval) -> str:
    return f"{found.value:.4f} [{found.low:.4f}, {found.high:.4f}]"


def _line(what: str, where: Cell | Effect | Cost, arm: str, state: str, found: Interval) -> Line:
    return Line(
        what=what,
        task=where.task,
        size=where.size,
        others=where.others,
        arm=arm,
        state=state,
        value=found.value,
        low=found.low,
        high=found.high,
    )


def _grid(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    made = [f"| {' | '.join(heads)} |", f"| {' | '.join('---' for _ in heads)} |"]
    return "\n".join([*made, *(f"| {' | '.join(row)} |" for row in rows)])


def _finite(value: Any) -> Any:
    """Replace NaN by None, as NaN is not JSON."""
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and math.isnan(value) else value
