"""Fifty turns in each framework, with a failing embedder and long results of tools: `tests/soak/integrations.py`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from deltamem_agents import DeltaMem

SOAK = Path(__file__).parents[1] / "soak"


@pytest.fixture(scope="module")
def integrations() -> Iterator[ModuleType]:
    sys.path.insert(0, str(SOAK))
    try:
        import integrations as module

        yield module
    finally:
        sys.path.remove(str(SOAK))


@pytest.mark.slow  # fifty turns, each of several transactions
@pytest.mark.filterwarnings("ignore:RunnableWithMessageHistory is deprecated")
@pytest.mark.parametrize("kind", ["function", "react", "chat", "agent", "history"])
async def test_every_reply_and_every_message(integrations: ModuleType, tmp_path: Path, kind: str) -> None:
    embedder = integrations.FailingEmbedder()
    with DeltaMem.open(backbone=None, url=f"sqlite:///{tmp_path / 'memory.db'}", embedder=embedder.embed) as mem:
        found = await integrations.talk(mem, kind, turns=50, seed=1)
    assert found.amiss == []
    assert embedder.failed > 3 and len(found.said) > 40 and len(found.gone) > 5
