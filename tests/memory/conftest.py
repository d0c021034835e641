"""Memories on the bundled model, in a database of the test's own, without an embedder unless a test asks for one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path

import pytest

from deltamem_agents import DeltaMem
from deltamem_agents.core import Adapter

Opener = Callable[..., DeltaMem]


@pytest.fixture(scope="module", autouse=True)
def _small_model(small_instead_of_tiny: None) -> None:
    pass


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'memory.db'}"


@pytest.fixture
def open_mem(url: str) -> Iterator[Opener]:
    """Open a memory; all that were opened are closed after the test."""
    opened: list[DeltaMem] = []

    def open_one(**options: object) -> DeltaMem:
        mem = DeltaMem.open(**({"url": url, "embedder": False} | options))  # type: ignore[arg-type]
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


@pytest.fixture(scope="session")
def adapters() -> Callable[[str], Adapter]:
    """Adapters of the bundled backbone by what they write, with corrections large enough to see."""
    import torch
    from transformers import AutoModelForCausalLM

    from deltamem_agents import tiny
    from deltamem_agents.core import DeltaMemConfig, new_adapter

    @cache
    def build_for(folder: Path, write: str) -> Adapter:
        backbone = AutoModelForCausalLM.from_pretrained(folder, dtype="float32")
        config = DeltaMemConfig(rank=8, write=write, write_length=96)  # type: ignore[arg-type]
        adapter = new_adapter(backbone, config, seed=3)
        generator = torch.Generator().manual_seed(4)
        with torch.no_grad():
            for parameter in adapter.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
        return adapter

    return lambda write: build_for(tiny.FOLDER, write)


@pytest.fixture
def runs() -> Iterator[Callable[[DeltaMem], list[int]]]:
    """Tokens of each forward, from now on."""
    with ExitStack() as watching:

        def watch(mem: DeltaMem) -> list[int]:
            from tests.faulty import before_forwards

            seen: list[int] = []
            watching.enter_context(before_forwards(mem.engine, lambda ids: seen.append(ids.shape[1])))
            return seen

        yield watch
