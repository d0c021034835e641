"""Backbones whose layers see a window of the newest tokens only: batches, padding and chunks leave it as it is."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Gemma3TextConfig, MistralConfig, PreTrainedModel

from deltamem_agents import tiny
from deltamem_agents.core import DeltaMemConfig, State, attach, new_adapter
from deltamem_agents.engine import Engine, Limits, Sampling, Segment
from deltamem_agents.engine.loading import Loaded

SIZES = dict(
    vocab_size=4096,
    hidden_size=64,
    intermediate_size=96,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=2,
    sliding_window=6,
    max_position_embeddings=512,
    eos_token_id=None,
)
CONFIGS = {
    "mistral": MistralConfig(**SIZES),
    "gemma3": Gemma3TextConfig(**SIZES, head_dim=16, sliding_window_pattern=2, query_pre_attn_scalar=16),
}
TOKENS = 10


@pytest.fixture(scope="module", params=CONFIGS)
def model(request: pytest.FixtureRequest) -> PreTrainedModel:
    torch.manual_seed(0)
    made: PreTrainedModel = AutoModelForCausalLM.from_config(CONFIGS[request.param]).eval()
    return made


@pytest.fixture(scope="module")
def adapter(model: PreTrainedModel):  # type: ignore[no-untyped-def]
    made = new_adapter(model, DeltaMemConfig(rank=4, write_length=64), seed=3)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(4)) * 0.1)
    return made


@pytest.fixture
def engine(model: PreTrainedModel, adapter) -> Iterator[Engine]:  # type: ignore[no-untyped-def]
    tokenizer = AutoTokenizer.from_pretrained(tiny.FOLDER)
    made = Engine(Loaded("windowed", model, tokenizer, adapter), limits=Limits(chunk=8, batch=512))
    yield made
    made.close()


def ids(length: int, seed: int) -> list[int]:
    return torch.randint(50, 1000, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def segment(length: int, seed: int) -> Segment:
    return Segment(0, 1, ids(length, seed), [0] * length, [0] * length)


def by_itself(model: PreTrainedModel, adapter, prompt: list[int], state: State) -> list[int]:  # type: ignore[no-untyped-def]
    """What Transformers generates, token by token and without any cache, under the state."""
    attached = attach(model, adapter)
    found = list(prompt)
    with torch.inference_mode(), attached.bind({name: tensor[None] for name, tensor in state.items()}):
        for _ in range(TOKENS):
            found.append(int(model(input_ids=torch.tensor([found]), use_cache=False).logits[0, -1].argmax()))
    attached.detach()
    return found[len(prompt) :]


def test_answers_are_those_of_the_model_alone(engine: Engine, model, adapter) -> None:  # type: ignore[no-untyped-def]
    prompts = [ids(length, length) for length in (3, 25, 11, 40, 7)]
    folds = [engine.fold(None, [segment(length, length)]) for length in (60, 12, 33, 5, 20)]
    states = [fold.result()[-1] for fold in folds]
    alone = [engine.fold(None, [segment(length, length)]).result()[-1] for length in (60, 12, 33, 5, 20)]
    for one, other in zip(states, alone, strict=True):
        assert all(torch.allclose(one[name], other[name], rtol=1e-4, atol=1e-6) for name in one)

    asked = [engine.generate(p, s, sampling=Sampling(max_tokens=TOKENS)) for p, s in zip(prompts, states, strict=True)]
    answers = [list(each.result().ids) for each in asked]
    engine.close()  # the model carries one adapter at a time
    assert answers == [by_itself(model, adapter, p, s) for p, s in zip(prompts, states, strict=True)]


def test_a_hot_segment_goes_on_as_a_cold_one(engine: Engine) -> None:
    from deltamem_agents.engine import AgentKey

    whole = segment(50, 1)
    begun = Segment(0, 1, whole.ids[:30], [0] * 30, [0] * 30)
    key = AgentKey("db", "a", 1)
    engine.fold(None, [begun], open_for=key).result()
    hot = engine.fold(None, [whole], open_for=key).result()[-1]
    cold = engine.fold(None, [whole]).result()[-1]
    assert all(torch.allclose(hot[name], cold[name], rtol=1e-4, atol=1e-6) for name in cold)
