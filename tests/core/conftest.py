"""Golden traces, tiny random backbones of every family, and adapters that visibly steer them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor, nn

from deltamem_agents.core import Adapter, DeltaMemConfig, new_adapter

GOLDEN = Path(__file__).resolve().parent.parent / "golden"
SIZES: dict[str, Any] = dict(
    vocab_size=97,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=2,
)
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen3": ("Qwen3Config", {"head_dim": 16}),
    "qwen2": ("Qwen2Config", {}),
    "llama": ("LlamaConfig", {}),
    "mistral": ("MistralConfig", {"sliding_window": 6}),
    "smollm3": ("SmolLM3Config", {}),
    "gemma3_text": ("Gemma3TextConfig", {"head_dim": 8, "sliding_window": 6, "sliding_window_pattern": 2}),
    "phi3": ("Phi3Config", {"sliding_window": None}),
    "olmo2": ("Olmo2Config", {}),
    "granite": ("GraniteConfig", {}),
}


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def relative() -> Callable[[Tensor, Tensor], float]:
    """‖a − b‖₂ / ‖b‖₂."""
    return lambda a, b: float((a.double() - b.double()).norm() / b.double().norm())


@pytest.fixture(scope="session")
def golden_trace() -> Callable[[str], dict[str, Tensor]]:
    return cache(lambda case: load_file(GOLDEN / case / "trace.safetensors"))


@pytest.fixture(scope="session")
def golden_folder() -> Path:
    return GOLDEN


@pytest.fixture(scope="session")
def golden_model() -> Callable[[str, str], nn.Module]:
    @cache
    def load(case: str, attention: str) -> nn.Module:
        path = GOLDEN / case / "base"
        return transformers.AutoModelForCausalLM.from_pretrained(path, attn_implementation=attention).eval()

    return load


@pytest.fixture(scope="session")
def backbone() -> Callable[..., nn.Module]:
    """A tiny random model of a family; the same weights each time."""

    def build(family: str = "qwen3", attention: str = "sdpa", **changes: Any) -> nn.Module:
        name, extra = FAMILIES[family]
        config = getattr(transformers, name)(**(SIZES | extra | changes))
        config._attn_implementation = attention
        torch.manual_seed(0)
        return transformers.AutoModelForCausalLM.from_config(config).eval()

    return build


@pytest.fixture(scope="session")
def strong_adapter() -> Callable[..., Adapter]:
    """An adapter whose corrections are large enough to see."""

    def build(model: nn.Module, seed: int = 0, **options: Any) -> Adapter:
        adapter = new_adapter(model, DeltaMemConfig(**options), seed=seed)
        generator = torch.Generator().manual_seed(seed + 1)
        with torch.no_grad():
            for parameter in adapter.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=generator).to(parameter) * 0.1)
        return adapter

    return build


@pytest.fixture
def tokens() -> Callable[..., Tensor]:
    def draw(rows: int, length: int, seed: int = 0) -> Tensor:
        return torch.randint(3, 97, (rows, length), generator=torch.Generator().manual_seed(seed))

    return draw
