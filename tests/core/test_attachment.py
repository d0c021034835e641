"""Attaching, binding around `generate`, isolation between models and threads, and refusals."""

from __future__ import annotations

import asyncio
import threading

import pytest
import torch

from deltamem_agents.core import DeltaMemConfig, attach, new_adapter, repeat_state, select_state, stack_states
from deltamem_agents.errors import (
    AdapterMismatchError,
    ClosedError,
    ConfigError,
    InertAdapterError,
    StateMismatchError,
    UnsupportedModelError,
)

pytestmark = pytest.mark.filterwarnings("ignore:The following generation flags")
GREEDY = dict(do_sample=False, max_new_tokens=6, pad_token_id=0, use_cache=True)


@pytest.fixture
def told(backbone, strong_adapter, tokens):
    """An attached model and the states of three agents, batched."""
    model = backbone()
    attached = attach(model, strong_adapter(model, alpha=64.0))
    with torch.no_grad():
        _, states = attached.forward(input_ids=tokens(3, 12, seed=5))
    yield attached, states
    attached.detach()


def greedy(attached, state, ids, steps, write):
    """What `generate` should do, by hand and without a cache where nothing is written."""
    made = ids
    for _ in range(steps):
        out, _ = attached.forward(state=state, write=False, input_ids=made, use_cache=False)
        made = torch.cat([made, out.logits[:, -1:].argmax(-1)], dim=1)
    return made


@torch.no_grad()
@pytest.mark.parametrize("cache", ["dynamic", "static"])
def test_generate_under_bind_reads_the_bound_state(told, cache, tokens):
    attached, states = told
    ids = tokens(3, 5)
    wanted = greedy(attached, states, ids, 6, write=False)
    frozen = attached.model.generate(ids, eos_token_id=None, **GREEDY)
    with attached.bind(states):
        made = attached.model.generate(ids, eos_token_id=None, cache_implementation=cache, **GREEDY)
    assert torch.equal(made, wanted)
    assert not torch.equal(made, frozen)
    assert torch.equal(attached.model.generate(ids, eos_token_id=None, **GREEDY), frozen)


@torch.no_grad()
def test_bind_takes_rows_of_a_pool_and_shares_them_among_beams(told, tokens):
    attached, pool = told
    ids = tokens(2, 5)
    with attached.bind(pool, slots=[2, -1]):
        made = attached.model(input_ids=ids).logits
    picked = select_state(pool, [2, -1])
    wanted, _ = attached.forward(state=picked, write=False, input_ids=ids)
    assert torch.allclose(made, wanted.logits, atol=1e-6)
    assert torch.allclose(made[1], attached.model(input_ids=ids).logits[1], atol=1e-5)
    with attached.bind(picked):
        beams = attached.model.generate(ids, num_beams=3, eos_token_id=None, **GREEDY)
    assert beams.shape == (2, 11)
    with attached.bind(repeat_state(picked, 2)), pytest.raises(StateMismatchError, match="4 rows, the input 2"):
        attached.model(input_ids=ids)


@torch.no_grad()
def test_writing_while_generating_stops_where_a_row_stops(told, tokens):
    """Each row of a batch ends with the state it has alone, although generation keeps feeding finished rows."""
    attached, states = told
    ids = tokens(3, 5)
    with attached.bind(states, write=True):
        made = attached.model.generate(ids, eos_token_id=None, **GREEDY)
    stop = int(made[0, 6])
    with attached.bind(states, write=True, eos_token_id=stop) as bound:
        attached.model.generate(ids, eos_token_id=stop, **GREEDY)
    for row in range(3):
        one = {key: each[row : row + 1] for key, each in states.items()}
        with attached.bind(one, write=True, eos_token_id=stop) as alone:
            attached.model.generate(ids[row : row + 1], eos_token_id=stop, **GREEDY)
        for key in states:
            assert torch.allclose(bound.state[key][row], alone.state[key][0], atol=1e-5)
    with attached.bind(states, write=True), pytest.raises(StateMismatchError, match="beam search"):
        attached.model.generate(ids, num_beams=2, eos_token_id=None, **GREEDY)


@torch.no_grad()
def test_states_given_are_never_changed(told, tokens):
    attached, states = told
    kept = {key: each.clone() for key, each in states.items()}
    attached.forward(state=states, input_ids=tokens(3, 4))
    with attached.bind(states, write=True) as bound:
        attached.model(input_ids=tokens(3, 4))
    assert all(torch.equal(states[key], kept[key]) for key in kept)
    assert not torch.equal(bound.state[attached.keys[0]], kept[attached.keys[0]])


@torch.no_grad()
def test_two_models_with_two_adapters_do_not_meet(backbone, strong_adapter, tokens):
    first, second = backbone("qwen3"), backbone("llama")
    ids = tokens(1, 8)
    alone, state = attach(first, strong_adapter(first)).forward(input_ids=ids)
    plain = second(input_ids=ids).logits
    other = attach(second, strong_adapter(second, rank=4, seed=3))
    again = attach(backbone("qwen3"), strong_adapter(first))
    with other.bind(None, write=True):
        out, after = again.forward(input_ids=ids)
        assert not torch.equal(second(input_ids=ids).logits, plain)
    assert torch.equal(out.logits, alone.logits)
    assert all(torch.equal(after[key], state[key]) for key in state)
    assert torch.equal(second(input_ids=ids).logits, plain)


@torch.no_grad()
def test_threads_do_not_see_each_others_states(told, tokens):
    attached, states = told
    ids = tokens(1, 6)
    rows = [{key: each[row : row + 1] for key, each in states.items()} for row in range(3)]
    wanted = [attached.forward(state=row, write=False, input_ids=ids)[0].logits for row in rows]
    frozen = attached.model(input_ids=ids).logits
    wrong = []

    def work(index):
        with torch.no_grad():
            for _ in range(10):
                if index == 3:
                    made, expected = attached.model(input_ids=ids).logits, frozen
                else:
                    made = attached.forward(state=rows[index], write=False, input_ids=ids)[0].logits
                    expected = wanted[index]
                if not torch.equal(made, expected):
                    wrong.append(index)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert wrong == []


async def test_tasks_do_not_see_each_others_binds(told, tokens):
    attached, states = told
    ids = tokens(3, 6)
    with torch.no_grad():
        frozen = attached.model(input_ids=ids).logits
    inside, outside = asyncio.Event(), asyncio.Event()

    async def bound():
        with attached.bind(states):
            inside.set()
            await outside.wait()

    async def unbound():
        await inside.wait()
        with torch.no_grad():
            made = attached.model(input_ids=ids).logits
        outside.set()
        return made

    _, made = await asyncio.gather(bound(), unbound())
    assert torch.equal(made, frozen)


def test_a_failed_forward_leaves_nothing_behind(told, tokens):
    attached, states = told
    ids = tokens(3, 6)
    with torch.no_grad():
        frozen = attached.model(input_ids=ids).logits
        with pytest.raises(IndexError), attached.bind(states, write=True) as bound:
            attached.model(input_ids=ids + 1000)
        assert bound.state is not None
        assert all(torch.equal(bound.state[key], states[key]) for key in states)
        assert torch.equal(attached.model(input_ids=ids).logits, frozen)


def test_attaching_twice_and_after_detach(told):
    attached, _ = told
    with pytest.raises(AdapterMismatchError, match="detach it first"):
        attach(attached.model, attached.adapter)
    with pytest.raises(AdapterMismatchError, match="detach it first"):
        attach(attached.model.model, attached.adapter)
    attached.detach()
    with pytest.raises(ClosedError):
        attached.forward(input_ids=torch.ones(1, 2, dtype=torch.long))
    attach(attached.model, attached.adapter).detach()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_size": 64}, "layer 0: adapter has input width 32, the model 64"),
        ({"num_hidden_layers": 2}, "adapter is for 3 layers, the model has 2"),
        ({"num_hidden_layers": 4}, "adapter is for 3 layers, the model has 4"),
        ({"head_dim": 8}, "adapter has q width 64, the model 32"),
    ],
)
def test_an_adapter_of_another_backbone_is_refused(change, message, backbone):
    adapter = new_adapter(backbone(), DeltaMemConfig())
    with pytest.raises(AdapterMismatchError, match=message):
        attach(backbone(**change), adapter)


def test_another_family_and_unknown_families_are_refused(backbone):
    adapter = new_adapter(backbone(), DeltaMemConfig())
    with pytest.raises(AdapterMismatchError, match="'qwen3', the model is 'llama'"):
        attach(backbone("llama"), adapter)
    from transformers import GPT2Config, GPT2LMHeadModel

    gpt2 = GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=8, n_head=1, vocab_size=10))
    with pytest.raises(UnsupportedModelError, match=r"'gpt2' is not supported; use one of .*llama.*qwen3"):
        attach(gpt2, adapter)
    with pytest.raises(ConfigError, match="layer 3; the model has layers 0 to 2"):
        new_adapter(backbone(), DeltaMemConfig(layers=(1, 3)))


@torch.no_grad()
def test_an_inert_adapter_fails_loudly(backbone, strong_adapter, tokens):
    model = backbone()
    adapter = strong_adapter(model)
    attached = attach(model, adapter)
    bypassed, ids = backbone(), tokens(1, 4)
    original = model.model.layers[1].self_attn
    model.model.layers[1].self_attn = bypassed.model.layers[1].self_attn
    with pytest.raises(InertAdapterError, match=r"layers \[1\]"):
        attached.forward(input_ids=ids)
    model.model.layers[1].self_attn = original
    projection = original.o_proj
    original.o_proj = bypassed.model.layers[1].self_attn.o_proj
    with pytest.raises(InertAdapterError, match="1 of 6 corrected projections"):
        attached.forward(state=attached.zero_state(1), write=False, input_ids=ids)
    original.o_proj = projection
    attached.forward(input_ids=ids)
    for parameter in adapter.parameters():
        parameter.zero_()
    with pytest.raises(InertAdapterError, match="state of zeros"):
        attached.forward(input_ids=ids)
    attached.forward(input_ids=ids, attention_mask=torch.zeros(1, 4, dtype=torch.long))
    attached.forward(write=False, input_ids=ids)


def test_states_that_do_not_fit_are_refused(told, tokens):
    attached, states = told
    ids, first = tokens(3, 4), attached.keys[0]
    bad = [
        ({}, "0 modules, the adapter 3"),
        (states | {first: states[first].half()}, "float16; states are float32"),
        (states | {first: states[first][:, :4, :4]}, r"shape \[3, 4, 4\]"),
        (states | {first: states[first][:2]}, "instead of"),
        ({key: each[:2] for key, each in states.items()}, "2 rows, the input 3"),
    ]
    for state, message in bad:
        with pytest.raises(StateMismatchError, match=message):
            attached.forward(state=state, input_ids=ids)
    with pytest.raises(StateMismatchError, match="at least one"):
        stack_states([])
    row = {key: each[0] for key, each in states.items()}
    with pytest.raises(StateMismatchError, match="differ in shape"):
        stack_states([row, row | {first: row[first][:4]}])
    with pytest.raises(StateMismatchError, match="different modules"):
        stack_states([row, {first: row[first]}])


def test_too_little_memory_is_never_told_as_states_that_do_not_match(monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(torch, "stack", full)
    with pytest.raises(torch.OutOfMemoryError):
        stack_states([{"layer": torch.zeros(2)}, {"layer": torch.zeros(2)}])


def test_a_text_said_over_and_over_may_come_to_a_fixed_point(backbone, strong_adapter):
    model = backbone()
    attached = attach(model, strong_adapter(model))
    ids = torch.full((1, 64), 7)
    state = None
    for _ in range(40):
        _, state = attached.forward(state=state, input_ids=ids)
    assert all(tensor.any() for tensor in state.values())
