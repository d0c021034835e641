"""Gradients through state writes, checkpointing, and a few steps of learning."""

from __future__ import annotations

import pytest
import torch

from deltamem_agents.core import attach, repeat_state
from deltamem_agents.errors import UnsupportedModelError


def loss_of(attached, tokens, cut=1.0):
    """Write two rows, then ask two read-only questions of each."""
    _, state = attached.forward(input_ids=tokens(2, 7, seed=1), use_cache=False)
    questions = tokens(4, 5, seed=2)
    mask = torch.ones(4, 5, dtype=torch.long)
    mask[1, :2] = 0
    states = repeat_state(state, 2)
    out, _ = attached.forward(state=states, write=False, input_ids=questions, attention_mask=mask, use_cache=False)
    return out.logits[:, -1].log_softmax(-1)[:, 5].mean()


def gradients(attached, tokens):
    attached.adapter.zero_grad()
    loss_of(attached, tokens).backward()
    return {name: each.grad.clone() for name, each in attached.adapter.named_parameters()}


@pytest.mark.parametrize("options", [{}, {"heads": 2, "couple_lambda": False, "update": "lambda_outside"}])
@pytest.mark.parametrize("extra", [{}, {"scale": "layer", "o_rmsnorm": True, "corrections": ("q", "k", "v", "o")}])
def test_gradients_match_finite_differences(options, extra, backbone, strong_adapter, tokens):
    model = backbone()
    attached = attach(model, strong_adapter(model, rank=3, alpha=12.0, **options, **extra))
    grads = gradients(attached, tokens)
    assert not any(each.requires_grad for each in model.parameters())
    slope = float(torch.stack([each.norm() for each in grads.values()]).norm())
    direction = {name: each / slope for name, each in grads.items()}
    step, values = 5e-4, []
    with torch.no_grad():
        for sign in (1, -2):
            for name, parameter in attached.adapter.named_parameters():
                parameter.add_(direction[name] * step * sign)
            values.append(float(loss_of(attached, tokens)))
    assert all(each.abs().sum() > 0 for each in grads.values())
    assert (values[0] - values[1]) / (2 * step) == pytest.approx(slope, rel=0.02)


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing_enable")
@pytest.mark.parametrize("family", ["qwen3", "gemma3_text", "phi3"])
def test_checkpointed_layers_give_the_same_gradients(family, backbone, strong_adapter, tokens):
    model = backbone(family)
    attached = attach(model, strong_adapter(model))
    plain = gradients(attached, tokens)
    model.train()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    checkpointed = gradients(attached, tokens)
    for name, each in plain.items():
        assert torch.allclose(checkpointed[name], each, atol=1e-6), name
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": True})
    model.enable_input_require_grads()
    with pytest.raises(UnsupportedModelError, match="use_reentrant"):
        loss_of(attached, tokens)


def test_detach_gives_the_parameters_their_flags_back(backbone, strong_adapter):
    model = backbone()
    model.lm_head.weight.requires_grad_(False)
    attached = attach(model, strong_adapter(model))
    assert not any(each.requires_grad for each in model.parameters())
    attached.detach()
    assert {name for name, each in model.named_parameters() if not each.requires_grad} == {"lm_head.weight"}


def test_a_fresh_adapter_learns(backbone, tokens):
    from deltamem_agents.core import DeltaMemConfig, new_adapter

    model = backbone()
    adapter = new_adapter(model, DeltaMemConfig(couple_lambda=False), seed=1)
    attached = attach(model, adapter)
    optimiser = torch.optim.AdamW(adapter.parameters(), lr=1e-2, weight_decay=0.0)
    first = last = 0.0
    for step in range(12):
        loss = -loss_of(attached, tokens)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        first, last = (loss.item() if step == 0 else first), loss.item()
    assert last < first - 0.1


def test_initialisation_is_the_papers_and_repeatable(backbone):
    from deltamem_agents.core import DeltaMemConfig, new_adapter

    model = backbone()
    config = DeltaMemConfig(rank=4, couple_lambda=False)
    adapter, same, other = (new_adapter(model, config, seed=seed) for seed in (1, 1, 2))
    assert adapter.fingerprint() == same.fingerprint() != other.fingerprint()
    layer = adapter.layer(0)
    assert layer.gate_bias.tolist() == [-1.5] * 4 + [1.5] * 4
    assert not layer.memory[12:].any() and layer.memory[:12].abs().max() <= 32**-0.5
    assert torch.allclose(layer.corrections["q"].norm(dim=0), torch.full((4,), 0.05))
    assert adapter.config.hidden_size == 32 and adapter.config.num_layers == 3
    assert adapter.config.model_type == "qwen3"
    assert adapter.state_bytes() == 3 * 4 * 16


def test_autocast_leaves_reads_and_states_in_float32(backbone, strong_adapter, tokens):
    model = backbone()
    attached = attach(model, strong_adapter(model))
    ids = tokens(2, 6)
    with torch.no_grad():
        _, wanted = attached.forward(input_ids=ids)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        _, state = attached.forward(input_ids=ids)
        out, _ = attached.forward(state=state, write=False, input_ids=ids)
    out.logits.float().mean().backward()
    first = attached.keys[0]
    assert state[first].dtype == torch.float32
    assert torch.allclose(state[first], wanted[first], atol=1e-6), "the first layer's input is exact under autocast"
    assert all(each.grad is not None for each in attached.adapter.parameters())
