"""A random model with the bundled one's tokenizer, message format and state shape, for tests that measure no quality.

It is an eighth of the bundled model's size, and stays so when that grows. Its answers are short and mean nothing.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

WIDTH, LAYERS = 48, 2
KEEP_BIAS = 5.0  # a state keeps what the first messages wrote, as the bundled one does
END_BIAS = 4.0  # how much likelier than a word the end of a message is; most answers are of a few tokens


def write_small_model(folder: Path) -> None:
    """Write backbone, tokenizer and adapter; the same files each time."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    from deltamem_agents import tiny
    from deltamem_agents.core import load_adapter, new_adapter, save_adapter

    tokenizer = AutoTokenizer.from_pretrained(tiny.FOLDER)
    config = AutoConfig.from_pretrained(tiny.FOLDER)
    config.update(
        {
            "hidden_size": WIDTH,
            "intermediate_size": 2 * WIDTH,
            "num_hidden_layers": LAYERS,
            "layer_types": ["full_attention"] * LAYERS,
            "no_rope_layers": [1] + [0] * (LAYERS - 1),
            "tie_word_embeddings": False,
            "initializer_range": 0.15,
        }
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        embedding = model.get_input_embeddings().weight
        embedding[:, 0] = 0.5  # a constant, from which the end gets its bias
        embedding[tokenizer.convert_tokens_to_ids("<|assistant|>"), 0] = -0.5  # no answer is empty
        model.get_output_embeddings().weight[:, 0] = 0
        model.get_output_embeddings().weight[config.eos_token_id, 0] = END_BIAS
    model.bfloat16().save_pretrained(folder)
    for file in tiny.FOLDER.glob("*"):
        if file.name.startswith(("tokenizer", "chat_template", "generation_config")):
            shutil.copy(file, folder)
    bundled = load_adapter(tiny.FOLDER / "adapter")
    shape = replace(bundled.config, hidden_size=None, num_layers=None, layers=tuple(range(LAYERS)))
    adapter = new_adapter(model.float(), shape, seed=1)
    adapter.calibration = bundled.calibration
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
        for layer in adapter.layer_indices:
            adapter.layer(layer).gate_bias[shape.gate_width :] = KEEP_BIAS
    save_adapter(adapter, folder / "adapter")
