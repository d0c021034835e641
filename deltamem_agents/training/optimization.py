"""The optimizer, learning rate and precision of a training step: Muon (Jordan et al., 2024) in float32.

`torch.optim.Muon` runs it in bfloat16 on every device. On a processor that has to emulate bfloat16 (AMD Zen 3, AVX2
only), it took three quarters of a training step of the bundled model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch

from deltamem_kernels import native_bfloat16

_COEFFICIENTS = (3.4445, -4.775, 2.0315)  # of the quintic that is steepest at zero while it stays bounded
_STEPS = 5


class Muon(torch.optim.Optimizer):
    """Orthogonalises each matrix's momentum; its step has the size of AdamW's (0.2 √max(rows, columns))."""

    def __init__(self, matrices: Iterable[torch.nn.Parameter], *, lr: float, momentum: float = 0.95) -> None:
        super().__init__(matrices, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """Take one step, with Nesterov momentum."""
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            for matrix in group["params"]:
                if matrix.grad is None:
                    continue
                mean = self.state[matrix].setdefault("momentum", torch.zeros_like(matrix))
                mean.lerp_(matrix.grad, 1 - group["momentum"])
                update = orthogonal(matrix.grad.lerp(mean, group["momentum"]))
                matrix.sub_(update, alpha=group["lr"] * 0.2 * max(matrix.shape) ** 0.5)
        return loss


def orthogonal(matrix: torch.Tensor) -> torch.Tensor:
    """Roughly the nearest matrix [M, N] with orthogonal rows or columns: singular values between 0.5 and 1.5."""
    a, b, c = _COEFFICIENTS
    wide = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    wide = wide / wide.norm().clamp(min=1e-7)
    for _ in range(_STEPS):
        gram = wide @ wide.T
        wide = torch.addmm(wide, torch.addmm(gram, gram, gram, beta=b, alpha=c), wide, beta=a)
    return wide.T if matrix.shape[0] > matrix.shape[1] else wide


def mixed_precision() -> torch.autocast:
    """Autocast to bfloat16 if the processor supports it; otherwise a context that does nothing.

    Emulated, a bfloat16 product took 43 times as long as one in float32 (AMD Zen 3, AVX2 only).
    """
    return torch.autocast("cpu", torch.bfloat16, enabled=native_bfloat16())


@dataclass(frozen=True, slots=True)
class Progress:
    """State after ``step`` of ``steps``: loss, and the share of answer tokens predicted right in that batch."""

    step: int
    steps: int
    loss: float
    right: float


def learning_rate(step: int, steps: int, peak: float, *, warmup: int = 50) -> float:
    """Rise linearly to ``peak`` over ``warmup`` steps (at most a tenth of all), then fall linearly to 2 % of it."""
    warmup = max(1, min(warmup, steps // 10))
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * max(0.02, 1 - (step - warmup) / max(1, steps - warmup))
