"""Which tokens of a forward are real, derived from the decoder's mask. Never waits for a device."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from deltamem_agents.errors import StateMismatchError, UnsupportedModelError

# A bias on a token's attention to itself is small; every way of masking subtracts far more than this.
_MASKED_BELOW = -1e3


def token_validity(mask: object, cache: object, batch: int, length: int, device: torch.device) -> Tensor | None:
    """Validity [B, T] bool of the current tokens; None if all are valid.

    Args:
        mask: None, a 2-D mask [B, tokens so far], a 4-D one [B or 1, 1 or heads, T, columns] (bool: True attends;
            otherwise additive), or a dict of 4-D masks by layer type.
        cache: The KV cache before this forward, or None.

    Raises:
        UnsupportedModelError: The mask is a FlexAttention block mask or has another form.
        StateMismatchError: The mask has another batch size, or is shorter than the tokens.
    """
    if isinstance(mask, Mapping):
        # Every layer type masks the same tokens on the diagonal.
        mask = mask.get("full_attention", next(iter(mask.values()), None))
    if mask is None:
        return None
    if not isinstance(mask, Tensor) or mask.dim() not in (2, 4):
        kind = f"{mask.dim()}-D tensor" if isinstance(mask, Tensor) else type(mask).__name__
        raise UnsupportedModelError(
            f"attention_mask is a {kind}; give a 2-D mask, or a 4-D tensor with eager or sdpa attention"
        )
    rows, columns = mask.shape[0], mask.shape[-1]
    if columns < length or rows not in (1, batch) or (mask.dim() == 4 and mask.shape[-2] < length):
        raise StateMismatchError(
            f"attention_mask has shape {list(mask.shape)}; {batch} rows of {length} tokens need one column per token"
        )
    # A mask may cover exactly the cached and current tokens, a window of them, or a static cache's whole capacity.
    start = _minimum(_cached_tokens(cache) if columns > length else 0, columns - length)
    if mask.dim() == 2:
        return _columns(mask, start, length).ne(0).to(device).expand(batch, length)
    square = _columns(mask[:, 0, -length:], start, length)
    diagonal = square.diagonal(dim1=-2, dim2=-1)
    valid = diagonal if diagonal.dtype == torch.bool else diagonal.gt(_MASKED_BELOW)
    return valid.to(device).expand(batch, length)


def _cached_tokens(cache: object) -> int | Tensor:
    """Number of tokens in the cache: an int, or the live tensor of a static cache."""
    get_length = getattr(cache, "get_seq_length", None)
    if get_length is None:
        return 0
    length: int | Tensor = get_length()
    return length


def _minimum(start: int | Tensor, limit: int) -> int | Tensor:
    return start.clamp(max=limit) if isinstance(start, Tensor) else min(start, limit)


def _columns(mask: Tensor, start: int | Tensor, length: int) -> Tensor:
    """Columns ``start`` to ``start + length`` of the last axis, with a gather if ``start`` is on the device."""
    if not isinstance(start, Tensor):
        return mask[..., start : start + length]
    return mask.index_select(-1, torch.arange(length, device=mask.device) + start.to(mask.device))
