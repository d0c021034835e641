"""The folder of a run: what is trained on what, checkpoints, and in the end the adapter.

It holds ``run.json`` and ``checkpoints/`` until the run has ended. Where it holds an interrupted run of the same
settings, that run goes on from its last checkpoint, to the same losses.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deltamem_agents.core import Adapter, save_adapter
from deltamem_agents.core.files import CONFIG_FILE
from deltamem_agents.errors import ConfigError, TrainingFileError, shown
from deltamem_agents.training.adapters.card import write_card
from deltamem_agents.training.adapters.trainer import drop_incomplete, last_checkpoint

RUN_FILE, SECONDS_FILE, CHECKPOINTS = "run.json", "seconds.json", "checkpoints"


def check_out(folder: Path) -> None:
    """Check that a run can begin in a folder, or go on in it.

    Raises:
        ConfigError: The folder holds something that is not an interrupted run.
    """
    if not folder.exists():
        return
    if (folder / CONFIG_FILE).is_file():
        raise ConfigError(
            f"{str(folder)!r} holds a trained adapter; name a new folder, and begin from this adapter with "
            f"begin_from={str(folder)!r}"
        )
    if not folder.is_dir() or (any(folder.iterdir()) and not (folder / RUN_FILE).is_file()):
        raise ConfigError(f"{str(folder)!r} exists and is not an empty folder; name a new one")


def begin(folder: Path, record: Mapping[str, Any]) -> Path | None:
    """Write down what is trained; return the checkpoint to go on from, if the folder holds one of the same run.

    Raises:
        ConfigError: It holds a run of other settings.
        TrainingFileError: The folder cannot be written.
    """
    path = folder / RUN_FILE
    record = json.loads(json.dumps(record))  # tuples become lists
    try:
        if not path.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            partial = path.with_suffix(".partial")
            partial.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
            partial.replace(path)
            return None
        earlier = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TrainingFileError(f"{str(path)!r} cannot be written or read: {error}; name another folder") from error
    changed = list(_changes(earlier, record))
    if changed:
        raise ConfigError(
            f"{str(folder)!r} holds an interrupted run with another {changed[0]}; give the same settings to go on with "
            "it, or name a new folder"
        )
    drop_incomplete(folder / CHECKPOINTS)
    return last_checkpoint(folder / CHECKPOINTS)


def _changes(earlier: Any, now: Any, name: str = "") -> list[str]:
    """What differs between two records, with both values."""
    if isinstance(earlier, Mapping) and isinstance(now, Mapping):
        keys = dict.fromkeys([*earlier, *now])
        return [one for key in keys for one in _changes(earlier.get(key), now.get(key), f"{name} {key}".strip())]
    return [] if earlier == now else [f"{name}: {shown(earlier)} then, {shown(now)} now"]


def finish(folder: Path, adapter: Adapter, facts: Mapping[str, Any]) -> None:
    """Write the adapter and its card, and remove what only an interrupted run needs.

    Raises:
        AdapterFileError, TrainingFileError: They cannot be written; the checkpoints are kept.
    """
    try:
        write_card(folder, facts)
    except OSError as error:
        raise TrainingFileError(
            f"the card cannot be written to {str(folder)!r}: {error}; make room and run the same command again"
        ) from error
    save_adapter(adapter, folder)
    shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
    for name in (RUN_FILE, SECONDS_FILE):
        (folder / name).unlink(missing_ok=True)
