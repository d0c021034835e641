"""How well a state holds what was written: norm, saturation, interference, half-life and influence of each layer.

All figures come from the state itself and one segment that is run once more from the state before it. Nothing is
written to the given states.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from deltamem_agents.core.attachment import Attached
from deltamem_agents.core.layer import Writes
from deltamem_agents.core.state import State, state_key
from deltamem_kernels import delta_scan


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerHealth:
    """Figures of one layer's state.

    Args:
        norm: ‖S‖, the Frobenius norm over all heads.
        saturation: Effective rank over rank, 0 to 1: exp of the entropy of the squared singular values' shares,
            averaged over heads. At 1, every direction is used alike and a new write must overwrite an old one.
        interference: How far what the segment's keys read at its end is from what they read right after they were
            written: Σ‖S_T k_t − S_t k_t‖ / Σ‖S_t k_t‖. At 0, all reads back as written; at 1, as much is lost as
            was written. None if the segment wrote nothing.
        half_life: Tokens after which the segment leaves half of what the state held before it; infinite if nothing
            fades. None if the segment wrote nothing.
        influence: How far the state moves the residual stream after this layer, relative to a zero state:
            ‖h(S) − h(0)‖ / ‖h(0)‖ over the segment's tokens. Includes the influence of adapted layers below.
    """

    norm: float
    saturation: float
    interference: float | None = None
    half_life: float | None = None
    influence: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """The fields as JSON values; an infinite half-life is None."""
        found = asdict(self)
        if self.half_life is not None and not math.isfinite(self.half_life):
            found["half_life"] = None
        return found


def saturation(matrices: Tensor) -> float:
    """Effective rank over rank of [R, R] or [H, R, R], averaged over the heads that are not zero; 0 if all are.

    Source: Roy and Vetterli, "The effective rank", 2007, on squared singular values.
    """
    rank = matrices.shape[-1]
    energy = torch.linalg.svdvals(matrices.reshape(-1, rank, rank).double()).square()
    energy = energy[energy.sum(-1) > 0]
    if not len(energy):
        return 0.0
    shares = energy / energy.sum(-1, keepdim=True)
    return float(torch.special.entr(shares).sum(-1).exp().mean()) / rank


def measure(state: Mapping[str, Tensor]) -> dict[str, LayerHealth]:
    """Norm and saturation of each layer of a state without a batch axis, by module name."""
    return {
        name: LayerHealth(norm=float(matrices.norm()), saturation=saturation(matrices))
        for name, matrices in state.items()
    }


def examine(
    attached: Attached,
    before: Mapping[str, Tensor],
    ids: Sequence[int],
    message_ids: Sequence[int],
    sentence_ids: Sequence[int],
) -> dict[str, LayerHealth]:
    """All figures of the state that a segment leaves, by module name.

    Args:
        before: The state before the segment, without a batch axis.
        ids: The segment's tokens, at least one.
        message_ids, sentence_ids: The span of each token, as for `Attached.forward`.
    """
    adapter = attached.adapter
    with torch.inference_mode():
        start = {name: matrices.unsqueeze(0).to(attached.device) for name, matrices in before.items()}
        tokens = torch.tensor([list(ids)], device=attached.device)
        written = attached.write(start, tokens, torch.tensor([list(message_ids)]), torch.tensor([list(sentence_ids)]))
        steered, plain = _hidden(attached, written.state, tokens), _hidden(attached, None, tokens)
        found: dict[str, LayerHealth] = {}
        for index in adapter.layer_indices:
            name = state_key(index)
            layer, matrices = adapter.layer(index), written.state[name]
            projected, mask = F.linear(written.inputs[index].to(layer.memory.dtype), layer.memory), None
            if written.spans is not None:
                projected, mask = written.spans.pool(projected), written.spans.mask.to(projected.device)
                mask = mask.expand(layer.config.heads, -1)
            rank = layer.config.rank
            interference, half_life = fading(layer.writes(projected), start[name].reshape(-1, rank, rank), mask)
            if half_life is not None and mask is not None:  # of spans, in tokens
                half_life *= len(ids) / int(mask[0].sum())
            found[name] = LayerHealth(
                norm=float(matrices.norm()),
                saturation=saturation(matrices[0]),
                interference=interference,
                half_life=half_life,
                influence=_relative(steered[index + 1], plain[index + 1]),
            )
    return found


def fading(writes: Writes, before: Tensor, mask: Tensor | None = None) -> tuple[float | None, float | None]:
    """Interference, and the number of writes after which half of the state is left; see `LayerHealth`.

    Args:
        writes: Of one row: [H, T, R] each.
        before: [H, R, R], the state before them.
        mask: [H, T] bool, false for what is not written; None if all is.
    """
    if mask is not None and not mask.any():
        return None, None
    count = writes.keys.shape[1] if mask is None else int(mask[0].sum())
    earlier, after = delta_scan(writes.keys, *writes, before, mask=mask)  # S_{t-1} k_t, S_T
    strength = writes.keys.square().sum(-1, keepdim=True)
    fresh = writes.keep * earlier + (writes.write * writes.values - writes.erase * earlier) * strength  # S_t k_t
    lost = writes.keys @ after.mT - fresh
    if mask is not None:
        lost, fresh = lost[mask], fresh[mask]
    size = float(fresh.norm(dim=-1).sum())
    interference = float(lost.norm(dim=-1).sum()) / size if size else None
    held = before if before.any() else torch.eye(before.shape[-1], device=before.device).expand_as(before).contiguous()
    nothing = torch.zeros_like(writes.values)
    _, faded = delta_scan(writes.keys, *writes._replace(values=nothing, write=nothing), held, mask=mask)
    left = float(faded.norm() / held.norm())
    half_life = count * math.log(2) / -math.log(left) if 0 < left < 1 else math.inf if left else 0.0
    return interference, half_life


def _hidden(attached: Attached, state: State | None, tokens: Tensor) -> Sequence[Tensor]:
    output, _ = attached.forward(
        state, write=False, input_ids=tokens, output_hidden_states=True, use_cache=False, logits_to_keep=1
    )
    hidden: Sequence[Tensor] = output.hidden_states
    return hidden


def _relative(moved: Tensor, base: Tensor) -> float:
    size = float(base.float().norm())
    return float((moved.float() - base.float()).norm()) / size if size else 0.0
