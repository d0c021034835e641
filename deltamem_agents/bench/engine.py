"""Many agents on one backbone: generating together, a question beside a long fold, idle agents, long histories.

    python -m deltamem_agents.bench.engine --out docs/benchmarks/engine-cpu.csv

The model has random weights in Qwen3's proportions (12 layers of width 1,024, adapter of rank 8), in bfloat16 or, with
``--dtype``, float32. Benchmarks that involve memories use the bundled model.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

from deltamem_agents import DeltaMem, tiny
from deltamem_agents.bench.figures import Figure, figure, machine, table, write_csv
from deltamem_agents.bench.outputs import add_output, parsed
from deltamem_agents.core import DeltaMemConfig, new_adapter
from deltamem_agents.engine import AgentKey, Engine, Limits, Sampling, Segment, load
from deltamem_agents.engine.loading import Loaded

AGENTS = 8
TOKENS = 64  # generated for each agent
PROMPT = 32
WRITE_LENGTH = 1024
RANDOM, TINY = "12 × 1,024", "bundled model"
TOUCHED = 10_000
HISTORIES = (10, 1_000, 100_000)


def random_engine(dtype: torch.dtype, device: str) -> Engine:
    """An engine on a model with random weights, whose answers never end by themselves."""
    torch.manual_seed(0)
    with torch.device(device):
        model = Qwen3ForCausalLM(
            Qwen3Config(
                hidden_size=1024,
                intermediate_size=3072,
                num_hidden_layers=12,
                num_attention_heads=16,
                num_key_value_heads=8,
                head_dim=128,
                vocab_size=32_000,
                max_position_embeddings=4096,
            )
        )
    model.eval()  # type: ignore[no-untyped-call]
    model.to(dtype)  # type: ignore[arg-type]
    tokenizer = AutoTokenizer.from_pretrained(tiny.FOLDER, trust_remote_code=False)
    model.generation_config.eos_token_id = [32_001]
    return Engine(Loaded("random", model, tokenizer, new_adapter(model, DeltaMemConfig(rank=8))))


def together(engine: Engine, rounds: int) -> Iterator[Figure]:
    """Agents decoding together against agents decoding one after another."""
    zero = engine.zero_state()
    states = [{name: torch.randn_like(each) * 0.1 for name, each in zero.items()} for _ in range(AGENTS)]
    prompts = [[(7 * agent + i) % 1000 + 5 for i in range(PROMPT)] for agent in range(AGENTS)]
    asked_for = list(zip(prompts, states, strict=True))
    sampling = Sampling(max_tokens=TOKENS)

    def apart() -> list[tuple[int, ...]]:
        return [engine.generate(*each, sampling=sampling).result().ids for each in asked_for]

    def at_once() -> list[tuple[int, ...]]:
        asked = [engine.generate(*each, sampling=sampling) for each in asked_for]
        return [each.result().ids for each in asked]

    same = sum(a == b for a, b in zip(apart(), at_once(), strict=True))
    yield figure(f"{AGENTS} agents together: share whose answer is that of one alone", RANDOM, [same / AGENTS], "")
    ratios, apart_seconds = _alternating(at_once, apart, rounds)
    tokens = AGENTS * TOKENS
    yield figure(f"{AGENTS} agents, one after another", RANDOM, [tokens / each for each in apart_seconds], "tokens/s")
    yield figure(f"{AGENTS} agents decoding together", RANDOM, ratios, "× one after another", "≥ 4")


def beside_a_fold(engine: Engine, rounds: int) -> Iterator[Figure]:
    """Time to first token while another agent's long text is folded, against an idle engine."""
    ids = [i % 1000 + 5 for i in range(PROMPT)]
    segment = [i % 997 + 5 for i in range(WRITE_LENGTH)]
    fold = [Segment(0, 1, segment, [0] * WRITE_LENGTH, [0] * WRITE_LENGTH) for _ in range(4)]

    def ask() -> float:
        return engine.generate(ids, None, sampling=Sampling(max_tokens=1)).result().first_token_seconds

    ask()
    idle, beside = [], []
    for _ in range(rounds):
        idle.append(ask())
        folding = engine.fold(None, fold)
        for _ in range(4):
            time.sleep(0.05)
            beside.append(ask())
        if folding.done():
            raise RuntimeError("the fold ended before the questions were answered; nothing was measured")
        folding.cancel()
        folding.result()
    what = f"time to first token of {PROMPT} tokens"
    yield figure(f"{what}, idle engine", RANDOM, [each * 1e3 for each in idle], "ms")
    middle = statistics.median(idle)
    ratios = [each / middle for each in beside]
    yield figure(f"{what} beside a fold of {WRITE_LENGTH:,}-token segments", RANDOM, ratios, "× idle", "≤ 3")


def idle_agents() -> Iterator[Figure]:
    """Resident memory while ten thousand agents are used in turn, on the bundled model."""
    engine = Engine(load("tiny"), limits=Limits(chunk=64, batch=4096, slots=64))
    try:
        zero = engine.zero_state()
        state = {name: torch.randn_like(each) * 0.1 for name, each in zero.items()}
        prompt, sampling = engine.rendering.question("What is my dog?"), Sampling(max_tokens=1)
        sizes = {}
        for number in range(TOUCHED):
            key = AgentKey("bench", f"agent {number}", 1), 1
            engine.generate(prompt, state, key, sampling=sampling).result()
            if number + 1 in (TOUCHED // 5, TOUCHED):
                sizes[number + 1] = _resident()
        first, last = sizes.values()
        what = f"resident memory after {TOUCHED:,} agents were touched in turn"
        yield figure(what, TINY, [last / first], f"× after {TOUCHED // 5:,}", "≤ 1.02")
        yield figure("on the device for one more idle agent: its state", TINY, [engine.state_bytes], "bytes")
    finally:
        engine.close()


def long_histories(rounds: int) -> Iterator[Figure]:
    """Time to first token of a turn by length of the agent's history, in state mode and with the history as prompt."""
    with tempfile.TemporaryDirectory() as folder, DeltaMem.open(url=f"sqlite:///{folder}/m.db", embedder=False) as mem:
        question = [{"role": "user", "content": "What is my dog?"}]
        for count in HISTORIES:
            told = [{"role": "user", "content": f"On day {i} I walked {i % 17} miles."} for i in range(count)]
            mem.agent(str(count)).write(told, "s")
        sampling = Sampling(max_tokens=1)
        times: dict[int, list[float]] = {count: [] for count in HISTORIES}
        for _ in range(rounds):
            for count in HISTORIES:
                started = time.perf_counter()
                mem.agent(str(count)).generate(question, mode="state", sampling=sampling)
                times[count].append(time.perf_counter() - started)
        base = statistics.median(times[HISTORIES[0]])
        for count in HISTORIES:
            ratios = [each / base for each in times[count]]
            what = f"turn to its first token, {count:,} remembered messages, state mode"
            yield figure(f"{what}", TINY, [each * 1e3 for each in times[count]], "ms")
            yield figure(what, TINY, ratios, f"× that at {HISTORIES[0]}", "≤ 1.2")
        for count in HISTORIES:
            told = [{"role": e.role, "content": e.text} for e in mem.agent(str(count)).log()]
            prompt = mem.engine.rendering.prompt([*told, *question])
            what = f"turn to its first token, {count:,} messages sent as a prompt of {len(prompt):,} tokens"
            if len(prompt) + 1 > mem.engine.window:
                print(f"{what}: does not fit the window of {mem.engine.window:,}")
                continue
            taken = []
            for _ in range(rounds):
                started = time.perf_counter()
                mem.engine.generate(prompt, None, sampling=sampling).result()
                taken.append(time.perf_counter() - started)
            yield figure(what, TINY, [each * 1e3 for each in taken], "ms")


def _alternating(
    ours: Callable[[], object], other: Callable[[], object], rounds: int
) -> tuple[list[float], list[float]]:
    """The ratio of the other's time to ours, round by round, and the other's times in seconds."""
    times: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds):
        for side in (0, 1) if number % 2 else (1, 0):
            started = time.perf_counter()
            (ours, other)[side]()
            times[side].append(time.perf_counter() - started)
    return [b / a for a, b in zip(*times, strict=True)], times[1]


def _resident() -> int:
    """Resident memory in bytes."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * resource.getpagesize()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> int:
    """Measure, print and write the figures; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_output(parser)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=2, help="of PyTorch, on a CPU")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parsed(parser)
    torch.set_num_threads(chosen.threads)
    facts = machine(torch=torch.__version__, threads=str(chosen.threads), dtype=chosen.dtype)
    figures: list[Figure] = []

    def add(more: Iterator[Figure]) -> None:
        for each in more:
            figures.append(each)
            print(f"{each.what}: {each.value:.4g} {each.unit}", flush=True)
            if chosen.out is not None:
                write_csv(chosen.out, figures, facts)

    engine = random_engine(getattr(torch, chosen.dtype), chosen.device)
    try:
        add(together(engine, chosen.rounds))
        add(beside_a_fold(engine, chosen.rounds))
    finally:
        engine.close()
    add(idle_agents())
    add(long_histories(chosen.rounds))
    print("\n" + table(figures, facts))
    return int(any(each.reached is False for each in figures))


if __name__ == "__main__":
    sys.exit(main())
