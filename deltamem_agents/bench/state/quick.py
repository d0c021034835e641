"""What an adapter's state does, in minutes: batched, without a database, for backbones that are slow on a CPU.

    python -m deltamem_agents.bench.state.quick --backbone gemma-3-270m --adapter DIR --episodes 100

Facts in an open vocabulary with values that training never sees, and standing rules, each asked of the right state, the
zero state, another episode's, and the right one with its rows permuted. A reply to a question for a fact is right if
greedy decoding gives exactly the expected one; a rule's, if its checker accepts it; one that should be unchanged, if
greedy decoding gives what the bare backbone says. `deltamem bench recall --only rules,cause` measures the same through
a real memory, with retrieval beside it and all five controls; on a large model that takes hours.
"""

from __future__ import annotations

import argparse
import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from deltamem_agents.bench.figures import machine, write_csv
from deltamem_agents.bench.state.controls import ANOTHER, OWN, PERMUTED, ZERO, permuted
from deltamem_agents.bench.state.intervals import Interval, difference, import_scipy_stats, share
from deltamem_agents.bench.state.tasks import RULES, VALUES, Task, fact_tasks, kind_of, rule_tasks
from deltamem_agents.core import State, attach
from deltamem_agents.engine import Rendering, load
from deltamem_agents.training.adapters.collation import EpisodeCollator
from deltamem_agents.training.adapters.episode_loss import EpisodeLoss
from deltamem_agents.training.adapters.measuring import judged
from deltamem_agents.training.adapters.rendered import EpisodeRenderer

ARMS = (OWN, ZERO, ANOTHER, PERMUTED)
TOGETHER = 10  # episodes in a batch
TOKENS = 48  # limit on a reply under a rule


@dataclass(frozen=True, slots=True)
class Figure:
    """Share of right replies, with its 95 % interval over episodes; for a control also how much the right state adds.

    ``least`` is the lower end of that difference's interval.
    """

    what: str
    size: int
    kind: str
    state: str
    right: float
    low: float
    high: float
    added: float | None
    least: float | None
    questions: int


def measure(module: EpisodeLoss, render: EpisodeRenderer, task: Task, *, seed: int) -> Iterator[Figure]:
    """Ask all questions of a task in each arm."""
    tokenizer = render.rendering.tokenizer
    collator = EpisodeCollator(tokenizer.pad_token_id or 0, module.adapter.config.write)
    right: dict[str, dict[str, dict[int, list[bool]]]] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    rng = random.Random(seed)
    rendered = [render(each) for each in task.episodes]
    for start in range(0, len(rendered), TOGETHER):
        some = rendered[start : start + TOGETHER]
        batch = module.placed(collator(some))
        questions = [question for each in some for question in each.questions]
        with torch.no_grad():
            state, slots = module.fold(batch), batch["slots"]
            other = _permuted(state, rng)
            reads = {
                OWN: (state, slots),
                ZERO: (state, torch.full_like(slots, -1)),
                ANOTHER: (state, (slots + 1) % len(some)),
                PERMUTED: (other, slots),
            }
            for arm, (pool, rows) in reads.items():
                said, _ = judged(module, render.rendering, batch, questions, pool, rows, tokens=TOKENS)
                for question, slot, hit in zip(questions, slots.tolist(), said, strict=True):
                    right[kind_of(question.asked)][arm][start + slot].append(hit)
    for kind, arms in sorted(right.items()):
        episodes = sorted(arms[OWN])
        counts = [float(len(arms[OWN][each])) for each in episodes]
        own = [float(sum(arms[OWN][each])) for each in episodes]
        for arm in ARMS:
            sums = [float(sum(arms[arm][each])) for each in episodes]
            found: Interval = share(sums, counts, seed=seed)
            added = None if arm == OWN else difference(own, sums, counts, seed=seed)
            yield Figure(
                what=task.name,
                size=task.size,
                kind=kind,
                state=arm,
                right=found.value,
                low=found.low,
                high=found.high,
                added=None if added is None else added.value,
                least=None if added is None else added.low,
                questions=int(sum(counts)),
            )


def _permuted(state: State, rng: random.Random) -> State:
    """Each episode's matrices with their rows in another order."""
    count = len(next(iter(state.values())))
    moved = [permuted({name: each[row] for name, each in state.items()}, rng) for row in range(count)]
    return {name: torch.stack([each[name] for each in moved]) for name in state}


def _sizes(text: str) -> list[int]:
    return [int(each) for each in text.split(",") if each]


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a line for each figure as it comes, and write them as CSV."""
    parser = argparse.ArgumentParser(prog="python -m deltamem_agents.bench.state.quick", description=__doc__)
    parser.add_argument("--backbone", default="tiny")
    parser.add_argument("--adapter", default=None)
    parser.add_argument(
        "--facts", type=_sizes, default=[1, 2, 4], help="numbers of facts, such as 1,2,4; empty for none"
    )
    parser.add_argument("--rules", type=_sizes, default=[1], help="numbers of rules")
    parser.add_argument("--episodes", type=int, default=100, help="episodes of each size")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=None, help="CSV file")
    asked = parser.parse_args(arguments)
    import_scipy_stats()  # before minutes are spent
    loaded = load(asked.backbone, asked.adapter)
    facts = machine(torch=torch.__version__, threads=str(torch.get_num_threads()), backbone=loaded.name)
    module = EpisodeLoss(attach(loaded.model, loaded.adapter)).eval()
    render = EpisodeRenderer(Rendering(loaded.tokenizer), loaded.adapter.config.write_length)
    tasks = [
        *fact_tasks(asked.facts, asked.episodes, asked.seed, trained=False),
        *rule_tasks(asked.rules, [0], asked.episodes, asked.seed),
    ]
    figures: list[Figure] = []
    for task in [each for each in tasks if each.name in (VALUES, RULES)]:
        for each in measure(module, render, task, seed=asked.seed):
            figures.append(each)
            added = "" if each.added is None else f"  right state adds {each.added:+.3f}, at least {each.least:+.3f}"
            print(
                f"{each.what} {each.size} {each.kind:9} {each.state:10} {each.right:.3f} "
                f"[{each.low:.3f}, {each.high:.3f}] of {each.questions}{added}",
                flush=True,
            )
        if asked.out is not None:
            write_csv(asked.out, figures, facts)


if __name__ == "__main__":
    main()
