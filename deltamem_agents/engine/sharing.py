"""One engine for all who ask for the same backbone and adapter: its weights are in memory once a process."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from pathlib import Path
from typing import TYPE_CHECKING

from deltamem_agents.processes import ProcessLock

if TYPE_CHECKING:
    from deltamem_agents.engine.engine import Engine

_lock = ProcessLock()
_loading: dict[Hashable, ProcessLock] = {}
_engines: dict[Hashable, tuple[Engine, int]] = {}  # and how many use it


def shared(key: Hashable, make: Callable[[], Engine]) -> Engine:
    """The engine of this key, made where there is none that works; `release` it once for each call.

    Args:
        key: Whatever the engine depends on.
    """
    with _lock:
        loading = _loading.setdefault(key, ProcessLock())
    with loading:  # two that ask at once load once
        with _lock:
            engine, users = _engines.get(key, (None, 0))
            if engine is not None and engine.usable:
                _engines[key] = engine, users + 1
                return engine
        engine = make()
        with _lock:
            _engines[key] = engine, 1
        return engine


def stamp(folder: str | Path | None) -> tuple[Hashable, ...]:
    """What changes when the files of a folder do; nothing for what is no folder here."""
    if folder is None or not Path(folder).is_dir():
        return ()
    files = sorted(each for each in Path(folder).rglob("*") if each.is_file())
    return tuple((str(each), each.stat().st_mtime_ns, each.stat().st_size) for each in files)


def release(engine: Engine) -> None:
    """Close an engine, unless it is shared and others use it."""
    with _lock:
        key = next((key for key, (each, _) in _engines.items() if each is engine), None)
        if key is not None:
            users = _engines[key][1] - 1
            if users:
                _engines[key] = engine, users
                return
            del _engines[key]
    engine.close()
