"""Memories on the bundled model, in a database of the test's own, without an embedder unless a test asks for one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deltamem_agents import DeltaMem

Opener = Callable[..., DeltaMem]


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'memory.db'}"


@pytest.fixture
def open_mem(url: str) -> Iterator[Opener]:
    """Open a memory; all that were opened are closed after the test."""
    opened: list[DeltaMem] = []

    def open_one(**options: object) -> DeltaMem:
        mem = DeltaMem.open("tiny", **({"url": url, "embedder": False} | options))  # type: ignore[arg-type]
        opened.append(mem)
        return mem

    yield open_one
    for mem in opened:
        mem.close()


@pytest.fixture
def mem(open_mem: Opener) -> DeltaMem:
    return open_mem()


def _distance(a: dict, b: dict) -> float:
    import torch

    assert a.keys() == b.keys() and a
    difference = torch.cat([(a[key] - b[key]).flatten() for key in a])
    return float(difference.norm() / torch.cat([b[key].flatten() for key in b]).norm())


@pytest.fixture
def distance() -> Callable[[dict, dict], float]:
    """‖a − b‖₂ / ‖b‖₂ over all layers of two states."""
    return _distance
