"""Attached models under ``torch.compile``: one graph, the same numbers, and each thread its own state."""

from __future__ import annotations

import copy
import pickle
import threading

import pytest
import torch

from deltamem_agents.core import attach
from deltamem_agents.errors import InertAdapterError

pytestmark = [pytest.mark.usefixtures("fresh_compiler"), pytest.mark.slow]  # tracing a model takes seconds
SEVERAL = {"heads": 2, "corrections": ("q", "k", "v", "o"), "couple_lambda": False}


@pytest.fixture
def fresh_compiler():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def compiled(function):
    """Traced by Dynamo into one graph (a break is an error) and through autograd, run without code generation."""
    return torch.compile(function, fullgraph=True, backend="aot_eager")


def drawn(attached, seed, rows=1):
    generator = torch.Generator().manual_seed(seed)
    shape = attached.adapter.config.state_shape
    return {key: torch.randn(rows, *shape, generator=generator) * 0.3 for key in attached.keys}


@pytest.mark.parametrize(("family", "options"), [("qwen3", SEVERAL), ("llama", {})], ids=["qwen3", "llama"])
def test_forward_is_one_graph(family, options, backbone, strong_adapter, tokens, relative):
    model = backbone(family, num_hidden_layers=2)
    attached = attach(model, strong_adapter(model, **options))
    run = compiled(attached.forward)
    ids, mask = tokens(2, 9), torch.ones(2, 9, dtype=torch.long)
    mask[0, :2] = 0
    with torch.no_grad():
        for write in (True, False):
            for seed in (1, 2):
                state = drawn(attached, seed, 2)
                arguments = {"input_ids": ids, "attention_mask": mask, "use_cache": False}
                wanted, after = attached.forward(state=state, write=write, **arguments)
                got, left = run(state=state, write=write, **arguments)
                assert relative(got.logits[mask.bool()], wanted.logits[mask.bool()]) < 1e-5
                assert all(relative(left[key], after[key]) < 1e-5 for key in after)


@pytest.mark.parametrize("write", ["sentence", "message"])
def test_span_writes_are_one_graph(write, backbone, strong_adapter, tokens, relative):
    model = backbone(num_hidden_layers=2)
    attached = attach(model, strong_adapter(model, write=write))
    spans = torch.tensor([[0, 0, 1, 1, 1, 2, -1, 2, 3]])
    arguments = {"input_ids": tokens(1, 9), "message_ids": spans, "sentence_ids": spans, "use_cache": False}
    with torch.no_grad():
        wanted, after = attached.forward(**arguments)
        got, left = compiled(attached.forward)(**arguments)
    assert relative(got.logits, wanted.logits) < 1e-5
    assert all(relative(left[key], after[key]) < 1e-5 for key in after)


def test_gradients_through_one_graph(backbone, strong_adapter, tokens, relative):
    model = backbone(num_hidden_layers=2)
    attached = attach(model, strong_adapter(model, couple_lambda=False))
    ids = tokens(2, 8)

    def loss(forward):
        out, state = forward(state=drawn(attached, 1, 2), input_ids=ids, use_cache=False)
        return out.logits.square().mean() + sum(each.square().sum() for each in state.values())

    parameters = list(attached.adapter.parameters())
    wanted = torch.autograd.grad(loss(attached.forward), parameters)
    got = torch.autograd.grad(loss(compiled(attached.forward)), parameters)
    for a, b in zip(got, wanted, strict=True):
        assert relative(a, b) < 1e-4


@pytest.mark.parametrize("family", ["qwen3", "llama"])
def test_a_compiled_model_reads_what_is_bound(family, backbone, strong_adapter, tokens, relative):
    model = backbone(family, num_hidden_layers=2)
    ids = tokens(1, 7)
    with torch.no_grad():
        frozen = model(input_ids=ids, use_cache=False).logits
        run = compiled(model)
        assert torch.allclose(run(input_ids=ids, use_cache=False).logits, frozen, atol=1e-6)
        attached = attach(model, strong_adapter(model))  # after it was compiled
        assert torch.allclose(run(input_ids=ids, use_cache=False).logits, frozen, atol=1e-6), "unbound"
        for seed in (1, 2, 3):
            with attached.bind(drawn(attached, seed)):
                wanted = model(input_ids=ids, use_cache=False).logits
                got = run(input_ids=ids, use_cache=False).logits
            assert relative(got, wanted) < 1e-5
            assert relative(got, frozen) > 1e-3
        with attached.bind(drawn(attached, 4), write=True) as bound:
            run(input_ids=ids, use_cache=False)
            left = bound.state
        _, after = attached.forward(state=drawn(attached, 4), input_ids=ids, use_cache=False)
        assert all(relative(left[key], after[key]) < 1e-5 for key in after)
        attached.detach()
        assert torch.allclose(run(input_ids=ids, use_cache=False).logits, frozen, atol=1e-6), "detached"


def test_a_copy_of_an_attached_model_is_one_graph_without_memory(backbone, strong_adapter, tokens):
    model = backbone(num_hidden_layers=2)
    ids = tokens(1, 7)
    with torch.no_grad():
        frozen = model(input_ids=ids, use_cache=False).logits
        attached = attach(model, strong_adapter(model))
        for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            with attached.bind(drawn(attached, 1)):
                assert torch.allclose(compiled(copied)(input_ids=ids, use_cache=False).logits, frozen, atol=1e-6)


def test_threads_that_share_a_compiled_model_read_their_own_states(backbone, strong_adapter, tokens, relative):
    model = backbone(num_hidden_layers=2)
    attached = attach(model, strong_adapter(model))
    run = compiled(model)
    ids = tokens(1, 6)
    with torch.no_grad():
        frozen = model(input_ids=ids, use_cache=False).logits
        wanted = [attached.forward(state=drawn(attached, s), write=False, input_ids=ids)[0].logits for s in range(3)]
        run(input_ids=ids, use_cache=False)
    worst, barrier = [], threading.Barrier(4)

    def work(seed):
        barrier.wait()
        for _ in range(10):
            with torch.no_grad():
                if seed == 3:  # nothing bound here
                    worst.append(relative(run(input_ids=ids, use_cache=False).logits, frozen))
                else:
                    with attached.bind(drawn(attached, seed)):
                        worst.append(relative(run(input_ids=ids, use_cache=False).logits, wanted[seed]))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(worst) == 40 and max(worst) < 1e-5


def test_an_inert_adapter_is_found_out_by_the_next_call(backbone, strong_adapter, tokens):
    model = backbone(num_hidden_layers=2)
    adapter = strong_adapter(model)
    with torch.no_grad():
        for index in adapter.layer_indices:
            adapter.layer(index).memory.zero_()
    attached = attach(model, adapter)
    with torch.no_grad():
        compiled(attached.forward)(input_ids=tokens(1, 5), use_cache=False)
    with pytest.raises(InertAdapterError, match="left a state of zeros"):
        attached.check()
