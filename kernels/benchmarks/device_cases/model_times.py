"""A model of Qwen3-4B's shape with memory against the same frozen model: decoding in a graph, prefill, a profile."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import models
import torch
from measure import Row, paired, relative_error
from torch.profiler import ProfilerActivity, profile
from transformers import Qwen3Config, StaticCache

from device_cases.case import Setting, captured_if_possible

CACHE = 1024  # tokens of the cache that a decoding step attends to


def shape(setting: Setting) -> Qwen3Config:
    """Qwen3-4B's; two narrow layers if quick."""
    if setting.quick:
        return Qwen3Config(
            hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
            head_dim=16, vocab_size=2500, max_position_embeddings=4096,
        )  # fmt: skip
    return Qwen3Config(
        hidden_size=2560,
        intermediate_size=9728,
        num_hidden_layers=36,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=128,
        vocab_size=151_936,
        max_position_embeddings=40_960,
        tie_word_embeddings=True,
    )


def decode(setting: Setting, batches: Sequence[int] = (1, 8, 32, 64)) -> Iterator[Row]:
    """One token of each row, with memory against without."""
    frozen, attached = models.built(shape(setting), torch.bfloat16, setting.device)
    rounds, inner = (31, (10, 10)) if not setting.quick else (1, (1, 1))
    for batch in batches[: 2 if setting.quick else None]:
        state = models.told(attached, batch)
        token = torch.full((batch, 1), 5, device=setting.device)
        steps, ways = [], set()
        for model in (attached.model, frozen):
            cache = StaticCache(config=frozen.config, max_cache_len=CACHE)
            # The frozen copy has no wrappers and reads nothing.
            with torch.inference_mode(), attached.bind(state):
                model(input_ids=token.expand(batch, 64), past_key_values=cache, use_cache=True, logits_to_keep=1)
                step = partial(model, input_ids=token, past_key_values=cache, use_cache=True)
                call, way = captured_if_possible(setting, step)
                ways.add(way)
                steps.append(call if way == "CUDA graph" else _bound(attached, state, step))
        what = f"decode with memory, Qwen3-4B's shape, bfloat16, {' and '.join(sorted(ways))}, B {batch}"
        reach = "≤ 1.03" if batch <= 32 else ""
        yield paired(what, *steps, slower=False, reach=reach, timer=setting.timer, rounds=rounds, inner=inner)


def prefill(setting: Setting) -> Iterator[Row]:
    """8,192 tokens that read, and that write too; then a profile of that and of decoding, without a graph."""
    frozen, attached = models.built(shape(setting), torch.bfloat16, setting.device)
    tokens = 8192 if not setting.quick else 48
    ids = torch.randint(0, 1000, (1, tokens), device=setting.device)
    arguments: dict[str, Any] = {"input_ids": ids, "use_cache": False, "logits_to_keep": 1}
    state = models.told(attached, 1)
    rounds = 9 if not setting.quick else 1
    with torch.inference_mode():
        zero = attached.zero_state(1)
        with_zero, _ = attached.forward(state=zero, write=False, **arguments)
        error = relative_error(with_zero.logits, frozen(**arguments).logits)
        what = "logits under the zero state against the frozen model"
        yield Row(what=what, value=error, unit="relative", reach="≤ 2e-2")
        for write in (False, True):
            ours = partial(attached.forward, state=state, write=write, **arguments)
            what = f"prefill with memory, Qwen3-4B's shape, bfloat16, {tokens:,} tokens, "
            what += "read and written" if write else "read"
            other = partial(frozen, **arguments)
            yield paired(what, ours, other, slower=False, reach="≤ 1.03", timer=setting.timer, rounds=rounds)
        cache = StaticCache(config=frozen.config, max_cache_len=CACHE)
        token = ids[:, :1]
        step = partial(attached.forward, state=state, write=False, input_ids=token, past_key_values=cache)
        step()
        write = partial(attached.forward, state=state, write=True, **arguments)
        _profiled(setting, {"decoding, 8 tokens": lambda: [step() for _ in range(8)], "prefill that writes": write})


def _bound(attached: Any, state: Any, step: Callable[[], object]) -> Callable[[], object]:
    """A step that binds the state itself, as one outside a graph must."""

    def call() -> None:
        with torch.inference_mode(), attached.bind(state):
            step()

    return call


def _profiled(setting: Setting, calls: dict[str, Callable[[], object]]) -> None:
    """Write the profiler's tables, by time on the device."""
    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if setting.on_gpu else [])]
    tables = []
    for what, call in calls.items():
        with profile(activities=kinds) as profiler:
            call()
            if setting.on_gpu:
                torch.cuda.synchronize()
        by = "self_device_time_total" if setting.on_gpu else "self_cpu_time_total"
        table = profiler.key_averages().table(sort_by=by, row_limit=30, max_name_column_width=70)
        tables.append(f"{what}\n\n{table}\n")
    (setting.out / "4-profile.txt").write_text("\n".join(tables), encoding="utf-8")
