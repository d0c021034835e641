"""A head start for an adapter: the linear attention nearest to what its layers' own heads do.

Where a backbone finds things in its context by attention without positions, softmax(q·k) v, the delta rule with the
same q, k and v is the linear form of the same look-up, with the context folded into the state. So a layer's memory
starts with the best rank-r factors of its heads' QK and OV products instead of random projections, and forgets little.

Measured on the bundled backbone: after 300 steps from random projections, no held-out fact came back from the state;
from this start, one fact is answered within 50 steps.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedModel

from deltamem_agents.core import Adapter

_SIZE = 0.5  # root mean square of queries and keys before tanh, where tanh is still nearly linear
_KEEP_BIAS = 5.0  # λ = 0.993: half of a state is left after a hundred tokens that do not write to it
_STRENGTH = 2.0  # strength of the correction: one fact among many tokens is read back much smaller than it was written


@torch.no_grad()
def start_as_linear_attention(adapter: Adapter, model: PreTrainedModel) -> None:
    """Set the projections and the output correction of a fresh adapter with one state head, in place."""
    config = adapter.config
    heads = model.config.num_attention_heads
    for index in adapter.layer_indices:
        attention = model.get_submodule(f"model.layers.{index}.self_attn")
        parts = {
            name: attention.get_parameter(f"{name}_proj.weight").float().chunk(heads, dim=1 if name == "o" else 0)
            for name in ("q", "k", "v", "o")
        }
        match = sum((q.T @ k for q, k in zip(parts["q"], parts["k"], strict=True)), torch.zeros(()))
        copy = sum((o @ v for o, v in zip(parts["o"], parts["v"], strict=True)), torch.zeros(()))
        queries, keys = _factors(match, config.rank)
        outputs, values = _factors(copy, config.rank)
        layer = adapter.layer(index)
        layer.memory[: config.rank] = queries.T * (_SIZE / _typical(queries))
        layer.memory[config.rank : 2 * config.rank] = keys * (_SIZE / _typical(keys.T))
        layer.memory[2 * config.rank : 3 * config.rank] = values
        layer.corrections["o"].copy_(outputs * (_STRENGTH * config.rank / config.alpha))
        layer.gate_bias[config.gate_width :] = _KEEP_BIAS


def _factors(product: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The best factors [out, rank] and [rank, in] of a product [out, in]."""
    left, sizes, right = torch.linalg.svd(product)
    root = sizes[:rank].sqrt()
    return left[:, :rank] * root, root.unsqueeze(1) * right[:rank]


def _typical(projection: Tensor) -> float:
    """Root mean square of the output of a projection [in, rank] for inputs of root mean square 1."""
    return float(projection.square().sum(0).mean().sqrt())
