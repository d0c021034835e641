"""The optimiser of matrices takes PyTorch's steps."""

import pytest
import torch

from deltamem_agents.training.optimization import Muon, orthogonal


@pytest.mark.parametrize("shape", [(24, 24), (16, 40), (40, 16)])
def test_steps_are_those_of_torch(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    start, target = torch.randn(shape), torch.randn(shape)
    ends = []
    for make in (
        lambda p: Muon(p, lr=1e-2),
        lambda p: torch.optim.Muon(p, lr=1e-2, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"),
    ):
        matrix = torch.nn.Parameter(start.clone())
        optimizer = make([matrix])
        for _ in range(10):
            optimizer.zero_grad()
            (matrix - target).square().sum().backward()
            optimizer.step()
        ends.append(matrix.detach())
    ours, theirs = ends
    assert (ours - theirs).norm() / (ours - start).norm() < 0.03  # theirs is bfloat16
    assert (ours - target).norm() < (start - target).norm()


def test_singular_values_are_about_one() -> None:
    torch.manual_seed(1)
    values = torch.linalg.svdvals(orthogonal(torch.randn(12, 30)))
    assert values.min() > 0.5 and values.max() < 1.5
