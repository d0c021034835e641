"""Many agents on the engine: their tokens a second, and that running out of memory while decoding costs no answer."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from measure import Row
from transformers import AutoTokenizer, PreTrainedModel, Qwen3ForCausalLM

from deltamem_agents import tiny
from deltamem_agents.core import DeltaMemConfig, State, new_adapter
from deltamem_agents.engine import Engine, Sampling, load
from deltamem_agents.engine.loading import Loaded
from device_cases.case import Setting
from device_cases.model_times import shape

AGENTS = 64
ANSWER = 64  # tokens
FAILURES = 3  # steps at most that run out of memory


def agents(prompt: int) -> Callable[[Setting], Iterator[Row]]:
    """64 agents, each with its own state and prompt, against the frozen model's own batch of the same prompts."""

    def rows(setting: Setting) -> Iterator[Row]:
        count, answer, length = (AGENTS, ANSWER, prompt) if not setting.quick else (3, 4, 8)
        frozen = _frozen(setting)
        ids = torch.randint(5, 1000, (count, length), device=setting.device)
        plain = _best(setting, lambda: _generate(frozen, ids, answer))
        engine = _engine(frozen)
        try:
            states = _states(engine, count)
            prompts = ids.tolist()
            taken = _best(setting, lambda: _answers(engine, prompts, states, answer))
        finally:
            engine.close()
        what = f"{count} agents on the engine, prompts of {length:,} tokens, answers of {answer}, Qwen3-4B's shape"
        yield Row(what=what, value=count * answer / taken, unit="tokens/s", ours=taken)
        name = f"the frozen model's generate, {count} prompts of {length:,} tokens, answers of {answer}"
        yield Row(what=name, value=count * answer / plain, unit="tokens/s", ours=plain)
        yield Row(what=f"{what}: against the frozen model's generate", value=plain / taken, unit="× faster")

    return rows


def out_of_memory(setting: Setting) -> Iterator[Row]:
    """Steps of several rows that ask for more memory than the device has; every answer is the one given alone."""
    count, answer = (12, 24) if not setting.quick else (8, 6)
    loaded = load("tiny", device=setting.device, dtype="float32")
    engine = Engine(loaded)
    try:
        states = _states(engine, count)
        prompts = [[(7 * agent + i) % 900 + 5 for i in range(20)] for agent in range(count)]
        alone = [_answers(engine, [each], [state], answer)[0] for each, state in zip(prompts, states, strict=True)]
        failed = _fail_steps(loaded.model, setting)
        together = _answers(engine, prompts, states, answer)
    finally:
        engine.close()
    yield Row(what="decoding steps that ran out of memory", value=len(failed), unit="count", reach="≥ 1")
    wrong = sum(a != b for a, b in zip(alone, together, strict=True))
    yield Row(what=f"answers of {count} changed by running out of memory", value=wrong, unit="count", reach="≤ 0")


def _fail_steps(model: PreTrainedModel, setting: Setting) -> list[int]:
    """Make decoding steps ask for more memory than there is; return their numbers of rows, as they come."""
    failed: list[int] = []

    def ask(module: object, arguments: object, given: dict[str, Any]) -> None:
        rows, length = given["input_ids"].shape
        if rows > 1 and length == 1 and len(failed) < FAILURES:
            failed.append(rows)
            size = torch.cuda.mem_get_info(setting.device)[1] * 2 if setting.on_gpu else 1 << 62
            torch.empty(size, dtype=torch.uint8, device=setting.device)

    model.register_forward_pre_hook(ask, with_kwargs=True)
    return failed


def _frozen(setting: Setting) -> Qwen3ForCausalLM:
    torch.manual_seed(0)
    with torch.device(setting.device):
        model = Qwen3ForCausalLM(shape(setting)).eval().to(torch.bfloat16)
    model.generation_config.eos_token_id = None
    return model.requires_grad_(False)


def _engine(model: Qwen3ForCausalLM) -> Engine:
    """An engine whose answers never end by themselves."""
    tokenizer = AutoTokenizer.from_pretrained(tiny.FOLDER, trust_remote_code=False)
    model.generation_config.eos_token_id = [model.config.vocab_size + 1]
    return Engine(Loaded("random", model, tokenizer, new_adapter(model, DeltaMemConfig(rank=8))))


def _states(engine: Engine, count: int) -> list[State]:
    zero = engine.zero_state()
    return [{name: torch.randn_like(each) * 0.1 for name, each in zero.items()} for _ in range(count)]


def _answers(engine: Engine, prompts: list[list[int]], states: list[State], answer: int) -> list[tuple[int, ...]]:
    sampling = Sampling(max_tokens=answer)
    asked = [engine.generate(prompt, state, sampling=sampling) for prompt, state in zip(prompts, states, strict=True)]
    return [each.result().ids for each in asked]


def _generate(model: Qwen3ForCausalLM, ids: torch.Tensor, answer: int) -> None:
    with torch.inference_mode():
        mask = torch.ones_like(ids)
        model.generate(ids, attention_mask=mask, max_new_tokens=answer, do_sample=False, pad_token_id=0)
    if ids.is_cuda:
        torch.cuda.synchronize()


def _best(setting: Setting, call: Callable[[], object]) -> float:
    """Seconds of the faster of two runs; the first also compiles."""
    times = []
    for _ in range(2 if not setting.quick else 1):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return min(times)
