"""The sizes of a small backbone, and its initial weights."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from transformers import PreTrainedTokenizerBase, SmolLM3Config, SmolLM3ForCausalLM

from deltamem_agents import arguments
from deltamem_agents.errors import ConfigError
from deltamem_agents.training.induction import ROPE_THETA, start_with_lookup


@dataclass(frozen=True, slots=True, kw_only=True)
class BackboneShape:
    """Sizes of a SmolLM3 whose upper layers have no positions.

    Args:
        vocabulary: Tokens of its tokenizer.
        width: Hidden size; a multiple of ``head``.
        layers: Decoder layers.
        rotary: Number of first layers with rotary positions.
        looking: Number of these whose heads begin by looking back; see `induction`.
        head: Width of one attention head.
        inner: Width of the feed-forward layers.

    Raises:
        ConfigError: A size is out of range, or does not fit another.
    """

    vocabulary: int = 4096
    width: int = 256
    layers: int = 4
    rotary: int = 2
    looking: int = 2
    head: int = 64
    inner: int = 512

    def __post_init__(self) -> None:
        for each in fields(self):
            arguments.whole(getattr(self, each.name), each.name, 1, 1 << 16)
        if self.width % self.head or self.head % 2 or self.width < 2 * self.head:
            raise ConfigError(
                f"width is {self.width}, head {self.head}; give an even head, and a width of two or more of them"
            )
        if not self.looking <= self.rotary < self.layers:
            raise ConfigError(
                f"looking, rotary and layers are {self.looking}, {self.rotary} and {self.layers}; give numbers in "
                "rising order, the last one above the others"
            )


def fresh_backbone(
    shape: BackboneShape, tokenizer: PreTrainedTokenizerBase, *, seed: int, attention: str = "sdpa"
) -> SmolLM3ForCausalLM:
    """An untrained backbone whose heads begin by looking things up; ``shape.vocabulary`` is the tokenizer's to give."""
    torch.manual_seed(seed)
    heads = shape.width // shape.head
    config = SmolLM3Config(
        vocab_size=len(tokenizer),
        hidden_size=shape.width,
        intermediate_size=shape.inner,
        num_hidden_layers=shape.layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        no_rope_layers=[1] * shape.rotary + [0] * (shape.layers - shape.rotary),
        rope_parameters={"rope_type": "default", "rope_theta": ROPE_THETA},
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        initializer_range=0.04,
    )
    config._attn_implementation = attention
    model = SmolLM3ForCausalLM(config)
    start_with_lookup(model, rotary=shape.looking, generator=torch.Generator().manual_seed(seed))
    return model
