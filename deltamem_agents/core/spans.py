"""Write spans of sentence and message adapters: which tokens are averaged into which write.

Spans are numbered by ascending id within a row; a token with id −1 belongs to none. The memory projection is linear, so
the mean of projected tokens is the projection of the mean: averaging happens in the few projected columns.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from deltamem_agents.core.config import WriteUnit
from deltamem_agents.errors import ConfigError

_NEVER = torch.iinfo(torch.int64).max


@dataclass(frozen=True, slots=True)
class SpanPlan:
    """Spans of one forward: B rows of T tokens, at most M spans per row.

    Args:
        slot: [B, T] int64, the token's span in 0 to M − 1, or M for none.
        count: [B, M] float32, number of tokens in each span.
        mask: [B, M] bool, the spans that exist.
    """

    slot: Tensor
    count: Tensor
    mask: Tensor

    def pool(self, values: Tensor) -> Tensor:
        """Mean of ``values`` [B, T, P] over each span: [B, M, P]; an absent span is zero."""
        batch, _, width = values.shape
        slot = self.slot.to(values.device)
        sums = values.new_zeros(batch, self.count.shape[1] + 1, width)
        sums = sums.scatter_add(1, slot.unsqueeze(-1).expand(-1, -1, width), values)
        return sums[:, :-1] / self.count.to(values.device).clamp_min(1.0).unsqueeze(-1)


def plan_spans(
    write: WriteUnit,
    message_ids: Tensor | None,
    sentence_ids: Tensor | None,
    valid: Tensor | None,
    shape: tuple[int, int],
    device: torch.device,
) -> SpanPlan | None:
    """Spans of one forward, or None if writes are per token (a token adapter, or no ids at all).

    Ids [B, T] on the CPU shorten the scan to the actual number of spans; on another device it has T slots, because
    counting would wait for the device.

    Raises:
        ConfigError: The ids that a sentence or message adapter needs are missing, or not whole numbers of ``shape``.
    """
    if write == "token" or (message_ids is None and sentence_ids is None):
        return None
    ids = sentence_ids if write == "sentence" else message_ids
    if ids is None:
        raise ConfigError(f"an adapter that writes per {write} needs {write}_ids; give one id per token, or no ids")
    for given in (message_ids, sentence_ids):
        if given is not None and (tuple(given.shape) != shape or given.is_floating_point()):
            raise ConfigError(
                f"span ids have shape {tuple(given.shape)} and dtype {given.dtype}; give whole numbers of shape {shape}"
            )
    known = ids.device.type == "cpu" and not torch.compiler.is_compiling()
    slots = _most_spans(ids) if known else shape[1]
    ids = ids.to(device=device, dtype=torch.int64)
    active = ids.ge(0)
    if write == "sentence" and message_ids is not None:
        active = active & message_ids.to(device).ge(0)
    if valid is not None:
        active = active & valid
    ordered, order = torch.where(active, ids, _NEVER).sort(dim=1, stable=True)
    steps = torch.zeros_like(ordered)
    steps[:, 1:] = ordered[:, 1:].ne(ordered[:, :-1])
    slot = torch.empty_like(ids).scatter(1, order, steps.cumsum(1))
    slot = torch.where(active, slot, slots)
    count = torch.zeros(shape[0], slots + 1, dtype=torch.float32, device=device).scatter_add(
        1, slot, torch.ones(shape, dtype=torch.float32, device=device)
    )
    count = count[:, :-1]
    return SpanPlan(slot, count, count.gt(0))


def _most_spans(ids: Tensor) -> int:
    """Largest number of distinct ids ≥ 0 in a row of CPU ids [B, T], at least 1."""
    return max((len(set(row) - {-1}) for row in ids.tolist()), default=1) or 1
