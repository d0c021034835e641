"""A whole model with memory against the same model without it: prefill and decoding."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import partial
from unittest import mock

import torch
from measure import Row, paired, relative_error
from torch import Tensor
from transformers import DynamicCache, Qwen3Config, Qwen3ForCausalLM

from deltamem_agents.core import Attached, DeltaMemConfig, State, attach, layer, new_adapter
from deltamem_kernels import delta_scan

PROMPT = 1024
LIMIT = "≤ 1.03"


def small() -> Qwen3Config:
    """12 layers of width 1,024, the rest in Qwen3's proportions."""
    return Qwen3Config(
        hidden_size=1024,
        intermediate_size=3072,
        num_hidden_layers=12,
        num_attention_heads=16,
        num_key_value_heads=8,
        head_dim=128,
        vocab_size=32_000,
        max_position_embeddings=4096,
    )


def built(config: Qwen3Config, dtype: torch.dtype, device: str = "cpu") -> tuple[Qwen3ForCausalLM, Attached]:
    """A frozen model with random weights, and a copy of it with an adapter (rank 8, corrections of q and o)."""
    torch.manual_seed(0)
    with torch.device(device):
        frozen = Qwen3ForCausalLM(config).eval().to(dtype)
    frozen.requires_grad_(False)
    model = copy.deepcopy(frozen)
    return frozen, attach(model, new_adapter(model, DeltaMemConfig(rank=8)))


def told(attached: Attached, batch: int) -> State:
    """A state with random contents."""
    device = attached.model.device  # type: ignore[attr-defined]
    return {key: torch.randn(batch, 8, 8, device=device) * 0.1 for key in attached.keys}


def cpu_rows() -> Iterator[Row]:
    """Decoding in bfloat16 and prefill in float32."""
    yield from _decode()
    yield from _prefill()


def _decode() -> Iterator[Row]:
    frozen, attached = built(small(), torch.bfloat16)
    ids, token, state = torch.randint(0, 32_000, (1, 64)), torch.tensor([[5]]), told(attached, 1)
    caches = [DynamicCache(config=frozen.config) for _ in range(2)]
    with torch.inference_mode():
        frozen(input_ids=ids, past_key_values=caches[0])
        with attached.bind(state):
            attached.model(input_ids=ids, past_key_values=caches[1])
            with_memory = partial(attached.model, input_ids=token, past_key_values=caches[1])
            yield paired(
                "decode with memory, 12 × 1,024, bfloat16, B 1",
                with_memory,
                partial(frozen, input_ids=token, past_key_values=caches[0]),
                slower=False,
                reach=LIMIT,
                rounds=301,
            )


def _prefill() -> Iterator[Row]:
    frozen, attached = built(small(), torch.float32)
    ids, state = torch.randint(0, 32_000, (1, PROMPT)), told(attached, 1)
    arguments = {"input_ids": ids, "use_cache": False, "logits_to_keep": 1}

    def remembered(write: bool) -> tuple[Tensor, State]:
        output, after = attached.forward(state=state, write=write, **arguments)
        return output.logits, after

    with torch.inference_mode():
        with mock.patch.object(layer, "delta_scan", partial(delta_scan, backend="naive")):
            logits, after = remembered(True)
        got, state_got = remembered(True)
        error = max([relative_error(got, logits), *(relative_error(state_got[key], after[key]) for key in after)])
        what = f"prefill with memory, 12 × 1,024, float32, {PROMPT:,} tokens"
        yield Row(what=f"{what}: error against the loop", value=error, unit="relative", reach="≤ 1e-5")
        plain = partial(frozen, **arguments)
        for write in (False, True):
            does = "read and written" if write else "read"
            yield paired(f"{what}, {does}", partial(remembered, write), plain, slower=False, reach=LIMIT, rounds=61)
        with mock.patch.object(layer, "delta_scan", partial(delta_scan, backend="naive")):
            yield paired(f"{what}, written by the loop", partial(remembered, True), plain, slower=False, rounds=3)
