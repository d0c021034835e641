"""Token validity from every form of mask a decoder can be given."""

from __future__ import annotations

import pytest
import torch
from transformers import DynamicCache, StaticCache

from deltamem_agents.core import attach
from deltamem_agents.core.masks import token_validity
from deltamem_agents.errors import StateMismatchError, UnsupportedModelError

CPU = torch.device("cpu")


def square(mask, past, columns, additive):
    """4-D causal mask over ``columns`` for the last tokens of 2-D ``mask``, which covers past and current ones."""
    total = mask.shape[1]
    allowed = torch.zeros(mask.shape[0], 1, total - past, columns, dtype=torch.bool)
    for query in range(total - past):
        allowed[:, 0, query, : past + query + 1] = mask[:, : past + query + 1].bool()
    if not additive:
        return allowed
    return torch.zeros(allowed.shape).masked_fill(~allowed, torch.finfo(torch.float32).min)


@torch.no_grad()
@pytest.mark.parametrize("additive", [True, False])
@pytest.mark.parametrize("static", [True, False])
def test_four_dimensional_masks_write_what_the_flat_one_writes(
    additive, static, backbone, strong_adapter, tokens, relative
):
    model = backbone("qwen3", "eager" if additive else "sdpa")
    attached = attach(model, strong_adapter(model, corrections=("q", "k", "v", "o")))
    ids = tokens(2, 12)
    mask = torch.ones(2, 12, dtype=torch.long)
    mask[1, :4] = 0
    _, wanted = attached.forward(input_ids=ids, attention_mask=mask)
    cache = StaticCache(config=model.config, max_cache_len=16) if static else DynamicCache(config=model.config)
    state = None
    for at, end in ((0, 7), (7, 11), (11, 12)):
        four = square(mask[:, :end], at, 16 if static else end, additive)
        _, state = attached.forward(state=state, input_ids=ids[:, at:end], attention_mask=four, past_key_values=cache)
    for key in state:
        assert relative(state[key], wanted[key]) < 1e-5


def test_a_masked_row_writes_nothing(backbone, strong_adapter, tokens):
    model = backbone()
    attached = attach(model, strong_adapter(model))
    ids, mask = tokens(2, 6), torch.ones(2, 6, dtype=torch.long)
    with torch.no_grad():
        out, state = attached.forward(input_ids=ids, attention_mask=mask)
        mask = torch.cat([mask, torch.tensor([[1], [0]])], dim=1)
        _, after = attached.forward(
            state=state, input_ids=tokens(2, 1), attention_mask=mask, past_key_values=out.past_key_values
        )
    for key in state:
        assert torch.equal(after[key][1], state[key][1])
        assert not torch.equal(after[key][0], state[key][0])


def test_mask_of_a_whole_static_cache_counts_from_the_cached_tokens():
    class Filled:
        def get_seq_length(self):
            return torch.tensor(3)

    mask = torch.tensor([[0, 0, 0, 1, 0, 1, 1, 1]])
    assert token_validity(mask, Filled(), 1, 2, CPU).tolist() == [[True, False]]


def test_dict_of_masks_and_none():
    assert token_validity({"full_attention": None, "sliding_attention": None}, None, 1, 4, CPU) is None
    eye = torch.tril(torch.ones(1, 1, 3, 3, dtype=torch.bool))
    eye[..., 0] = False
    assert token_validity({"sliding_attention": eye}, None, 1, 3, CPU).tolist() == [[False, True, True]]


def test_block_masks_and_misfits_are_refused():
    with pytest.raises(UnsupportedModelError, match="str"):
        token_validity("block mask", None, 1, 4, CPU)
    with pytest.raises(UnsupportedModelError, match="3-D"):
        token_validity(torch.ones(1, 4, 4), None, 1, 4, CPU)
    with pytest.raises(StateMismatchError, match=r"\[1, 3\]"):
        token_validity(torch.ones(1, 3), None, 1, 4, CPU)
    with pytest.raises(StateMismatchError, match="3 rows"):
        token_validity(torch.ones(2, 4), None, 3, 4, CPU)


def test_flex_attention_block_mask_is_refused(backbone, strong_adapter, tokens):
    from torch.nn.attention.flex_attention import create_block_mask

    model = backbone()
    attached = attach(model, strong_adapter(model))
    block = create_block_mask(lambda b, h, q, k: q >= k, 1, None, 128, 128, device="cpu")
    with pytest.raises(UnsupportedModelError, match="BlockMask"):
        attached.forward(input_ids=tokens(1, 128), attention_mask=block)
