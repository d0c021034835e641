"""The recipes that come with the package, each tried on a small random model of its family."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
import transformers

from deltamem_agents.core import DeltaMemConfig, load_adapter
from deltamem_agents.engine import Engine, Sampling, load
from deltamem_agents.errors import ConfigError
from deltamem_agents.training.adapters.config import (
    RECIPES,
    AdapterTrainingConfig,
    read_recipe,
    recipe_names,
)
from deltamem_agents.training.adapters.data import divided
from deltamem_agents.training.adapters.run import train_adapter_for

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def with_tokens(tokenizer, *tokens: str, end: str, template: str | None):
    made = copy.deepcopy(tokenizer)
    made.add_special_tokens({"additional_special_tokens": list(tokens), "bos_token": tokens[0], "eos_token": end})
    made.chat_template = template
    return made


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_is_valid(name) -> None:
    config = AdapterTrainingConfig.from_dict(read_recipe(name))
    assert AdapterTrainingConfig.from_dict(json.loads(json.dumps(config.as_dict()))) == config
    assert {path.suffix for path in RECIPES.iterdir() if path.is_file()} <= {".json", ".jinja"}


def test_ten_steps_of_the_recipe_for_qwen3(tokenizer, some_episodes, tmp_path) -> None:
    mine = with_tokens(tokenizer, "<|endoftext|>", "<|im_start|>", "<|im_end|>", end="<|im_end|>", template=CHATML)
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 8, "num_key_value_heads": 2}
    torch.manual_seed(0)
    config = transformers.Qwen3Config(
        vocab_size=len(mine), num_hidden_layers=2, head_dim=16, tie_word_embeddings=True, pad_token_id=0, **sizes
    )
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    recipe = read_recipe("qwen3-4b") | {
        "steps": 10,
        "evaluation": 2,
        "calibration": 0,
        "accumulation": 2,
        "warmup": 3,
        "log_every": 1,
    }
    data = divided(some_episodes(20), {}, seed=0, evaluation=2)
    trained = train_adapter_for((model, mine), data, tmp_path / "out", AdapterTrainingConfig.from_dict(recipe))
    assert len(trained.losses) == 10 and all(0 < loss < 20 for loss in trained.losses.values())
    adapter = load_adapter(tmp_path / "out")
    assert (adapter.config.rank, adapter.config.alpha, adapter.config.corrections) == (8, 16.0, ("q", "o"))
    assert adapter.layer_indices == (0, 1) and adapter.config.write_length == 8192


def test_the_recipe_for_gemma_brings_the_chat_template_of_a_base_model(tokenizer, some_episodes, tmp_path) -> None:
    base = with_tokens(tokenizer, "<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>", end="<eos>", template=None)
    torch.manual_seed(0)
    config = transformers.Gemma3TextConfig(
        vocab_size=len(base),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=18,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=8,
        sliding_window=64,
        pad_token_id=0,
    )
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    recipe = read_recipe("gemma-3-270m") | {"steps": 2, "episodes": 2, "evaluation": 2, "calibration": 0}
    data = divided(some_episodes(20), {}, seed=0, evaluation=2)
    train_adapter_for((model, base), data, tmp_path / "out", AdapterTrainingConfig.from_dict(recipe))
    loaded = load(adapter=tmp_path / "out", model=model, tokenizer=base)
    assert loaded.adapter.layer_indices == (5, 11, 13, 17) and loaded.adapter.state_bytes() == 65_536
    engine = Engine(loaded)
    try:
        end = base.convert_tokens_to_ids("<end_of_turn>")
        with torch.no_grad():  # a model that always says the end of a turn has ended its answer
            prompt = engine.rendering.prompt([user("Hello.")])
            said = "".join(base.decode(prompt).split())
            assert said == "<bos><start_of_turn>userHello.<end_of_turn><start_of_turn>model"
            hidden = model.model(torch.tensor([prompt])).last_hidden_state[0, -1]
            model.lm_head.weight[end] = 100 * hidden / hidden.norm()
        answer = engine.generate(prompt, sampling=Sampling(max_tokens=5)).result()
        assert answer.finished and answer.text == ""
    finally:
        engine.close()


def user(content: str) -> dict[str, str]:
    return {"role": "user", "content": content}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"learning_rate": 0}, "learning_rate is 0; give a number above 0"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"full_share": 1.5}, "full_share is 1.5"),
        ({"evaluation": 1}, "evaluation is 1"),
        ({"schedule": "steep"}, "schedule 'steep' is not one of linear, cosine, constant"),
        ({"precision": "float16"}, "precision 'float16' is not one of auto, float32, bfloat16"),
        ({"adapter": {"rank": 65}}, "rank is 65"),
        ({"adapter": {"ranks": 8}}, "adapter has no option 'ranks'"),
        ({"adapter": 8}, "adapter is 8"),
        ({"step": 8}, "training has no option 'step'"),
        ({"checkpointing": "yes"}, "checkpointing is 'yes'"),
        ({"mixture": 3}, "mixture is 3; give an object"),
    ],
)
def test_what_is_out_of_range_is_refused(change, told) -> None:
    with pytest.raises(ConfigError, match=told):
        AdapterTrainingConfig.from_dict(change)


def test_recipes_that_cannot_be_read(tmp_path) -> None:
    with pytest.raises(ConfigError, match=r"there is no recipe 'gemma'; .*gemma-3-270m"):
        read_recipe("gemma")
    (tmp_path / "odd.json").write_text("[]")
    with pytest.raises(ConfigError, match="give a JSON object"):
        read_recipe(tmp_path / "odd.json")
    (tmp_path / "odd.json").write_text('{"chat_template": "missing.jinja"}')
    with pytest.raises(ConfigError, match="cannot be read"):
        read_recipe(tmp_path / "odd.json")


def test_the_whole_vocabulary_comes_last() -> None:
    config = AdapterTrainingConfig(adapter=DeltaMemConfig(), steps=100, negatives=10, full_share=0.2)
    assert config.full_from == 80
    assert replace(config, negatives=0).full_from == 0


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
