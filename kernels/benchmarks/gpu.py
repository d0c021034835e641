"""The GPU benchmarks: the chunk-parallel scan against a sequential kernel, bandwidth, a model of Qwen3-4B's shape."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import models
import scans
import sequential
import torch
from measure import Row, paired, relative_error
from transformers import Qwen3Config, StaticCache

from deltamem_kernels import delta_scan

WAIT = torch.cuda.synchronize


def rows(only: str | None) -> Iterator[Row]:
    """Every row of the GPU benchmarks."""
    if only != "models":
        yield from _long_scan()
        yield from _wide_scan()
        yield from _backward()
    if only != "scans":
        yield from _decode()
        yield from _prefill()


def _long_scan() -> Iterator[Row]:
    for dtype, bar in ((torch.float32, "≤ 1e-6"), (torch.bfloat16, "≤ 5e-3")):
        arguments = scans.drawn(1, 32_768, 8, dtype, "cuda")
        wanted = delta_scan(*(x.double() for x in arguments), backend="chunked")
        reads, state = delta_scan(*arguments, backend="triton")
        what = f"triton scan, r 8, B 1, T 32,768, {str(dtype).removeprefix('torch.')}"
        yield Row(
            what=f"{what}: error of the reads", value=relative_error(reads, wanted[0]), unit="relative", reach=bar
        )
        yield Row(what=f"{what}: error of the state", value=relative_error(state, wanted[1]), unit="relative")
        ours, other = (
            captured(partial(delta_scan, *arguments)),
            captured(partial(sequential.scan, arguments[:6], arguments[6])),
        )
        row = paired(
            f"{what}, against the sequential kernel", ours, other, slower=True, reach="≥ 50", wait=WAIT, inner=(50, 3)
        )
        yield row
        yield Row(what=what, value=row.ours * 1e6, unit="µs", reach="≤ 100")


def _wide_scan() -> Iterator[Row]:
    n, tokens, rank = 4096, 1024, 8
    arguments = scans.drawn(n, tokens, rank, device="cuda")
    moved = (7 * n * tokens * rank + 2 * n * rank * rank) * 4  # six inputs and the reads, the state twice
    source = torch.empty(moved // 8, device="cuda")
    target = torch.empty_like(source)
    row = paired(
        "", partial(delta_scan, *arguments), partial(target.copy_, source), slower=True, wait=WAIT, inner=(20, 20)
    )
    yield Row(
        what=f"triton scan, r 8, B {n:,}, T {tokens:,}: share of copy bandwidth",
        value=row.value,
        unit="of copy",
        reach="≥ 0.4",
        low=row.low,
        high=row.high,
        ours=row.ours,
        other=row.other,
        rounds=row.rounds,
    )


def _backward() -> Iterator[Row]:
    for rank in (8, 64):
        arguments = scans.drawn(1, scans.TOKENS, rank, device="cuda")
        wanted = scans.forward_and_backward(partial(delta_scan, backend="chunked"), [x.double() for x in arguments])
        got = scans.forward_and_backward(delta_scan, arguments)
        error = max(relative_error(a, b) for a, b in zip(got, wanted, strict=True))
        what = f"triton scan, r {rank}, B 1, T {scans.TOKENS:,}, forward and backward"
        yield Row(what=f"{what}: error of the gradients", value=error, unit="relative", reach="≤ 2e-6")
        yield paired(
            f"{what}, against the chunked form",
            partial(scans.forward_and_backward, delta_scan, arguments),
            partial(scans.forward_and_backward, partial(delta_scan, backend="chunked"), arguments),
            slower=True,
            wait=WAIT,
        )
    saved = scans.saved_bytes(scans.drawn(1, scans.TOKENS, 8, device="cuda"))
    yield Row(what="triton scan, r 8, T 4,096: saved for the backward", value=saved, unit="bytes", reach="≤ 1,000,000")


def _shape() -> Qwen3Config:
    """The shape of Qwen3-4B."""
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


def _decode() -> Iterator[Row]:
    frozen, attached = models.built(_shape(), torch.bfloat16, "cuda")
    for batch in (1, 32):
        state = models.told(attached, batch)
        token = torch.full((batch, 1), 5, device="cuda")
        steps = []
        for model in (attached.model, frozen):
            cache = StaticCache(config=frozen.config, max_cache_len=1024)
            arguments = {"input_ids": token, "past_key_values": cache, "use_cache": True}
            with torch.inference_mode(), attached.bind(state):  # the frozen copy has no hooks and reads nothing
                model(input_ids=token.expand(batch, 64), past_key_values=cache, use_cache=True, logits_to_keep=1)
                steps.append(captured(partial(model, **arguments)))
        yield paired(
            f"decode with memory, Qwen3-4B's shape, bfloat16, CUDA graph, B {batch}",
            *steps,
            slower=False,
            reach="≤ 1.05",
            wait=WAIT,
            rounds=31,
            inner=(10, 10),
        )


def _prefill() -> Iterator[Row]:
    frozen, attached = models.built(_shape(), torch.bfloat16, "cuda")
    arguments = {"input_ids": torch.randint(0, 1000, (1, 8192), device="cuda"), "use_cache": False, "logits_to_keep": 1}
    state = models.told(attached, 1)
    with torch.inference_mode():
        for write in (False, True):
            yield paired(
                "prefill with memory, Qwen3-4B's shape, bfloat16, 8,192 tokens, "
                + ("read and written" if write else "read"),
                partial(attached.forward, state=state, write=write, **arguments),
                partial(frozen, **arguments),
                slower=False,
                reach="≤ 1.03",
                wait=WAIT,
            )


def captured(call: Callable[[], object]) -> Callable[[], object]:
    """Capture a call as a CUDA graph, so that only the device's work is timed."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay
