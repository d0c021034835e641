"""The start from induction heads: which heads these are, what they match and copy, and what a state does with it."""

from __future__ import annotations

import pytest
import torch
import transformers

from deltamem_agents import tiny
from deltamem_agents.core import DeltaMemConfig, attach, new_adapter
from deltamem_agents.engine import Rendering, load_backbone
from deltamem_agents.errors import ConfigError
from deltamem_agents.training.adapters.collation import EpisodeCollator
from deltamem_agents.training.adapters.episode_loss import EpisodeLoss
from deltamem_agents.training.adapters.induction_heads import circuits, induction_scores, start_as_induction_heads
from deltamem_agents.training.adapters.rendered import EpisodeRenderer
from deltamem_agents.training.episodes import Episode, Question

FAMILIES = [
    ("LlamaConfig", {}),
    ("Qwen3Config", {"head_dim": 16}),
    ("Gemma3TextConfig", {"head_dim": 16}),
    ("SmolLM3Config", {"no_rope_layers": [1, 0]}),
    ("Phi3Config", {}),
    ("Olmo2Config", {}),
]
FACTS = [
    ("My favourite colour is teal.", "What is my favourite colour?", "teal"),
    ("Mara lives in Oslo.", "Where does Mara live?", "Oslo"),
    ("My dog is called Rex.", "What is my dog called?", "Rex"),
]


def rms(projected: torch.Tensor, norm: torch.nn.Module | None, head: int, size: int) -> torch.Tensor:
    """By what a norm divides a head's part of a projection."""
    if norm is None:
        return torch.ones(())
    part = projected if norm.weight.numel() > size else projected.unflatten(-1, (-1, size))[..., head, :]
    return part.square().mean(-1, keepdim=True).sqrt()


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize(("name", "extra"), FAMILIES)
def test_circuits_are_those_of_the_attention(name: str, extra: dict, layer: int) -> None:
    """Two tokens at one position: the odds between them are the difference of their products with the query."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "pad_token_id": 0}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "attn_implementation": "eager"}
    config = getattr(transformers, name)(**sizes, **heads, initializer_range=0.3, **extra)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    for parameter in (each for name, each in model.named_parameters() if "norm" in name):
        torch.nn.init.normal_(parameter, 0.5, 0.2)
    attention, seen = model.model.layers[layer].self_attn, {}
    attention.register_forward_pre_hook(lambda _, args, given: seen.update(given), with_kwargs=True)
    attention.o_proj.register_forward_hook(lambda _, args, output: seen.update(output=output))
    size = getattr(config, "head_dim", None) or 8
    norms = [getattr(attention, f"{each}_norm", None) for each in ("q", "k")]
    with torch.no_grad():
        places = torch.zeros(1, 2, dtype=torch.int64)
        given = model(torch.tensor([[5, 9]]), position_ids=places, output_attentions=True).attentions[layer][0, :, 1]
        inputs, copied = seen["hidden_states"][0], torch.zeros(32)
        for head in range(4):
            match, copy = circuits(model, layer, [head], slow=0.0)
            if norms[0] is None:
                held, asked = inputs, inputs[1]
            else:
                held = inputs / rms(attention.k_proj(inputs), norms[1], head // 2, size)
                asked = inputs[1] / rms(attention.q_proj(inputs[1]), norms[0], head, size)
            odds = (given[head, 0] / given[head, 1]).log() / attention.scaling
            assert odds.item() == pytest.approx((asked @ match @ (held[0] - held[1])).item(), rel=1e-3, abs=1e-3)
            copied += given[head] @ (inputs @ copy.T)
        assert torch.allclose(copied, seen["output"][0, 1], atol=1e-4)


def test_fast_rotary_pairs_tell_no_contents() -> None:
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=97, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=1
        )
    )
    ranks = [int(torch.linalg.matrix_rank(circuits(model, 0, [0], slow=slow)[0])) for slow in (0.0, 600.0, 1e9)]
    assert ranks == [32, 16, 0]  # pairs 8 to 15 of 16 turn once in 2π · 10,000^(pair/16) tokens, which is over 600


def test_heads_of_the_bundled_model() -> None:
    model, _ = load_backbone(str(tiny.FOLDER), "cpu", "float32")
    before = model.config._attn_implementation
    scores = induction_scores(model)
    assert min(scores[2]) > 0.9 and max(scores[0] + scores[1]) < 0.1  # the third layer looks things up
    assert model.config._attn_implementation == before and induction_scores(model) == scores


def test_a_state_tells_facts_before_any_training() -> None:
    model, tokenizer = load_backbone(str(tiny.FOLDER), "cpu", "float32")
    render = EpisodeRenderer(Rendering(tokenizer), 256)
    episodes = [
        render(
            Episode(
                sessions=(({"role": "user", "content": told},),),
                questions=(Question(messages=({"role": "user", "content": asked},), answer=answer),),
            )
        )
        for told, asked, answer in FACTS
    ]
    batch = EpisodeCollator(0, "token")(episodes)
    adapter = new_adapter(model, DeltaMemConfig(rank=64, couple_lambda=False, layers=(2, 3), write_length=256), seed=0)
    start_as_induction_heads(adapter, model, [each.ids for one in episodes for each in one.segments])
    attached = attach(model, adapter)
    try:
        module = EpisodeLoss(attached)
        state, own = module.fold(batch), batch["slots"]
        losses = {
            arm: module.score(batch, state, slots).loss
            for arm, slots in {"own": own, "zero": torch.full_like(own, -1), "donor": (own + 1) % 3}.items()
        }
    finally:
        attached.detach()
    assert (losses["own"] < losses["zero"] - 1).all() and (losses["own"] < losses["donor"] - 0.5).all(), losses


def test_shapes_that_have_no_such_start() -> None:
    model, _ = load_backbone(str(tiny.FOLDER), "cpu", "float32")
    for shape in ({"heads": 2}, {"corrections": ("q",)}):
        adapter = new_adapter(model, DeltaMemConfig(rank=4, layers=(2,), **shape), seed=0)
        with pytest.raises(ConfigError, match="start 'induction' needs one state head and a correction of o"):
            start_as_induction_heads(adapter, model, [[5, 6, 7]])
