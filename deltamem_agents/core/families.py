"""The registry of backbone families, and how to find the parts of a model.

Attaching needs four facts: which module holds the decoder layers, the attention class, whether q, k and v are separate
projections, and their widths. A family is listed once its attention is known to take its input as ``hidden_states``
and to call ``q_proj`` (or ``qkv_proj``) and ``o_proj`` exactly once per forward.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from deltamem_agents.errors import UnsupportedModelError, shown


@dataclass(frozen=True, slots=True)
class Family:
    """One architecture.

    Args:
        model_type: As named in the model's (text) config.
        attention: Class name of its attention modules.
        packed: Whether one ``qkv_proj`` replaces ``q_proj``, ``k_proj`` and ``v_proj``.
    """

    model_type: str
    attention: str
    packed: bool = False


FAMILIES = {
    family.model_type: family
    for family in (
        Family("qwen3", "Qwen3Attention"),
        Family("qwen2", "Qwen2Attention"),
        Family("llama", "LlamaAttention"),
        Family("mistral", "MistralAttention"),
        Family("smollm3", "SmolLM3Attention"),
        Family("gemma3_text", "Gemma3Attention"),
        Family("phi3", "Phi3Attention", packed=True),
        Family("olmo2", "Olmo2Attention"),
        Family("granite", "GraniteAttention"),
    )
}


@dataclass(frozen=True, slots=True)
class LayerShape:
    """Widths of one attention module: of its input, and of the outputs of its four projections."""

    hidden: int
    outputs: dict[str, int]


@dataclass(frozen=True, slots=True)
class Backbone:
    """The parts of a loaded model that an adapter touches.

    Args:
        decoder: The module that takes ids and masks and runs the layers.
        layers: The decoder's layers.
        attentions: The attention module of each layer, its ``self_attn``.
        shapes: Widths of each attention module.
    """

    family: Family
    decoder: nn.Module
    layers: tuple[nn.Module, ...]
    attentions: tuple[nn.Module, ...]
    shapes: tuple[LayerShape, ...]

    @property
    def hidden_size(self) -> int:
        """Width of the residual stream."""
        return self.shapes[0].hidden


def inspect_backbone(model: nn.Module) -> Backbone:
    """Find the decoder and the attention modules of a supported model.

    Raises:
        UnsupportedModelError: The family is unknown, or the model's modules are not where the family has them.
    """
    if not isinstance(model, nn.Module):
        raise UnsupportedModelError(f"the model is {shown(model)}; give one that AutoModelForCausalLM loads")
    config: Any = getattr(model, "config", None)
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    model_type = getattr(text, "model_type", None)
    family = FAMILIES.get(str(model_type))
    if family is None:
        raise UnsupportedModelError(
            f"backbone family {model_type!r} is not supported; use one of {', '.join(sorted(FAMILIES))}"
        )
    for module in model.modules():
        layers = getattr(module, "layers", None)
        if not isinstance(layers, nn.ModuleList) or not len(layers):
            continue
        found = [getattr(layer, "self_attn", None) for layer in layers]
        attentions = [each for each in found if isinstance(each, nn.Module) and _is(each, family.attention)]
        if len(attentions) == len(found):
            shapes = tuple(_layer_shape(attention, family) for attention in attentions)
            return Backbone(family, module, tuple(layers), tuple(attentions), shapes)
    raise UnsupportedModelError(
        f"no decoder layers with {family.attention} in this {model_type!r} model; load it with AutoModelForCausalLM"
    )


def _is(module: nn.Module, name: str) -> bool:
    return any(base.__name__ == name for base in type(module).__mro__)


def _layer_shape(attention: nn.Module, family: Family) -> LayerShape:
    """Widths, read from the modules themselves, so that wrapped or quantised projections work too."""
    hidden, out = _features(attention, "o_proj")
    if not family.packed:
        widths = {name: _features(attention, f"{name}_proj") for name in ("q", "k", "v")}
        return LayerShape(widths["q"][0], {name: width[1] for name, width in widths.items()} | {"o": out})
    source, total = _features(attention, "qkv_proj")
    keys = (total - hidden) // 2
    return LayerShape(source, {"q": hidden, "k": keys, "v": keys, "o": out})


def _features(attention: nn.Module, name: str) -> tuple[int, int]:
    module = getattr(attention, name, None)
    sizes = getattr(module, "in_features", None), getattr(module, "out_features", None)
    if not isinstance(sizes[0], int) or not isinstance(sizes[1], int):
        raise UnsupportedModelError(
            f"{type(attention).__name__} has no linear {name!r}; load the model without fused attention projections"
        )
    return sizes[0], sizes[1]
