"""Runs of a few steps on a random backbone: interrupted ones go on to the same losses, and what goes wrong is told."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from deltamem_agents.core import DeltaMemConfig, load_adapter
from deltamem_agents.training.adapters.config import AdapterTrainingConfig
from deltamem_agents.training.adapters.data import Data, divided
from deltamem_agents.training.adapters.progress import AdapterProgress
from deltamem_agents.training.adapters.run import train_adapter_for

SHAPE = DeltaMemConfig(rank=4, couple_lambda=False, layers=(1, 2), write_length=64)
CONFIG = AdapterTrainingConfig(
    adapter=SHAPE,
    steps=8,
    episodes=3,
    questions=2,
    negatives=40,
    evaluation=4,
    checkpoint_every=2,
    log_every=1,
    warmup=2,
)


@pytest.fixture
def data(some_episodes) -> Data:
    episodes = [*some_episodes(10), *some_episodes(5, seed=9, held_out=True)]
    return divided(episodes, {"file": "test"}, seed=0, evaluation=4)


class Interrupted(Exception):
    pass


def interrupt_at(step: int):
    def on_progress(now: AdapterProgress) -> None:
        if now.loss is not None and now.step == step:
            raise Interrupted

    return on_progress


def run(small_backbone, tokenizer, data, out, config=CONFIG, **options: Any):
    return train_adapter_for((small_backbone(), tokenizer), data, out, config, **options)


def test_an_interrupted_run_goes_on_to_the_same_losses(small_backbone, tokenizer, data, tmp_path) -> None:
    whole = run(small_backbone, tokenizer, data, tmp_path / "whole")
    with pytest.raises(Interrupted):
        run(small_backbone, tokenizer, data, tmp_path / "parts", on_progress=interrupt_at(5))
    kept = sorted((tmp_path / "parts" / "checkpoints").glob("checkpoint-*"))
    assert [each.name for each in kept][-1] == "checkpoint-4"
    assert not list((tmp_path / "parts" / "checkpoints").rglob("model.safetensors"))
    torch.manual_seed(77)  # another process has other random states
    seen = []
    parts = run(small_backbone, tokenizer, data, tmp_path / "parts", on_progress=seen.append)
    assert min(now.step for now in seen) == 5
    assert parts.losses.keys() == whole.losses.keys() == set(range(1, 9))
    assert [parts.losses[n] for n in range(1, 9)] == pytest.approx([whole.losses[n] for n in range(1, 9)], abs=1e-6)
    ours, theirs = load_adapter(tmp_path / "parts"), load_adapter(tmp_path / "whole")
    assert ours.fingerprint() == theirs.fingerprint()
    assert [each.right for each in parts.measured] == [each.right for each in whole.measured]
    assert {each.name for each in (tmp_path / "parts").iterdir()} == {
        "README.md",
        "training.json",
        "deltamem_adapter.json",
        "deltamem_adapter.safetensors",
    }


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
