"""Identity of a backbone: everything that states computed on it depend on."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from torch import Tensor, nn

from deltamem_agents.core.adapter import raw_bytes

# Listed by name: a transformers release that adds an option must not change the identity of a checkpoint.
_FACTS = (
    "model_type",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "intermediate_size",
    "vocab_size",
    "hidden_act",
    "hidden_activation",
    "rms_norm_eps",
    "rope_theta",
    "rope_parameters",
    "rope_scaling",
    "partial_rotary_factor",
    "no_rope_layers",
    "sliding_window",
    "layer_types",
    "query_pre_attn_scalar",
    "attention_multiplier",
    "embedding_multiplier",
    "residual_multiplier",
    "logits_scaling",
    "final_logit_softcapping",
    "attn_logit_softcapping",
    "tie_word_embeddings",
)
_FULL_BYTES = 256 << 20
_SAMPLES = 4096


def backbone_fingerprint(model: nn.Module, tokenizer: Any = None) -> str:
    """Hex sha256 of a backbone's config facts, dtype, quantisation, weights and vocabulary.

    Weights up to 256 MiB are hashed in full; above that, by shape and 4096 evenly spaced elements per tensor, as
    fine-tuning changes nearly all of them. An attached adapter does not count.
    """
    digest = hashlib.sha256()
    config: Any = model.config
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    facts = {name: getattr(text, name, None) for name in _FACTS}
    facts["dtype"] = str(getattr(model, "dtype", None))
    facts["quantization"] = _plain(getattr(config, "quantization_config", None))
    digest.update(json.dumps(facts, sort_keys=True, default=str).encode())
    tensors = {name: each for name, each in model.state_dict().items() if isinstance(each, Tensor)}
    sampled = sum(each.numel() * each.element_size() for each in tensors.values()) > _FULL_BYTES
    for name, tensor in sorted(tensors.items()):
        digest.update(f"\n{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(raw_bytes(_sample(tensor) if sampled else tensor))
    if tokenizer is not None:
        digest.update(_vocabulary(tokenizer).encode())
    return digest.hexdigest()


def _sample(tensor: Tensor) -> Tensor:
    flat = tensor.detach().reshape(-1)
    return flat[:: max(1, flat.numel() // _SAMPLES)]


def _plain(value: Any) -> Any:
    return value.to_dict() if hasattr(value, "to_dict") else value


def _vocabulary(tokenizer: Any) -> str:
    """How text is turned into ids, without padding and truncation, which are the caller's settings."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return json.dumps(sorted(tokenizer.get_vocab().items()))
    parts = json.loads(backend.to_str())
    return json.dumps({name: each for name, each in parts.items() if name not in ("padding", "truncation", "version")})
