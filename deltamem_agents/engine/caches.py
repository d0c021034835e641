"""Keys and values of several rows in one cache: rows are padded on the left and joined, or taken apart again.

A row's mask [L] marks the cache columns that are its tokens; the others are never attended to. These caches keep every
token of every layer, even with a sliding window, which the attention mask enforces.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import DynamicCache

Pairs = list[tuple[Tensor, Tensor]]  # keys and values [B, H, L, D] of each layer


def pairs(cache: DynamicCache) -> Pairs:
    """Keys and values of each layer."""
    return [(layer.keys, layer.values) for layer in cache.layers]  # type: ignore[misc,union-attr]  # only full layers


def cache_of(layers: Pairs) -> DynamicCache:
    """Make a cache that begins with these keys and values."""
    return DynamicCache([(keys, values) for keys, values in layers])


def row(cache: DynamicCache, index: int, mask: Tensor) -> Pairs:
    """Copy one row's own tokens [1, H, n, D]; ``mask`` [L] bool marks their columns."""
    columns = mask.nonzero().squeeze(-1)
    return [
        (keys[index : index + 1].index_select(2, columns), values[index : index + 1].index_select(2, columns))
        for keys, values in pairs(cache)
    ]


def rows(cache: DynamicCache, kept: Sequence[int], first: int) -> DynamicCache:
    """The given rows, without the first ``first`` columns."""
    index = torch.tensor(kept, device=pairs(cache)[0][0].device)
    return cache_of(
        [
            (keys[:, :, first:].index_select(0, index), values[:, :, first:].index_select(0, index))
            for keys, values in pairs(cache)
        ]
    )


def side_by_side(parts: Sequence[Pairs]) -> DynamicCache:
    """Join the rows of several caches, padded on the left with zeros to the longest."""
    longest = max(part[0][0].shape[2] for part in parts)
    layers: Pairs = []
    for layer in zip(*parts, strict=True):
        keys = torch.cat([_padded(each[0], longest) for each in layer])
        values = torch.cat([_padded(each[1], longest) for each in layer])
        layers.append((keys, values))
    return cache_of(layers)


def padded_mask(masks: Sequence[Tensor]) -> Tensor:
    """Join the masks [B_i, L_i] of several caches as [ΣB_i, L], padded on the left with False."""
    longest = max(mask.shape[1] for mask in masks)
    return torch.cat([F.pad(mask, (longest - mask.shape[1], 0)) for mask in masks])


def _padded(tensor: Tensor, length: int) -> Tensor:
    return F.pad(tensor, (0, 0, length - tensor.shape[2], 0)) if tensor.shape[2] < length else tensor
