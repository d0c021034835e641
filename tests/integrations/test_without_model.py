"""Memory without a model: nothing of it imports torch, and importing the integrations costs little."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deltamem_agents import DeltaMem
from deltamem_agents.errors import ConfigError
from langchain_deltamem import ChatDeltaMem
from llama_index_deltamem import DeltaMemLLM, DeltaMemory

SECONDS = 1.0  # of processor, beyond the framework's own
ATTEMPTS = 3  # a busy machine makes one slow; it cannot make one fast
SCRIPT = Path(__file__).with_name("without_model.py")


@pytest.mark.parametrize("kind", ["memory", "langchain", "llama_index"])
def test_a_life_without_a_model_imports_no_torch_and_begins_fast(
    python: Callable[..., Any], tmp_path: Path, kind: str
) -> None:
    for attempt in range(ATTEMPTS):
        folder = tmp_path / str(attempt)
        folder.mkdir()
        done = python(str(SCRIPT), kind, str(folder))
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        assert found["heavy"] == []
        if found["ours"] <= max(SECONDS, found["framework"]):  # on a slower machine the framework is slower too
            return
    pytest.fail(f"importing takes {found['ours']:.2f} s of processor, the framework {found['framework']:.2f}")


@pytest.mark.parametrize("package", ["langchain_deltamem", "llama_index_deltamem", "deltamem_agents.engine"])
def test_every_public_name_is_there(package: str) -> None:
    module = __import__(package, fromlist=["__all__"])
    assert all(getattr(module, name) is not None for name in module.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = module.Nothing


@pytest.mark.parametrize(
    "make",
    [
        lambda mem: ChatDeltaMem(mem=mem, agent_id="alice"),
        lambda mem: DeltaMemLLM(mem, "alice"),
        lambda mem: DeltaMemory.from_defaults(mem, "alice", mode="state").get(input="Which colour?"),
    ],
)
def test_what_needs_the_model_says_so(tmp_path: Path, make: Callable[[DeltaMem], object]) -> None:
    with DeltaMem.open(None, url=f"sqlite:///{tmp_path / 'memory.db'}") as mem:
        mem.agent("alice").write([{"role": "user", "content": "My favourite colour is teal."}])
        with pytest.raises(ConfigError, match=r"needs a backbone.*backbone='tiny'"):
            make(mem)
