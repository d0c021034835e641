"""A head start for a small backbone: initial weights that already look things up, instead of random ones.

Retrieval in context needs three things at once: tokens that know what was said just before them, attention that matches
one such context with another, and a copy of what stands there. With random weights none of them pays off before the
others exist, and on a CPU that takes longer than the whole training. So the first layers start with heads that look one
to four tokens back and add what they see to a small *context* subspace of the stream, the last ones with heads that
match contexts and copy the token that they find. Training may change all of it.

Measured on four facts with values from any pool: 0.33 of the answers were right after 2,300 steps from random weights
(Qwen3 layout), 0.75 after 100 steps from these.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from transformers import SmolLM3ForCausalLM

ROPE_THETA = 10_000.0
_CONSTANT = 0  # coordinate of the stream that is the same for every token; positions are read from it
_FAST = 6  # rotary pairs that turn fast enough to tell neighbours apart
_SHARPNESS = 22.0  # squared size of a positional query: one step off the wanted distance costs about e^-3
_NOISE = 0.3  # share of the random weights that is kept
_SEEN_GAIN = 0.04  # gain of a token that was looked back at; eight of them weigh about as much as the token itself
_MATCH_GAIN = 1.0  # gain of contexts in queries and keys: a quarter less in common costs about e^-3
_OWN_GAIN = 4.0  # gain of the token itself in a query, as it is the nearest context of the token to come
_COPY_GAIN = 0.2  # gain of a copied token: as large as the token's own embedding


@torch.no_grad()
def start_with_lookup(model: SmolLM3ForCausalLM, *, rotary: int, generator: torch.Generator) -> None:
    """Set the attention weights and the embedding's constant coordinate of a fresh model, in place.

    Args:
        rotary: Number of first layers, which look back; the others match and copy.
    """
    config = model.config
    width, heads = config.hidden_size, config.num_attention_heads
    size = width // heads
    basis = torch.linalg.qr(torch.randn(width, width, generator=generator)).Q
    basis[_CONSTANT] = 0
    blocks = basis.T.split(size)  # [size, width] each, nearly orthonormal
    seen, context = blocks[0], blocks[1]
    embedding = model.model.embed_tokens.weight
    embedding[:, _CONSTANT] = embedding.std() * math.sqrt(width) / 2
    for index, layer in enumerate(model.model.layers):
        attention = layer.self_attn
        for into in (attention.q_proj, attention.k_proj, attention.v_proj):
            into.weight *= _NOISE
        for out in (attention.o_proj, layer.mlp.down_proj):
            out.weight *= _NOISE / 10  # these write into the stream, where noise adds up
        copied = [block for block in blocks if block is not context]
        for head in range(heads):
            rows = slice(head * size, (head + 1) * size)
            query, key = attention.q_proj.weight[rows], attention.k_proj.weight[rows]
            if index < rotary:
                _look_back(query, key, 1 + head + index * heads)
                attention.v_proj.weight[rows] += seen
                attention.o_proj.weight[:, rows] += _SEEN_GAIN * context.T
            else:
                query += _MATCH_GAIN * (context + _OWN_GAIN * seen)
                key += _MATCH_GAIN * context
                if head < len(copied):
                    attention.v_proj.weight[rows] += copied[head]
                    attention.o_proj.weight[:, rows] += _COPY_GAIN * copied[head].T


def _look_back(query: Tensor, key: Tensor, distance: int) -> None:
    """Make a head [size, width] attend ``distance`` tokens back, whatever token is there."""
    half = query.shape[0] // 2
    pairs = torch.arange(_FAST)
    angle = distance * ROPE_THETA ** (-pairs / half)
    strength = math.sqrt(_SHARPNESS) / 3.0  # the constant coordinate is about 3 after a layer's norm
    query[pairs, _CONSTANT] += strength
    key[pairs, _CONSTANT] += strength * torch.cos(angle)
    key[pairs + half, _CONSTANT] += strength * torch.sin(angle)
