"""The result of a run, its model card, and ``training.json`` with the same facts as data."""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

from deltamem_agents.core import Adapter, Calibration
from deltamem_agents.training.adapters.measuring import ARMS, Measured
from deltamem_agents.training.adapters.memory_plan import MemoryPlan

NOT_STATED = "not stated"
CARD_FILE, FACTS_FILE = "README.md", "training.json"
_LICENCE = re.compile(r"^license(?:_name)?:\s*(.+?)\s*$", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedAdapter:
    """Result of a run.

    Args:
        folder: Holds the adapter.
        steps: Steps that the run took; fewer than configured if it stopped early.
        best_step: The step whose weights were kept.
        seconds: Of training, over all processes that took part one after another.
        losses: Reported losses by step.
        measured: The kept adapter on held-out episodes; empty if nothing was evaluated.
        plan: Memory, as estimated.
    """

    folder: Path
    steps: int
    best_step: int
    seconds: float
    losses: Mapping[int, float]
    measured: tuple[Measured, ...]
    plan: MemoryPlan


def facts_of(adapter: Adapter, record: Mapping[str, Any], result: TrainedAdapter, backbone: str) -> dict[str, Any]:
    """Everything that the card says, JSON-ready."""
    return {
        **record,
        "name": backbone,
        "licence": licence(backbone),
        "steps": result.steps,
        "best_step": result.best_step,
        "minutes": round(result.seconds / 60, 1),
        "peak_memory": result.plan.peak,
        "machine": {
            "processor": platform.machine(),
            "threads": torch.get_num_threads(),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "adapter": {
            "layers": list(adapter.layer_indices),
            "parameters": sum(each.numel() for each in adapter.parameters()),
            "state_bytes": adapter.state_bytes(),
            "fingerprint": adapter.fingerprint(),
        },
        "calibration": None if adapter.calibration == Calibration() else adapter.calibration.as_dict(),
        "losses": {str(step): round(loss, 6) for step, loss in result.losses.items()},
        "measured": [
            {
                "kind": each.kind,
                "arm": each.arm,
                "right": round(each.right, 4),
                "loss": round(each.loss, 4),
                "questions": each.questions,
            }
            for each in result.measured
        ],
    }


def write_card(folder: Path, facts: Mapping[str, Any]) -> None:
    """Write both files.

    Raises:
        OSError: They cannot be written.
    """
    (folder / FACTS_FILE).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    (folder / CARD_FILE).write_text(card(facts), encoding="utf-8")


def card(facts: Mapping[str, Any]) -> str:
    """The text of the card."""
    return "\n\n".join([_head(facts), _table(facts["measured"]), _training(facts)]) + "\n"


def licence(backbone: str) -> str:
    """The licence in the metadata of a backbone's README, if it is in its folder and says one."""
    try:
        text = (Path(backbone) / "README.md").read_text(encoding="utf-8", errors="replace")
    except (OSError, ValueError):
        return NOT_STATED
    head = text[3:].partition("\n---")[0] if text.startswith("---") else ""
    found = _LICENCE.search(head)
    return found[1].strip("'\"") if found else NOT_STATED


def _head(facts: Mapping[str, Any]) -> str:
    adapter, shape = facts["adapter"], facts["config"]["adapter"]
    layers = adapter["layers"]
    return (
        f"# δ-mem adapter for {facts['name']}\n\n"
        f"{adapter['parameters']:,} parameters: rank {shape['rank']}, corrections of "
        f"{' and '.join(shape['corrections'])}, layers {layers[0]} to {layers[-1]}, one write a {shape['write']}. An "
        f"agent's state has {adapter['state_bytes']:,} bytes. It answers with writes off. It fits this one checkpoint "
        f"of its backbone and no other.\n\nLicence of the backbone: {facts['licence']}."
    )


def _table(measured: list[Mapping[str, Any]]) -> str:
    if not measured:
        return "## Recall\n\nNot measured."
    found = {(each["kind"], each["arm"]): each for each in measured}
    kinds = list(dict.fromkeys(each["kind"] for each in measured))
    rows = ["| kind | questions | state | zero state | another episode's state |", "| --- | --- | --- | --- | --- |"]
    for kind in kinds:
        cells = [f"{found[kind, arm]['right']:.3f}" for arm in ARMS]
        rows.append(f"| {kind} | {found[kind, 'state']['questions']} | {' | '.join(cells)} |")
    return (
        "## Recall\n\n"
        "Share of held-out questions whose greedy reply is exactly the expected one, token by token, from the state "
        "alone; of replies that should be unchanged, of those that are. Two controls: the zero state, and the state of "
        "another episode.\n\n" + "\n".join(rows)
    )


def _training(facts: Mapping[str, Any]) -> str:
    config, machine, data = facts["config"], facts["machine"], facts["data"]
    source = ", ".join(f"{name} {value}" for name, value in data.items())
    return (
        "## Training\n\n"
        f"Data: {source}. Seed {config['seed']}. {facts['steps']} of {config['steps']} steps of {config['episodes']} "
        f"episodes × {config['accumulation']}, the weights of step {facts['best_step']} kept; {facts['minutes']} "
        f"minutes on {machine['threads']} threads ({machine['processor']}, Python {machine['python']}, torch "
        f"{machine['torch']}, transformers {machine['transformers']}). Learning rate {config['learning_rate']}, "
        f"{config['schedule']}, warm-up {config['warmup']}. Confidence is "
        f"{'not calibrated' if facts['calibration'] is None else 'calibrated on held-out episodes'}. "
        "`training.json` holds all settings, losses and figures."
    )
