"""What others do to a model while an adapter is attached: copies, files, wrappers, patches and hooks, in any order."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from deltamem_agents.core import attach
from deltamem_agents.errors import InertAdapterError

FAMILIES = ["qwen3", "qwen2", "phi3"]  # plain projections, projections with biases, one projection for q, k and v
ALL = ("q", "k", "v", "o")


def names_of(model):
    """Everything that a model's contents are called, with their identities."""
    return {
        "modules": {name: id(module) for name, module in model.named_modules()},
        "classes": {name: type(module) for name, module in model.named_modules()},
        "attributes": {
            name: {key: len(each) if isinstance(each, dict) else each for key, each in vars(module).items()}
            for name, module in model.named_modules()
        },
        "parameters": {name: (id(each), each.requires_grad) for name, each in model.named_parameters()},
        "buffers": {name: id(each) for name, each in model.named_buffers()},
        "state": list(model.state_dict()),
    }


def logits_of(model, ids):
    with torch.no_grad():
        return model(input_ids=ids, use_cache=False).logits


def steered(attached, ids):
    """The logits under a state that was told something, in one read-only forward."""
    generator = torch.Generator().manual_seed(1)
    shape = attached.adapter.config.state_shape
    state = {key: torch.randn(1, *shape, generator=generator) for key in attached.keys}
    with torch.no_grad():
        return attached.forward(state=state, write=False, input_ids=ids, use_cache=False)[0].logits


@pytest.fixture(params=FAMILIES)
def model(request, backbone):
    return backbone(request.param)


@pytest.fixture
def attached(model, strong_adapter):
    made = attach(model, strong_adapter(model, corrections=ALL, alpha=64.0))
    yield made
    made.detach()


# What is seen while attached


def test_an_attached_model_shows_its_memory_and_calls_everything_as_before(model, strong_adapter):
    before, text = names_of(model), repr(model)
    attached = attach(model, strong_adapter(model))
    during, shown = names_of(model), repr(model)
    assert "DeltaLinear(in_features=32" in shown and f"Delta{type(model).__name__[:-11]}Attention(" in shown
    assert "heads=1, rank=8" in shown
    for kind in ("state", "buffers"):
        assert during[kind] == before[kind]
    assert list(during["modules"]) == list(before["modules"])
    assert {name: each[0] for name, each in during["parameters"].items()} == {
        name: each[0] for name, each in before["parameters"].items()
    }
    for name, kind in before["classes"].items():
        assert issubclass(during["classes"][name], kind)
    assert not any(each.requires_grad for each in model.parameters())
    attached.detach()
    assert names_of(model) == before and repr(model) == text


@pytest.mark.parametrize("assign", [False, True])
def test_weights_are_saved_and_loaded_as_those_of_the_backbone(model, strong_adapter, backbone, tokens, assign):
    ids, other = tokens(1, 6), backbone(model.config.model_type)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.1)
    wanted = logits_of(other, ids)
    attached = attach(model, strong_adapter(model, corrections=ALL))
    first = steered(attached, ids)
    saved = {name: each.clone() for name, each in model.state_dict().items()}
    model.load_state_dict(other.state_dict(), assign=assign)
    assert torch.equal(logits_of(model, ids), wanted)
    second = steered(attached, ids)
    assert not torch.allclose(first, second) and not torch.allclose(second, wanted, atol=1e-3)
    other.load_state_dict(saved)  # as saved while attached, into a plain model
    model.load_state_dict(saved)
    assert torch.allclose(steered(attached, ids), first, atol=1e-5)
    attached.detach()
    assert torch.equal(logits_of(model, ids), logits_of(other, ids))


def test_modes_and_dtypes_reach_what_is_wrapped(attached, tokens):
    model, ids = attached.model, tokens(1, 6)
    model.train()
    assert all(module.training for module in model.modules())
    model.eval()
    model.double()
    assert steered(attached, ids).dtype == torch.float64
    model.train()
    attached.detach()
    assert all(module.training for module in model.modules())
    assert {each.dtype for each in model.parameters()} == {torch.float64}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_adapter_follows_the_model_to_another_device(attached, tokens):
    ids, wanted = tokens(1, 6), steered(attached, tokens(1, 6))
    attached.model.to("cuda")
    with torch.no_grad():
        _, state = attached.forward(input_ids=ids.cuda(), use_cache=False)
    assert {each.device.type for each in state.values()} == {attached.device.type} == {"cuda"}
    attached.model.to("cpu")
    assert torch.allclose(steered(attached, ids), wanted, atol=1e-5)


@pytest.mark.parametrize("used", [False, True], ids=["unused", "under checkpointing"])
def test_generation_and_gradients_work_while_attached(attached, tokens, used):
    model, ids = attached.model, tokens(1, 4)
    if used:
        model.train()
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    out, state = attached.forward(input_ids=ids, use_cache=False)
    out, _ = attached.forward(state=state, write=False, input_ids=ids, use_cache=False)
    out.logits.square().mean().backward()
    assert all(each.grad is not None and each.grad.any() for each in attached.adapter.layer(0).parameters())
    model.eval()
    with torch.no_grad(), attached.bind({key: each.detach() for key, each in state.items()}):
        made = model.generate(ids, do_sample=False, max_new_tokens=3, eos_token_id=None, pad_token_id=0)
    assert made.shape == (1, 7)


def test_weights_made_in_inference_mode_carry_an_adapter(backbone, strong_adapter, tokens):
    with torch.inference_mode():
        model = copy.deepcopy(backbone())
    ids, adapter = tokens(1, 6), strong_adapter(backbone())
    attached, usual = attach(model, adapter), attach(backbone(), adapter)
    assert torch.allclose(steered(attached, ids), steered(usual, ids), atol=1e-6)


# Copies


def through_pickle(model):
    return pickle.loads(pickle.dumps(model))


def through_a_file(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("copied", [copy.deepcopy, through_pickle, through_a_file])
def test_a_copy_is_the_backbone_alone(attached, copied, tokens):
    """Also one that is made and used while a state is bound."""
    model, ids = attached.model, tokens(1, 6)
    frozen, wanted = logits_of(model, ids), steered(attached, ids)
    with attached.bind(attached.zero_state(1), write=True) as bound:
        other = copied(model)
        assert torch.equal(logits_of(other, ids), frozen)
        assert not any(each.any() for each in bound.state.values()), "the copy wrote to the original's state"
    assert "Delta" not in repr(other)
    weights = dict(other.named_parameters())
    assert list(other.state_dict()) == list(model.state_dict())
    for name, each in model.named_parameters():
        assert torch.equal(weights[name], each) and weights[name].data_ptr() != each.data_ptr()
        assert weights[name].untyped_storage().nbytes() == weights[name].nbytes, "memory's rows were copied too"
        assert weights[name].requires_grad == each.requires_grad
    with torch.no_grad():
        other.model.layers[0].self_attn.o_proj.weight.zero_()
    assert torch.equal(logits_of(model, ids), frozen) and torch.equal(steered(attached, ids), wanted)


@pytest.mark.parametrize("copied", [copy.deepcopy, through_pickle])
def test_a_copy_takes_an_adapter_of_its_own(attached, copied, tokens):
    ids, wanted = tokens(1, 6), steered(attached, tokens(1, 6))
    other = copied(copied(attached.model))
    again = attach(other, copy.deepcopy(attached.adapter))
    assert torch.allclose(steered(again, ids), wanted, atol=1e-6)
    attached.detach()
    assert torch.allclose(steered(again, ids), wanted, atol=1e-6)
    again.detach()
    assert torch.equal(logits_of(other, ids), logits_of(attached.model, ids))


def test_a_pickle_needs_nothing_of_this_package(attached):
    assert b"deltamem" not in pickle.dumps(attached.model) and b"DeltaLinear" not in pickle.dumps(attached.model)


# Wrappers, patches and hooks of others


class Shifted(nn.Module):
    """Another's wrapper module: a projection, plus a constant."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner
        self.in_features, self.out_features = inner.in_features, inner.out_features

    def forward(self, x):
        return self.inner(x) + 0.5


class Out(nn.Module):
    """A parametrisation of a weight."""

    def forward(self, weight):
        return weight + 0.05 * torch.sign(weight)


class ByModule:
    """Puts a wrapper module in the place of a projection, and the projection back wherever such a module is found."""

    def add(self, attention, name):
        setattr(attention, name, Shifted(getattr(attention, name)))

    def remove(self, attention):
        for parent in list(attention.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, Shifted):
                    setattr(parent, name, child.inner)


class OutOfSight:
    """Holds the projection where no walk through the modules finds it; takes itself away only if it is in its place."""

    def add(self, attention, name):
        self.name, inner = name, getattr(attention, name)
        self.module = Shifted(inner)
        del self.module.inner
        self.module.__dict__["inner"] = inner
        setattr(attention, name, self.module)

    def remove(self, attention):
        if getattr(attention, self.name) is self.module:
            setattr(attention, self.name, self.module.inner)


class ByPatch:
    """Replaces ``forward`` on the module."""

    def add(self, attention, name):
        self.module = getattr(attention, name)
        own = self.module.forward
        self.module.forward = self.patch = lambda x: own(x) + 0.5

    def remove(self, attention):
        if self.module.__dict__.get("forward") is self.patch:
            del self.module.forward


class ByHook:
    """Registers a forward hook."""

    def add(self, attention, name):
        module = getattr(attention, name)
        self.handle = module.register_forward_hook(lambda module, args, output: output + 0.5)

    def remove(self, attention):
        self.handle.remove()


class ByPreHook(ByHook):
    """Registers a hook that changes the input."""

    def add(self, attention, name):
        module = getattr(attention, name)
        self.handle = module.register_forward_pre_hook(lambda module, args: (args[0] + 0.5,))


class ByParametrization:
    """Computes the weight from another."""

    def add(self, attention, name):
        self.module = getattr(attention, name)
        parametrize.register_parametrization(self.module, "weight", Out())

    def remove(self, attention):
        parametrize.remove_parametrizations(self.module, "weight", leave_parametrized=False)


OTHERS = [ByModule, OutOfSight, ByPatch, ByHook, ByPreHook, ByParametrization]
ORDERS = [(first, last) for first in ("ours", "theirs") for last in ("ours", "theirs")]


@pytest.mark.parametrize("which", ["q_proj", "v_proj", "o_proj"])
@pytest.mark.parametrize("others", OTHERS)
def test_others_come_and_go_in_any_order(others, which, backbone, strong_adapter, tokens):
    """Both work while both are there, in whichever order they came; whoever stays works on; nothing is left."""
    ids, seen = tokens(1, 6), []
    adapter = strong_adapter(backbone(), corrections=ALL, alpha=64.0)
    for first, last in ORDERS:
        model, theirs = backbone(), others()
        attention = model.model.layers[1].self_attn
        before, frozen = names_of(model), logits_of(model, ids)
        alone = attach(model, adapter)
        memory = steered(alone, ids)
        alone.detach()
        theirs.add(attention, which)
        shifted = logits_of(model, ids)
        if first == "ours":
            theirs.remove(attention)
        attached = attach(model, adapter)
        if first == "ours":
            theirs.add(model.model.layers[1].self_attn, which)
        assert torch.allclose(logits_of(model, ids), shifted, atol=1e-6)
        both = steered(attached, ids)
        assert min((both - each).abs().max() for each in (memory, shifted, frozen)) > 1e-4
        seen.append(both)
        if last == "theirs":
            attached.detach()
            assert torch.allclose(logits_of(model, ids), shifted, atol=1e-6)
            theirs.remove(attention)
        else:
            theirs.remove(model.model.layers[1].self_attn)
            if (others, first) == (ByModule, "theirs"):  # with what it put there, it took away what stood around it
                with pytest.raises(InertAdapterError, match="1 of 12 corrected projections"):
                    steered(attached, ids)
            elif (others, first) == (OutOfSight, "theirs"):  # it is not in its place, so it stays
                assert torch.equal(steered(attached, ids), both)
            else:
                assert torch.allclose(steered(attached, ids), memory, atol=1e-5)
            attached.detach()
            if others is OutOfSight:
                theirs.remove(attention)
        assert torch.equal(logits_of(model, ids), frozen)
        again = attach(model, adapter)
        assert torch.allclose(steered(again, ids), memory, atol=1e-5)
        again.detach()
        after = names_of(model)
        assert list(after["modules"]) == list(before["modules"]) and after["parameters"] == before["parameters"]
        if (first, last) not in LEFT.get(others, ()):
            assert after == before
    if others is not ByHook:  # a hook before ours sees
        assert all(torch.allclose(each, seen[0], atol=1e-5) for each in seen)


# Where a wrapper of ours stays, as it is out of sight when the adapter is detached; it does nothing then.
LEFT = {OutOfSight: [("ours", "theirs")], ByParametrization: [("ours", "theirs")]}


def test_what_replaced_a_wrapper_stays_and_is_found_out(attached, tokens):
    model, ids = attached.model, tokens(1, 6)
    attention = model.model.layers[1].self_attn
    new = copy.deepcopy(attention.o_proj)
    with torch.no_grad():
        new.weight.mul_(2)
    attention.o_proj = new
    unbound = logits_of(model, ids)
    with pytest.raises(InertAdapterError, match="1 of 12 corrected projections"):
        steered(attached, ids)
    attached.detach()
    assert model.model.layers[1].self_attn.o_proj is new and "Delta" not in repr(model)
    assert torch.equal(logits_of(model, ids), unbound)


def test_a_wrapper_around_a_wrapped_attention_stays_too(attached, tokens):
    class Around(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, *args, **kwargs):
            output, weights = self.inner(*args, **kwargs)
            return output * 0.5, weights

    model, ids = attached.model, tokens(1, 6)
    layer = model.model.layers[0]
    layer.self_attn = Around(layer.self_attn)
    unbound = logits_of(model, ids)
    assert (steered(attached, ids) - unbound).abs().max() > 1e-3
    attached.detach()
    assert "Delta" not in repr(model) and isinstance(layer.self_attn, Around)
    assert torch.allclose(logits_of(model, ids), unbound, atol=1e-6)


@pytest.mark.parametrize("name", ["q_proj", "k_proj"])
def test_memory_reads_the_input_of_attention_whatever_a_projection_is_given(name, backbone, strong_adapter, tokens):
    """A wrapper that changes a projection's input changes no state of its own layer."""
    ids, states = tokens(1, 6), []
    for wrapped in (False, True):
        model = backbone()
        attached = attach(model, strong_adapter(model))
        if wrapped:
            module = getattr(model.model.layers[0].self_attn, name)
            module.register_forward_pre_hook(lambda module, args: (args[0] - 0.5,))
        with torch.no_grad():
            states.append(attached.forward(input_ids=ids)[1])
    first, second, _ = attached.keys
    assert torch.equal(states[0][first], states[1][first])
    assert not torch.allclose(states[0][second], states[1][second], atol=1e-4)


def test_an_attachment_that_fails_leaves_the_model_alone(model, strong_adapter, tokens):
    """A class that cannot be derived from, on a projection of the last layer."""

    class Sealed(nn.Linear):
        def __init_subclass__(cls):
            raise TypeError("sealed")

    adapter = strong_adapter(model)
    last = model.model.layers[-1].self_attn
    last.o_proj.__class__ = Sealed
    before, frozen = names_of(model), logits_of(model, tokens(1, 4))
    with pytest.raises(TypeError, match="sealed"):
        attach(model, adapter)
    assert names_of(model) == before
    assert torch.equal(logits_of(model, tokens(1, 4)), frozen)
    last.o_proj.__class__ = nn.Linear
    attach(model, adapter).detach()
    assert torch.equal(logits_of(model, tokens(1, 4)), frozen)
