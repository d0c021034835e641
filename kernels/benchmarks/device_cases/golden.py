"""The traces of the authors' implementation on the device, in float32: eager and sdpa attention, both caches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from unittest import mock

import torch
from measure import Row, relative_error
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, DynamicCache, StaticCache

from deltamem_agents.core import attach, layer, load_adapter
from deltamem_kernels import delta_scan
from device_cases.case import Setting

FOLDER = Path(__file__).resolve().parents[3] / "tests" / "golden"
CASES = ("qwen3-tsw", "qwen3-msw", "qwen3-ssw-message", "qwen3-ssw-sentence")
MORE_CASES = ("smollm3-tsw-qkvo", "qwen3-lambda-outside-r4", "qwen3-no-lambda-layers")
CACHES = {"DynamicCache": DynamicCache, "StaticCache": partial(StaticCache, max_cache_len=40)}
REACH = "≤ 1e-5"


def traces(names: Sequence[str]) -> Callable[[Setting], Iterator[Row]]:
    """Each trace: two padded sessions, decoding that writes, and a read-only pass."""

    def rows(setting: Setting) -> Iterator[Row]:
        with mock.patch.object(layer, "delta_scan", partial(delta_scan, backend="triton")):
            for name in names[: 1 if setting.quick else None]:
                for attention in ("eager", "sdpa")[: 1 if setting.quick else None]:
                    yield from _trace(setting, name, attention)

    return rows


@torch.no_grad()
def _trace(setting: Setting, name: str, attention: str) -> Iterator[Row]:
    folder = FOLDER / name
    trace = {key: each.to(setting.device) for key, each in load_file(folder / "trace.safetensors").items()}
    model = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.float32, attn_implementation=attention)
    attached = attach(model.to(setting.device).eval(), load_adapter(folder / "adapter"))
    for kind, make in list(CACHES.items())[: 1 if setting.quick else None]:
        errors = {"logits": 0.0, "states": 0.0}

        def note(
            logits: Tensor, wanted: Tensor, state: dict[str, Tensor] | None = None, prefix: str = "",
            errors: dict[str, float] = errors,
        ) -> None:  # fmt: skip
            errors["logits"] = _worst(errors["logits"], relative_error(logits, wanted))
            for key, each in (state or {}).items():
                errors["states"] = _worst(errors["states"], relative_error(each, trace[f"{prefix}.state.{key}"]))

        state = None
        for session in ("session0", "session1"):
            mask, cache = trace[f"{session}.attention_mask"], make(config=model.config)
            spans = [each for each in ("message_ids", "sentence_ids") if f"{session}.{each}" in trace]
            out, state = attached.forward(
                state=state,
                input_ids=trace[f"{session}.input_ids"],
                attention_mask=mask,
                past_key_values=cache,
                **{each: trace[f"{session}.{each}"].cpu() for each in spans},
            )
            real = mask.bool()
            note(out.logits[real], trace[f"{session}.logits"][real], state, session)
        for step in range(sum(key.startswith("decode") and key.endswith("input_ids") for key in trace)):
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
            ids = trace[f"decode{step}.input_ids"]
            out, state = attached.forward(state=state, input_ids=ids, attention_mask=mask, past_key_values=cache)
            note(out.logits, trace[f"decode{step}.logits"])
        note(out.logits, out.logits, state, "decode")
        mask, ids = trace["session0.attention_mask"], trace["session0.input_ids"]
        out, _ = attached.forward(state=state, write=False, input_ids=ids, attention_mask=mask, use_cache=False)
        note(out.logits[mask.bool()], trace["readonly.logits"][mask.bool()])
        for what, error in errors.items():
            yield Row(what=f"{name}, {attention}, {kind}: {what}", value=error, unit="relative", reach=REACH)
    attached.detach()


def _worst(a: float, b: float) -> float:
    """The larger; NaN stays."""
    return b if b != b or b > a else a
