"""Runs the measurement of what the state does, for any backbone and adapter, in one process."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from deltamem_agents import arguments
from deltamem_agents.bench.figures import machine
from deltamem_agents.bench.recall.facts import Advance
from deltamem_agents.bench.state.asking import OFF_WAYS, WAYS, Asker, Reply
from deltamem_agents.bench.state.controls import switched_off
from deltamem_agents.bench.state.cost import Cost, Prepared, costs, prepare
from deltamem_agents.bench.state.intervals import import_scipy_stats
from deltamem_agents.bench.state.report import StateResults
from deltamem_agents.bench.state.shares import by_kind, cells, effects
from deltamem_agents.bench.state.tasks import Task, fact_tasks, rule_tasks
from deltamem_agents.bench.state.telling import remember
from deltamem_agents.core import attach
from deltamem_agents.engine import Engine, Loaded, Rendering, load
from deltamem_agents.errors import ConfigError
from deltamem_agents.memory import DeltaMem
from deltamem_agents.memory.backbone import TRAINED_FAMILY

EPISODES = 100
RULE_SIZES, OTHERS = (1, 2, 4, 8), (0, 100)
FACT_SIZES = (1, 2, 4, 5, 8, 30)
QUICK: Mapping[str, Any] = {"rules": (1,), "others": (0, 10), "facts": (2,), "episodes": 4}  # for a first look
MOST_RULES, MOST_FACTS, MOST_OTHERS = 8, 64, 10_000  # more rules than 8 contradict


def run_state(
    *,
    rules: Sequence[int] = RULE_SIZES,
    others: Sequence[int] = OTHERS,
    facts: Sequence[int] = FACT_SIZES,
    episodes: int = EPISODES,
    seed: int = 7,
    options: Mapping[str, Any] | None = None,
    progress: Advance = lambda *_: None,
) -> StateResults:
    """Tell, ask and compare.

    Args:
        rules: Numbers of standing rules; none leaves them out.
        others: Numbers of other messages that are written after the rules.
        facts: Numbers of facts; none leaves them out.
        episodes: Of each task; intervals are over these.
        options: Options of `DeltaMem.open` that name the backbone and its adapter.

    Raises:
        ConfigError: A number is out of range, there is no backbone or adapter, or nothing is to be measured.
        MissingExtraError: SciPy is not installed.
        DeltaMemError: The backbone cannot be loaded or used; see `DeltaMem.open`.
    """
    arguments.whole(episodes, "episodes", 2, 100_000)
    for name, sizes, least, most in (
        ("rules", rules, 1, MOST_RULES),
        ("others", others, 0, MOST_OTHERS),
        ("facts told", facts, 1, MOST_FACTS),
    ):
        for each in sizes:
            arguments.whole(each, name, least, most)
    import_scipy_stats()  # before minutes are spent
    given = {"backbone": "tiny", "adapter": None, "device": "auto", "dtype": "auto", **(options or {})}
    embedder = given.pop("embedder", None)
    if given["backbone"] is None:
        raise ConfigError("what the state does needs a backbone; name one, such as 'tiny'")
    if not (rules or facts):
        raise ConfigError("nothing is to be measured; give numbers of rules or of facts")
    progress(f"loading {given['backbone']}", 0, 0)
    loaded = load(**given)
    trained = Rendering(loaded.tokenizer).name == TRAINED_FAMILY
    tasks = [*rule_tasks(rules, others, episodes, seed), *fact_tasks(facts, episodes, seed, trained=trained)]
    return measure(loaded, tasks, embedder=embedder, seed=seed, progress=progress)


def measure(
    loaded: Loaded,
    tasks: Sequence[Task],
    *,
    embedder: Any = None,
    seed: int = 7,
    progress: Advance = lambda *_: None,
) -> StateResults:
    """Tell and ask these tasks' episodes.

    Raises:
        MissingExtraError: SciPy is not installed.
        DeltaMemError: The backbone cannot be used; see `DeltaMem.open`.
    """
    measured, prepared = _asked(loaded, tasks, embedder, seed, progress)
    engine = Engine(switched_off(loaded))
    try:
        for replies, ready in zip(measured, prepared, strict=True):
            replies += ready.asker.replies(engine, OFF_WAYS, progress)
    finally:
        engine.close()
    pairs = list(zip(tasks, measured, strict=True))
    facts = machine(
        backbone=Path(loaded.name).name,
        adapter=loaded.adapter.fingerprint()[:12],
        torch=torch.__version__,
        threads=str(torch.get_num_threads()),
        episodes=str(max(len(task.episodes) for task in tasks)),
        seed=str(seed),
    )
    progress("computing intervals", 0, 0)
    return StateResults(
        machine=facts,
        cells=[each for task, replies in pairs for each in cells(task, replies)],
        effects=[each for task, replies in pairs for each in effects(task, replies)],
        costs=_costs(loaded, prepared, progress),
        kinds=list(by_kind(pairs)),
    )


def _asked(
    loaded: Loaded, tasks: Sequence[Task], embedder: Any, seed: int, progress: Advance
) -> tuple[list[list[Reply]], list[Prepared]]:
    """The replies in all ways but those with corrections switched off, and what is needed for the rest."""
    measured: list[list[Reply]] = []
    prepared: list[Prepared] = []
    with (
        tempfile.TemporaryDirectory() as folder,
        DeltaMem.open(
            model=loaded.model,
            tokenizer=loaded.tokenizer,
            adapter=loaded.adapter,
            url=f"sqlite:///{Path(folder) / 'memory.db'}",
            embedder=embedder,
        ) as mem,
    ):
        for task in tasks:
            told = remember(mem, task, seed=seed, progress=progress)
            asker = Asker(task, told, seed=seed)
            measured.append(asker.replies(mem.engine, WAYS, progress))
            prepared.append(prepare(mem.engine, asker, seed=seed))
    return measured, prepared


def _costs(loaded: Loaded, prepared: Sequence[Prepared], progress: Advance) -> list[Cost]:
    attached = attach(loaded.model, loaded.adapter)
    try:
        return [cost for each in prepared for cost in costs(attached, each, progress)]
    finally:
        attached.detach()
