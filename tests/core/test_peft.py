"""PEFT's adapters and accelerate's hooks on the same model as ours, before and after it, in any order of removal."""

from __future__ import annotations

import copy

import pytest
import torch

from deltamem_agents.core import attach, new_adapter
from deltamem_agents.errors import InertAdapterError

peft = pytest.importorskip("peft", reason="the dev extra installs peft")
ALL = ("q", "k", "v", "o")
ORDERS = [(first, last) for first in ("ours", "theirs") for last in ("ours", "theirs")]


def logits_of(model, ids):
    with torch.no_grad():
        return model(input_ids=ids, use_cache=False).logits


def steered(attached, ids):
    generator = torch.Generator().manual_seed(1)
    shape = attached.adapter.config.state_shape
    state = {key: torch.randn(1, *shape, generator=generator) for key in attached.keys}
    with torch.no_grad():
        return attached.forward(state=state, write=False, input_ids=ids, use_cache=False)[0].logits


def lora(model, targets, **options):
    """LoRA with weights that are not zero."""
    torch.manual_seed(3)
    config = peft.LoraConfig(target_modules=targets, init_lora_weights=False, r=4, **options)
    return peft.get_peft_model(model, config).eval()


def classes(model):
    return {name: (id(module), type(module)) for name, module in model.named_modules()}


@pytest.mark.parametrize("family", ["qwen3", "qwen2", "phi3"])
@pytest.mark.parametrize("targets", [["v_proj", "o_proj"], "all-linear"], ids=["some", "all"])
def test_lora_comes_and_goes_in_any_order(family, targets, backbone, strong_adapter, tokens):
    ids, seen = tokens(1, 6), []
    adapter = strong_adapter(backbone(family), corrections=ALL, alpha=64.0)
    if family == "phi3" and targets != "all-linear":
        targets = ["qkv_proj", "o_proj"]
    for first, last in ORDERS:
        model = backbone(family)
        before, frozen = classes(model), logits_of(model, ids)
        if first == "ours":
            attached = attach(model, adapter)
            memory = steered(attached, ids)
            tuned = lora(model, targets)
        else:
            tuned = lora(model, targets)
            attached = attach(tuned, adapter)
        both, adapted = steered(attached, ids), logits_of(tuned, ids)
        seen.append(both)
        assert min((both - each).abs().max() for each in (memory, adapted, frozen)) > 1e-3
        with tuned.disable_adapter():
            assert torch.allclose(steered(attached, ids), memory, atol=1e-5)
            assert torch.equal(logits_of(tuned, ids), frozen)
        if last == "theirs":
            attached.detach()
            assert torch.allclose(logits_of(tuned, ids), adapted, atol=1e-6)
            assert tuned.unload() is model
        else:
            assert tuned.unload() is model
            assert torch.allclose(steered(attached, ids), memory, atol=1e-5)
            attached.detach()
        assert classes(model) == before
        assert torch.equal(logits_of(model, ids), frozen)
    assert all(torch.allclose(each, seen[0], atol=1e-5) for each in seen), "the order makes no difference"


@pytest.mark.parametrize("first", ["ours", "theirs"])
def test_lora_is_merged_saved_and_loaded_under_memory(first, backbone, strong_adapter, tokens, tmp_path):
    ids = tokens(1, 6)
    model, adapter = backbone(), strong_adapter(backbone(), alpha=64.0)
    if first == "theirs":
        tuned = lora(model, ["q_proj", "v_proj"])
        attached = attach(model, adapter)
    else:
        attached = attach(model, adapter)
        tuned = lora(model, ["q_proj", "v_proj"])
    both = steered(attached, ids)
    plain = lora(backbone(), ["q_proj", "v_proj"])
    assert list(tuned.state_dict()) == list(plain.state_dict())
    tuned.save_pretrained(tmp_path)
    loaded = peft.PeftModel.from_pretrained(backbone(), tmp_path).eval()
    assert torch.allclose(logits_of(loaded, ids), logits_of(tuned, ids), atol=1e-6)
    copied = copy.deepcopy(tuned)
    assert "Delta" not in repr(copied)
    assert torch.allclose(logits_of(copied, ids), logits_of(tuned, ids), atol=1e-6)
    tuned.load_adapter(tmp_path, "again")  # a second adapter, onto wrapped projections
    tuned.set_adapter("again")
    assert torch.allclose(steered(attached, ids), both, atol=1e-5)
    tuned.delete_adapter("again")
    tuned.set_adapter("default")
    tuned.merge_adapter()
    assert torch.allclose(steered(attached, ids), both, atol=1e-5)
    tuned.unmerge_adapter()
    assert torch.allclose(steered(attached, ids), both, atol=1e-5)
    assert tuned.merge_and_unload() is model
    assert torch.allclose(steered(attached, ids), both, atol=1e-5)
    attached.detach()
    assert torch.allclose(logits_of(model, ids), logits_of(loaded, ids), atol=1e-5)
    assert list(model.state_dict()) == list(backbone().state_dict()) and "Delta" not in repr(model)


OTHER_METHODS = {
    "DoRA": lambda: peft.LoraConfig(target_modules=["q_proj", "o_proj"], use_dora=True, init_lora_weights=False),
    "IA3": lambda: peft.IA3Config(
        target_modules=["k_proj", "o_proj"], feedforward_modules=["o_proj"], init_ia3_weights=False
    ),
    "OFT": lambda: peft.OFTConfig(target_modules=["q_proj", "o_proj"], oft_block_size=4, init_weights=False),
}


@pytest.mark.parametrize("method", OTHER_METHODS)
def test_adapters_that_scale_or_rotate_compute_the_same_in_either_order(method, backbone, strong_adapter, tokens):
    ids, seen = tokens(1, 6), []
    adapter = strong_adapter(backbone(), corrections=ALL, alpha=64.0)
    for first, last in ORDERS:
        model = backbone()
        before, frozen = classes(model), logits_of(model, ids)
        attached = attach(model, adapter) if first == "ours" else None
        torch.manual_seed(3)
        tuned = peft.get_peft_model(model, OTHER_METHODS[method]()).eval()
        attached = attached or attach(model, adapter)
        seen.append(steered(attached, ids))
        assert not torch.allclose(logits_of(model, ids), frozen, atol=1e-5)
        if last == "ours":
            attached.detach()
        assert tuned.unload() is model
        attached.detach()
        assert classes(model) == before and torch.equal(logits_of(model, ids), frozen)
    assert all(torch.allclose(each, seen[0], atol=1e-5) for each in seen)


def test_lora_and_memory_train_together(backbone, strong_adapter, tokens):
    model = backbone()
    attached = attach(model, strong_adapter(model))
    tuned = lora(model, ["q_proj", "v_proj"])
    out, state = attached.forward(input_ids=tokens(1, 6), use_cache=False)
    (out.logits.square().mean() + sum(each.square().mean() for each in state.values())).backward()
    trained = [each for each in tuned.parameters() if each.requires_grad]
    assert len(trained) == 12 and all(each.grad is not None and each.grad.any() for each in trained)
    assert all(each.grad is not None for each in attached.adapter.parameters())


def test_memory_reads_the_input_of_attention_under_adapters_that_rotate_a_projections_input(
    backbone, strong_adapter, tokens
):
    """OFT changes the input of the projection it adapts; the state of the same layer does not depend on it."""
    ids, states = tokens(1, 6), []
    adapter = strong_adapter(backbone())
    for first in (None, "ours", "theirs"):
        model = backbone()
        config = peft.OFTConfig(target_modules=["q_proj"], oft_block_size=4, init_weights=False)
        torch.manual_seed(0)
        if first == "theirs":
            peft.get_peft_model(model, config).eval()
        attached = attach(model, adapter)
        if first == "ours":
            peft.get_peft_model(model, config).eval()
        with torch.no_grad():
            states.append(attached.forward(input_ids=ids)[1])
    key = attached.keys[0]
    assert torch.allclose(states[0][key], states[1][key], atol=1e-6)
    assert torch.allclose(states[0][key], states[2][key], atol=1e-6)


def test_a_new_adapter_starts_from_the_weights_under_lora(backbone):
    from deltamem_agents.core import DeltaMemConfig

    plain, model = backbone(), backbone()
    lora(model, ["q_proj", "o_proj"])
    adapters = [new_adapter(each, DeltaMemConfig(), seed=1) for each in (plain, model)]
    assert adapters[0].fingerprint() == adapters[1].fingerprint()


@pytest.mark.parametrize(("first", "last"), ORDERS)
def test_accelerates_hooks_come_and_go(first, last, backbone, strong_adapter, tokens):
    """They replace ``forward`` on the module itself, and leave the former one there when they are removed."""
    from accelerate import hooks

    class Shifting(hooks.ModelHook):
        def post_forward(self, module, output):
            return output + 0.5

    model, ids = backbone(), tokens(1, 6)
    frozen = logits_of(model, ids)
    adapter = strong_adapter(model, corrections=ALL, alpha=64.0)
    attention = model.model.layers[1].self_attn

    def add():
        for name in ("q_proj", "v_proj", "o_proj"):
            hooks.add_hook_to_module(getattr(attention, name), Shifting())

    if first == "theirs":
        add()
        shifted = logits_of(model, ids)
        attached = attach(model, adapter)
    else:
        attached = attach(model, adapter)
        memory = steered(attached, ids)
        add()
        shifted = logits_of(model, ids)
    assert torch.allclose(logits_of(model, ids), shifted, atol=1e-6)
    assert (steered(attached, ids) - shifted).abs().max() > 1e-3
    if last == "theirs":
        attached.detach()
        assert torch.allclose(logits_of(model, ids), shifted, atol=1e-6)
        hooks.remove_hook_from_submodules(model)
    else:
        hooks.remove_hook_from_submodules(model)
        if first == "ours":
            assert torch.allclose(steered(attached, ids), memory, atol=1e-5)
        else:  # the forward from before their hook is the one from before ours
            with pytest.raises(InertAdapterError, match="3 of 12 corrected projections"):
                steered(attached, ids)
        attached.detach()
    assert torch.equal(logits_of(model, ids), frozen)
    again = attach(model, adapter)
    assert (steered(again, ids) - frozen).abs().max() > 1e-3
    again.detach()
    assert torch.equal(logits_of(model, ids), frozen)
