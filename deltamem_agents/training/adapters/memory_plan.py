"""Estimates a run's peak memory before it starts, from what short forwards save for their backward pass.

What a row of T tokens saves is a T + b T², the square being attention's; a and b are measured with two short rows, for
writes and for questions. The backbone itself, the optimizer and the logits are counted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from deltamem_agents.training.adapters.collation import EpisodeBatch
from deltamem_agents.training.adapters.episode_loss import EpisodeLoss

SHORT = (64, 128)  # tokens of the two rows
LOGITS = 3  # copies of the logits: themselves, their log-softmax, its gradient
ADAM = 4  # float32 copies of an adapter: weights, gradient, two moments


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPlan:
    """Bytes at the peak of a training step.

    Args:
        backbone: The frozen weights.
        adapter: Weights, gradients and moments.
        activations: What the largest of the sampled batches saves for the backward pass.
        logits: Logits of that batch's replies, with what their loss needs.
        available: Free memory of the device, in which all but the backbone must fit.
    """

    backbone: int
    adapter: int
    activations: int
    logits: int
    available: int

    @property
    def peak(self) -> int:
        """All of it together."""
        return self.backbone + self.adapter + self.activations + self.logits

    @property
    def fits(self) -> bool:
        """Whether what is not there yet fits into what is free."""
        return self.peak - self.backbone <= self.available

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {megabytes(getattr(self, name))}" for name in self.__slots__ if name != "available")
        return f"peak memory about {megabytes(self.peak)} ({parts}); {megabytes(self.available)} free"


def megabytes(size: int) -> str:
    """A size for a person."""
    return f"{size / 2**20:,.0f} MiB" if size < 10 << 30 else f"{size / 2**30:,.1f} GiB"


def plan_memory(module: EpisodeLoss, batches: Sequence[EpisodeBatch], *, negatives: int) -> MemoryPlan:
    """Estimate the peak of training on batches like these."""
    module.train()

    def write(ids: Tensor) -> Any:
        _, state = module.attached.forward(write=True, input_ids=ids, use_cache=False, logits_to_keep=1)
        return state

    def ask(ids: Tensor) -> Any:
        with module.attached.bind(module.attached.zero_state(1)):
            return module.decoder(input_ids=ids, use_cache=False)

    writing, asking = _rate(module, write), _rate(module, ask)
    activations = max(
        sum(each["ids"].shape[0] * writing(each["ids"].shape[1]) for each in batch["writes"])
        + sum(each["ids"].shape[0] * asking(each["ids"].shape[1]) for each in batch["prompts"])
        for batch in batches
    )
    replies = max(len(batch["targets"]) for batch in batches)
    longest = max(sum(each["ids"].numel() for each in (*batch["prompts"], *batch["writes"])) for batch in batches)
    whole = module.vocabulary_size
    vocabulary = min(whole, negatives + longest) if negatives and module.sampling else whole
    return MemoryPlan(
        backbone=_size(module.backbone),
        adapter=ADAM * _size(module.adapter),
        activations=round(activations),
        logits=replies * vocabulary * 4 * LOGITS,
        available=_available(module.attached.device),
    )


def saved_bytes(module: EpisodeLoss, run: Callable[[], Any]) -> int:
    """Bytes that a forward saves for its backward pass, parameters not counted."""
    seen: dict[int, int] = {}
    weights = {each.untyped_storage().data_ptr() for each in module.parameters()}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        kept = run()  # keeps the graph alive, so that no address is used twice
        total = sum(seen.values())
        del kept
    return total


def _rate(module: EpisodeLoss, run: Callable[[Tensor], Any]) -> Callable[[int], float]:
    """Bytes that a row of T tokens saves, by T."""
    short, long = SHORT
    rows = [torch.ones(1, length, dtype=torch.int64, device=module.attached.device) for length in SHORT]
    sizes = [saved_bytes(module, partial(run, row)) for row in rows]
    square = max(0.0, (sizes[1] - sizes[0] * long / short) / (long * (long - short)))
    linear = sizes[0] / short - square * short
    return lambda length: linear * length + square * length * length


def _size(module: torch.nn.Module) -> int:
    return sum(each.numel() * each.element_size() for each in module.parameters())


def _available(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    import psutil

    return int(psutil.virtual_memory().available)
