"""Keys and values of several rows in one cache: rows side by side, padded on the left, and taken apart again.

A row's mask [L] says which columns of the cache are its tokens; what lies in the others is never attended to. Caches
here keep every token of every layer, those with a sliding window too: their masks see to it.
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
    return [(layer.keys, layer.values) for layer in cache.layers]  # type: ignore[misc,union-attr]  # all are full layers


def cache_of(layers: Pairs) -> DynamicCache:
    """A cache that begins with these keys and values."""
    return DynamicCache([(keys, values) for keys, values in layers])


def row(cache: DynamicCache, index: int, mask: Tensor) -> Pairs:
    """One row's own tokens [1, H, n, D], copied; ``mask`` [L] bool says which columns they are."""
    columns = mask.nonzero().squeeze(-1)
    return [
        (keys[index : index + 1].index_select(2, columns), values[index : index + 1].index_select(2, columns))
        for keys, values in pairs(cache)
    ]


def rows(cache: DynamicCache, kept: Sequence[int], first: int) -> DynamicCache:
    """The given rows, without the first columns."""
    index = torch.tensor(kept, device=pairs(cache)[0][0].device)
    return cache_of(
        [
            (keys[:, :, first:].index_select(0, index), values[:, :, first:].index_select(0, index))
            for keys, values in pairs(cache)
        ]
    )


def side_by_side(parts: Sequence[Pairs]) -> DynamicCache:
    """Rows of several caches in one, padded on the left with zeros to the longest."""
    longest = max(part[0][0].shape[2] for part in parts)
    layers: Pairs = []
    for layer in zip(*parts, strict=True):
        keys = torch.cat([_padded(each[0], longest) for each in layer])
        values = torch.cat([_padded(each[1], longest) for each in layer])
        layers.append((keys, values))
    return cache_of(layers)


def padded_mask(masks: Sequence[Tensor]) -> Tensor:
    """Masks [B_i, L_i] of several caches as one [ΣB_i, L], padded on the left with False."""
    longest = max(mask.shape[1] for mask in masks)
    return torch.cat([F.pad(mask, (longest - mask.shape[1], 0)) for mask in masks])


def _padded(tensor: Tensor, length: int) -> Tensor:
    return F.pad(tensor, (0, 0, length - tensor.shape[2], 0)) if tensor.shape[2] < length else tensor
