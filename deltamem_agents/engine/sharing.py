"""Shares one engine among all users of the same backbone and adapter: the weights are in memory once per process."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from pathlib import Path
from typing import TYPE_CHECKING

from deltamem_agents.processes import ProcessLock

if TYPE_CHECKING:
    from deltamem_agents.engine.engine import Engine

_lock = ProcessLock()
_loading: dict[Hashable, ProcessLock] = {}
_engines: dict[Hashable, tuple[Engine, int]] = {}  # engine and number of its users


def shared(key: Hashable, make: Callable[[], Engine]) -> Engine:
    """Return the usable engine for this key, or make one; call `release` once per call.

    Args:
        key: Everything that the engine depends on.
    """
    with _lock:
        loading = _loading.setdefault(key, ProcessLock())
    with loading:  # concurrent callers load only once
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
    """A value that changes when the files of a folder change; empty if it is not a local folder."""
    if folder is None or not Path(folder).is_dir():
        return ()
    files = sorted(each for each in Path(folder).rglob("*") if each.is_file())
    return tuple((str(each), each.stat().st_mtime_ns, each.stat().st_size) for each in files)


def release(engine: Engine) -> None:
    """Close an engine, unless it is shared and still in use."""
    with _lock:
        key = next((key for key, (each, _) in _engines.items() if each is engine), None)
        if key is not None:
            users = _engines[key][1] - 1
            if users:
                _engines[key] = engine, users
                return
            del _engines[key]
    engine.close()
