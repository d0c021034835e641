"""Every family: identity at zero state, steering, caches, windows that have filled, bf16, and detaching."""

from __future__ import annotations

import pytest
import torch
from transformers import DynamicCache, StaticCache

from deltamem_agents.core import FAMILIES, DeltaMemConfig, attach, new_adapter

ALL = ["qwen3", "qwen2", "llama", "mistral", "smollm3", "gemma3_text", "phi3", "olmo2", "granite"]
QKVO = ("q", "k", "v", "o")


def test_every_registered_family_is_tested():
    assert sorted(ALL) == sorted(FAMILIES)


@torch.no_grad()
@pytest.mark.parametrize("family", ALL)
def test_zero_state_is_the_frozen_model_and_a_written_one_is_not(family, backbone, strong_adapter, tokens):
    model, ids = backbone(family), tokens(2, 9)
    frozen = model(input_ids=ids).logits
    attached = attach(model, strong_adapter(model, corrections=QKVO))
    idle, state = attached.forward(write=False, input_ids=ids)
    assert torch.equal(idle.logits, frozen)
    assert all(not each.any() for each in state.values())
    zero, _ = attached.forward(state=attached.zero_state(2), write=False, input_ids=ids)
    assert torch.allclose(zero.logits, frozen, atol=1e-5)
    _, state = attached.forward(input_ids=ids)
    read, _ = attached.forward(state=state, write=False, input_ids=ids)
    assert (read.logits - frozen).abs().max() > 1e-3


@torch.no_grad()
@pytest.mark.parametrize("family", ALL)
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("heads", [1, 2])
def test_padding_chunks_and_caches_change_nothing(family, attention, heads, backbone, strong_adapter, tokens, relative):
    """Twenty tokens through windows of six: one plain forward a row against a left-padded batch in chunks."""
    model = backbone(family, attention)
    attached = attach(model, strong_adapter(model, corrections=QKVO, rank=4, heads=heads, couple_lambda=False))
    rows = [tokens(1, 20, seed=1), tokens(1, 13, seed=2)]
    alone = [attached.forward(input_ids=row, use_cache=False) for row in rows]
    padded = torch.cat([torch.zeros(1, 7, dtype=torch.long), rows[1]], dim=1)
    ids = torch.cat([rows[0], padded])
    mask = torch.ones(2, 20, dtype=torch.long)
    mask[1, :7] = 0
    positions = (mask.cumsum(1) - 1).clamp_min(0)
    for cache in (DynamicCache(config=model.config), StaticCache(config=model.config, max_cache_len=24)):
        state, logits, at = None, [], 0
        for end in (8, 11, 12, 13, 20):
            out, state = attached.forward(
                state=state,
                input_ids=ids[:, at:end],
                attention_mask=mask[:, :end],
                position_ids=positions[:, at:end],
                past_key_values=cache,
            )
            logits.append(out.logits)
            at = end
        whole = torch.cat(logits, dim=1)
        assert relative(whole[0], alone[0][0].logits[0]) < 1e-5
        assert relative(whole[1, 7:], alone[1][0].logits[0]) < 1e-5
        for key in state:
            assert relative(state[key][0], alone[0][1][key][0]) < 1e-5
            assert relative(state[key][1], alone[1][1][key][0]) < 1e-5


@torch.no_grad()
@pytest.mark.parametrize("family", ["qwen3", "phi3", "gemma3_text"])
def test_bf16_model_keeps_float32_states(family, backbone, strong_adapter, tokens, relative):
    ids = tokens(2, 12)
    exact, rough = backbone(family), backbone(family).to(torch.bfloat16)
    _, wanted = attach(exact, strong_adapter(exact)).forward(input_ids=ids)
    attached = attach(rough, strong_adapter(exact))
    out, state = attached.forward(input_ids=ids)
    assert out.logits.dtype == torch.bfloat16
    for key in state:
        assert state[key].dtype == torch.float32
        assert relative(state[key], wanted[key]) < 0.1


def snapshot(model):
    """Everything hooks could leave behind: module attributes, hook tables and parameter flags."""
    seen = {}
    for name, module in model.named_modules():
        plain = {key: len(each) if isinstance(each, dict) else id(each) for key, each in vars(module).items()}
        seen[name] = plain
    return seen, {name: (id(each), each.requires_grad) for name, each in model.named_parameters()}


@torch.no_grad()
@pytest.mark.parametrize("family", ALL)
def test_detach_restores_the_model_bit_for_bit(family, backbone, strong_adapter, tokens):
    model, ids = backbone(family), tokens(2, 9)
    before, weights = snapshot(model), {name: each.clone() for name, each in model.state_dict().items()}
    frozen = model(input_ids=ids).logits
    attached = attach(model, strong_adapter(model, corrections=QKVO))
    attached.forward(input_ids=ids)
    assert torch.equal(model(input_ids=ids).logits, frozen), "outside a forward or bind the model is the frozen one"
    attached.detach()
    attached.detach()
    assert snapshot(model) == before
    assert model.state_dict().keys() == weights.keys()
    assert all(torch.equal(each, weights[name]) for name, each in model.state_dict().items())
    assert torch.equal(model(input_ids=ids).logits, frozen)


def test_packed_projection_starts_from_its_slices(backbone):
    model = backbone("phi3")
    adapter = new_adapter(model, DeltaMemConfig(rank=4, corrections=QKVO))
    qkv = model.model.layers[1].self_attn.qkv_proj.weight
    wanted = torch.nn.functional.normalize(qkv[32:48, :4], dim=0) * 0.05
    assert torch.allclose(adapter.layer(1).corrections["k"], wanted)
