"""One product for q, k, v and the memory: the same numbers, and a backbone that gets its own weights back."""

from __future__ import annotations

import copy

import pytest
import torch
import transformers
from torch import nn
from transformers import DynamicCache

from deltamem_agents.core import attach
from deltamem_agents.core.packing import packable

FAMILIES = ["qwen3", "qwen2", "llama", "gemma3_text", "phi3"]  # qwen2 has biases, phi3 one projection for all three
QKVO = ("q", "k", "v", "o")


def shares_memory(attached) -> bool:
    """Whether the first layer's weights are views of one buffer."""
    attention = attached.model.model.layers[0].self_attn
    module = attention.qkv_proj if hasattr(attention, "qkv_proj") else attention.q_proj
    return module.weight.untyped_storage().nbytes() > module.weight.nbytes


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("heads", [1, 2])
def test_inference_computes_what_training_computes(family, heads, backbone, strong_adapter, tokens, relative):
    """With autograd on every projection is computed on its own, without it they are packed."""
    model = backbone(family)
    adapter = strong_adapter(
        model, rank=5, heads=heads, corrections=QKVO, couple_lambda=False, scale="correction", o_rmsnorm=heads == 2
    )
    attached = attach(model, adapter)
    assert shares_memory(attached) == (family != "qwen2")
    ids, mask = tokens(2, 9), torch.ones(2, 9, dtype=torch.long)
    mask[1, :3] = 0
    arguments = {"input_ids": ids, "attention_mask": mask}
    trained, written = attached.forward(**arguments)
    with torch.no_grad():
        packed, state = attached.forward(**arguments)
        for key in state:
            assert relative(state[key], written[key].detach()) < 1e-6
        assert relative(packed.logits[mask.bool()], trained.logits[mask.bool()].detach()) < 1e-6
    # And token by token, reading only.
    whole, _ = attached.forward(state=state, write=False, **arguments)
    cache = DynamicCache(config=model.config)
    with torch.no_grad():
        for t in range(9):
            step, _ = attached.forward(
                state=state,
                write=False,
                input_ids=ids[:, t : t + 1],
                attention_mask=mask[:, : t + 1],
                position_ids=torch.full((2, 1), t),
                past_key_values=cache,
            )
            assert relative(step.logits[0, 0], whole.logits[0, t].detach()) < 1e-5


@pytest.mark.parametrize("family", ["qwen3", "phi3"])
def test_unbound_forwards_and_detach_are_bit_for_bit(family, backbone, strong_adapter, tokens):
    model = backbone(family)
    ids = tokens(2, 8)
    with torch.no_grad():
        frozen = model(input_ids=ids).logits
    weights = {name: each.clone() for name, each in model.state_dict().items()}
    attached = attach(model, strong_adapter(model))
    with torch.no_grad():
        assert torch.equal(model(input_ids=ids).logits, frozen)
    assert all(torch.equal(each, weights[name]) for name, each in model.state_dict().items())
    attached.detach()
    with torch.no_grad():
        assert torch.equal(model(input_ids=ids).logits, frozen)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, weights[name])
        assert parameter.untyped_storage().nbytes() == parameter.nbytes, name
    assert not any("forward" in module.__dict__ for module in model.modules())


def test_an_attached_model_saves_its_own_weights(backbone, strong_adapter, tmp_path, tokens):
    model = backbone()
    ids = tokens(1, 6)
    with torch.no_grad():
        frozen = model(input_ids=ids).logits
    attached = attach(model, strong_adapter(model))
    model.save_pretrained(tmp_path)
    attached.detach()
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        assert torch.equal(again(input_ids=ids).logits, frozen)


def test_a_trained_adapter_is_used_as_it_is_now(backbone, strong_adapter, tokens, relative):
    model = backbone()
    attached = attach(model, strong_adapter(model, couple_lambda=False))
    ids = tokens(2, 7)
    with torch.no_grad():
        before, _ = attached.forward(input_ids=ids)
        for parameter in attached.adapter.parameters():
            parameter.mul_(0.5)
        after, _ = attached.forward(input_ids=ids)
    expected, _ = attached.forward(input_ids=ids)
    assert relative(after.logits, expected.logits.detach()) < 1e-6
    assert relative(before.logits, expected.logits.detach()) > 1e-4


def test_a_model_converted_after_attaching_still_steers(backbone, strong_adapter, tokens, relative):
    """`to` gives the projections new weights; the packed ones are then left alone."""
    model = backbone()
    attached = attach(model, strong_adapter(model))
    ids = tokens(1, 7)
    with torch.no_grad():
        before, _ = attached.forward(input_ids=ids)
        model.double()
        after, _ = attached.forward(input_ids=ids)
        assert after.logits.dtype == torch.float64
        assert relative(after.logits, before.logits) < 1e-5
    attached.detach()
    assert model.model.layers[0].self_attn.q_proj.weight.dtype == torch.float64


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_models_stay_close_to_their_own_kind(dtype, backbone, strong_adapter, tokens, relative):
    """The memory's projections are computed with q, k and v, and rounded like these; states are not."""
    model = backbone()
    adapter = strong_adapter(model, couple_lambda=False)
    half = copy.deepcopy(model).to(dtype)
    exact, rounded = attach(model, adapter), attach(half, copy.deepcopy(adapter))
    ids = tokens(2, 12)
    _, wanted = exact.forward(input_ids=ids)
    _, state = rounded.forward(input_ids=ids)
    for key in state:
        assert state[key].dtype == torch.float32
        assert relative(state[key], wanted[key]) < 0.03


def test_what_cannot_be_packed():
    plain = [nn.Linear(4, 3, bias=False) for _ in range(3)]
    assert packable(plain) == plain

    class Wrapped(nn.Linear):
        pass

    hooked = nn.Linear(4, 3, bias=False)
    hooked.register_forward_pre_hook(lambda module, args: None)
    replaced = nn.Linear(4, 3, bias=False)
    replaced.forward = replaced.forward
    for odd in (
        nn.Linear(4, 3),
        nn.Linear(5, 3, bias=False),
        nn.Linear(4, 3, bias=False, dtype=torch.bfloat16),
        nn.Linear(4, 3, bias=False, device="meta"),
        Wrapped(4, 3, bias=False),
        nn.utils.parametrizations.weight_norm(nn.Linear(4, 3, bias=False)),
        hooked,
        replaced,
        nn.Identity(),
    ):
        assert packable([*plain[:2], odd]) is None
