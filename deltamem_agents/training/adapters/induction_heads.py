"""A start for an adapter from the induction heads of its backbone.

An induction head looks for the place where the present token stood before, and copies what followed it there
(arXiv:2209.11895). A state that is written with such a head's keys and values and read with its queries does the same
across contexts: softmax attention is replaced by the delta rule, a linear form of the same look-up. What a backbone
does with a copied token, it already knows.

Measured on Gemma 3 270M, one fact a conversation, 16 conversations a step, rate 3e-3: after 40 steps the loss was 1.2
from such a start (layers 5, 11, 13, 17, rank 64), and 2.9 from random projections (layers 9 to 17, rank 8).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from deltamem_agents.core import Adapter
from deltamem_agents.core.families import inspect_backbone
from deltamem_agents.errors import ConfigError
from deltamem_agents.training.adapter import KEEP_BIAS, SIZE, STRENGTH, factors

REPEATED = 40  # random tokens in a row that is read twice
ROWS = 4
SLOW = 600.0  # tokens in a turn of the rotary pairs that are kept: faster ones tell distances, not contents
FAINT = 1e-5  # share of the largest singular value below which one is rounding


@torch.no_grad()
def induction_scores(model: PreTrainedModel, seed: int = 0) -> list[list[float]]:
    """How much each head of each layer is an induction head.

    Random tokens are read twice in a row. The score of a head, 0 to 1, is the attention that it pays, in the second
    reading, to the token after the present one's first appearance.

    Raises:
        UnsupportedModelError: The model's family is unknown.
    """
    inspect_backbone(model)
    config: Any = model.config.get_text_config()
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(config.vocab_size // 100, config.vocab_size, (ROWS, REPEATED), generator=generator)
    begin = torch.full((ROWS, 1), config.bos_token_id or 0)
    ids = torch.cat([begin, tokens, tokens], 1).to(model.device)
    asked = torch.arange(REPEATED + 1, 2 * REPEATED)  # without the last, whose successor begins the second reading
    with _eager(model):
        attentions = cast(Any, model)(ids, output_attentions=True, use_cache=False).attentions
    return [each[:, :, asked, asked - REPEATED + 1].float().mean((0, 2)).tolist() for each in attentions]


@torch.no_grad()
def start_as_induction_heads(adapter: Adapter, model: PreTrainedModel, texts: Sequence[Sequence[int]]) -> None:
    """Set the projections and the output correction of a fresh adapter with one state head, in place.

    Of each adapted layer, the heads with at least half the score of its best one take part. Where the adapter's rank is
    larger than theirs, the rest of it stays as it is.

    Args:
        texts: Token ids of some texts like those that will be written. What their tokens have in common is left out of
            queries and keys, and the size of values is measured on them.

    Raises:
        ConfigError: The adapter has several state heads, or no output correction.
        UnsupportedModelError: The model's family is unknown.
    """
    config = adapter.config
    if config.heads != 1 or "o" not in config.corrections:
        raise ConfigError(
            f"start 'induction' needs one state head and a correction of o; the adapter has {config.heads} and "
            f"corrects {', '.join(config.corrections)}"
        )
    scores = induction_scores(model)
    for index, inputs in _inputs(model, adapter.layer_indices, texts).items():
        least = max(scores[index]) / 2
        match, copy = circuits(model, index, [head for head, score in enumerate(scores[index]) if score >= least])
        common = inputs.mean(0)
        apart = torch.eye(len(common), device=common.device) - torch.outer(common, common) / common.dot(common)
        queries, keys = _factors(apart @ match @ apart, config.rank)
        outputs, values = _factors(copy, config.rank)
        size = _rms(inputs @ values.T)
        layer = adapter.layer(index)
        asked, held, told = torch.split(layer.memory[: 3 * config.rank], config.rank)
        asked[: len(keys)] = queries.T * (SIZE / _rms(inputs @ queries))
        held[: len(keys)] = keys * (SIZE / _rms(inputs @ keys.T))
        told[: len(values)] = values / size
        layer.corrections["o"][:, : len(values)] = outputs * size * (STRENGTH * config.rank / config.alpha)
        layer.gate_bias[config.gate_width :] = KEEP_BIAS


def circuits(model: PreTrainedModel, index: int, heads: Sequence[int], slow: float = SLOW) -> tuple[Tensor, Tensor]:
    """What some heads of a layer match and copy, together, float32 [D, D] each.

    Args:
        slow: Rotary pairs that turn in fewer tokens are left out.

    Returns:
        A bilinear form of two inputs of the layer's attention, asked and held: the heads' products of query and key,
        up to the size that a norm of queries or keys takes away. And the map from a held input to the output.
    """
    text: Any = model.config.get_text_config()
    backbone = inspect_backbone(model)
    attention: Any = backbone.attentions[index]
    count = text.num_attention_heads
    shared = count // (getattr(text, "num_key_value_heads", None) or count)
    size = getattr(text, "head_dim", None) or text.hidden_size // count
    if backbone.family.packed:
        widths = [backbone.shapes[index].outputs[name] for name in ("q", "k", "v")]
        queries, keys, values = attention.qkv_proj.weight.float().split(widths)
    else:
        queries, keys, values = (getattr(attention, f"{name}_proj").weight.float() for name in ("q", "k", "v"))
    outputs = attention.o_proj.weight.float()
    kept = _unturned(text, index, size, slow).to(queries.device)
    asked, held = _gain(attention, "q_norm", count, size), _gain(attention, "k_norm", count // shared, size)
    match = copy = torch.zeros(text.hidden_size, text.hidden_size, device=queries.device)
    for head in heads:
        own, group = slice(head * size, (head + 1) * size), slice(head // shared * size, (head // shared + 1) * size)
        gain = (asked[head] * held[head // shared] * kept).unsqueeze(1)
        match = match + queries[own].T @ (gain.to(queries.device) * keys[group])
        copy = copy + outputs[:, own] @ values[group]
    return match, copy


def _gain(attention: nn.Module, name: str, heads: int, size: int) -> Tensor:
    """By what a layer's norm of queries or keys multiplies them [heads, size], once their size is 1."""
    norm: Any = getattr(attention, name, None)
    if norm is None:
        return torch.ones(heads, size)
    gain: Tensor = norm(torch.ones_like(norm.weight)).float()
    return gain.reshape(-1, size).expand(heads, size)


def _unturned(text: Any, index: int, size: int, slow: float) -> Tensor:
    """1 for each dimension of a head that rotary positions turn once in ``slow`` tokens at most, 0 for the others."""
    kinds = getattr(text, "layer_types", None)
    rotary = getattr(text, "rope_parameters", None) or {}
    rotary = rotary.get(kinds[index], rotary) if kinds else rotary
    base = float(rotary.get("rope_theta") or getattr(text, "rope_theta", None) or 10_000.0)
    share = rotary.get("partial_rotary_factor") or getattr(text, "partial_rotary_factor", None) or 1.0
    turned = int(size * float(share))
    without = getattr(text, "no_rope_layers", None)
    if without is not None and not without[index]:
        turned = 0
    pairs = torch.arange(turned // 2) / max(1, turned // 2)
    kept = (2 * torch.pi * base**pairs > slow).float()
    return torch.cat([kept, kept, torch.ones(size - 2 * len(kept))])


def _inputs(model: PreTrainedModel, layers: Sequence[int], texts: Sequence[Sequence[int]]) -> dict[int, Tensor]:
    """The input [tokens, D] of the attention of each layer, float32."""
    seen: dict[int, list[Tensor]] = {index: [] for index in layers}
    attentions = inspect_backbone(model).attentions

    def hook(index: int) -> Any:
        return lambda _, args, given: seen[index].append(given.get("hidden_states", *args[:1])[0].float())

    hooks = [attentions[index].register_forward_pre_hook(hook(index), with_kwargs=True) for index in layers]
    try:
        for ids in texts:
            cast(Any, model)(torch.tensor([list(ids)], device=model.device), use_cache=False, logits_to_keep=1)
    finally:
        for each in hooks:
            each.remove()
    return {index: torch.cat(found) for index, found in seen.items()}


@contextmanager
def _eager(model: PreTrainedModel) -> Iterator[None]:
    """Inside, attention is computed in the form that returns its weights."""
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def _factors(product: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The best factors [D, n] and [n, D] of a product [D, D], where n is the rank, or the product's if that is less."""
    left, right = factors(product, rank)
    sizes = right.square().sum(1)
    count = int((sizes > FAINT * sizes[0]).sum())
    return left[:, :count], right[:count]


def _rms(values: Tensor) -> Tensor:
    return values.square().mean().sqrt().clamp(min=1e-6)
