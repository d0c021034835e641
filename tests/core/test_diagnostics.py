"""Figures of a state against values worked out by hand, and on an adapter attached to a small model."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from deltamem_agents.core.diagnostics import fading, measure, saturation
from deltamem_agents.core.layer import Writes


def writes(keys: Tensor, values: Tensor, *, keep: float = 1.0, gate: float = 1.0) -> Writes:
    """[H, T, R] each; ``gate`` erases and writes."""
    same = torch.full_like(keys, gate)
    return Writes(keys, values, torch.full_like(keys, keep), same, same)


@pytest.mark.parametrize(
    ("matrices", "expected"),
    [
        (torch.zeros(4, 4), 0.0),
        (torch.eye(4), 1.0),
        (5 * torch.eye(4), 1.0),
        (torch.ones(4, 4), 0.25),
        (torch.diag(torch.tensor([1.0, 1.0, 0.0, 0.0])), 0.5),
        (torch.stack([torch.eye(4), torch.ones(4, 4)]), 0.625),
        (torch.stack([torch.eye(4), torch.zeros(4, 4)]), 1.0),  # a head that holds nothing does not count
    ],
)
def test_saturation(matrices: Tensor, expected: float) -> None:
    assert saturation(matrices) == pytest.approx(expected, abs=1e-6)
    assert measure({"a": matrices})["a"].norm == pytest.approx(float(matrices.norm()))


def test_orthogonal_writes_do_not_interfere() -> None:
    keys, values = torch.eye(4).unsqueeze(0), torch.randn(1, 4, 4)
    interference, _ = fading(writes(keys, values), torch.zeros(1, 4, 4))
    assert interference == pytest.approx(0.0, abs=1e-6)


def test_a_key_written_again_loses_its_first_value() -> None:
    keys = torch.eye(4)[[0, 0]].unsqueeze(0)
    values = torch.tensor([[[3.0, 0, 0, 0], [0, 4.0, 0, 0]]])
    interference, _ = fading(writes(keys, values), torch.zeros(1, 4, 4))
    assert interference == pytest.approx(5.0 / 7.0)  # |(0,4) − (3,0)| lost of 3 + 4 written


@pytest.mark.parametrize("keep", [0.5, 0.9, 0.99])
def test_half_life_of_a_state_that_only_fades(keep: float) -> None:
    keys, values = torch.nn.functional.normalize(torch.randn(1, 20, 8), dim=-1), torch.randn(1, 20, 8)
    faded = writes(keys, values, keep=keep)._replace(erase=torch.zeros(1, 20, 8))
    _, half_life = fading(faded, torch.randn(1, 8, 8))
    assert half_life == pytest.approx(math.log(2) / -math.log(keep), rel=1e-4)


def test_nothing_fades_without_gates() -> None:
    keys, values = torch.eye(4).unsqueeze(0), torch.randn(1, 4, 4)
    untouched = writes(keys, values)._replace(erase=torch.zeros(1, 4, 4))
    assert fading(untouched, torch.randn(1, 4, 4))[1] == math.inf
    assert fading(writes(keys, values), torch.randn(1, 4, 4))[1] == 0.0  # every direction was overwritten


def test_what_is_masked_is_not_written() -> None:
    keys, values = torch.eye(4)[[0, 0, 1]].unsqueeze(0), torch.randn(1, 3, 4)
    mask = torch.tensor([[True, False, True]])
    assert fading(writes(keys, values), torch.zeros(1, 4, 4), mask)[0] == pytest.approx(0.0, abs=1e-6)
    assert fading(writes(keys, values), torch.zeros(1, 4, 4), mask & False) == (None, None)
