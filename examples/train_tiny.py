"""Train a model like the bundled one, from nothing, on a CPU: about an hour on two cores.

    python examples/train_tiny.py my-tiny
    deltamem recall "What is my dog?" --backbone my-tiny --agent alice

`--backbone-steps` and `--adapter-steps` make it short, to see it work; the answers are then worth little.
"""

from __future__ import annotations

import argparse

from deltamem_agents.training import StageProgress, train_tiny


def show(progress: StageProgress) -> None:
    """One line every 25 steps."""
    if progress.step % 25 == 0 or progress.step == progress.steps:
        print(
            f"{progress.stage} {progress.step}/{progress.steps}: loss {progress.loss:.3f}, "
            f"answer tokens right {progress.right:.3f}",
            flush=True,
        )


def main() -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", help="a new folder")
    parser.add_argument("--backbone-steps", type=int)
    parser.add_argument("--adapter-steps", type=int)
    parser.add_argument("--conversations", type=int, default=256, help="held-out conversations for the card's figures")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    trained = train_tiny(
        options.out,
        backbone_steps=options.backbone_steps,
        adapter_steps=options.adapter_steps,
        seed=options.seed,
        conversations=options.conversations,
        on_progress=show,
    )
    for score in trained.scores:
        print(f"{score.measure}, {score.facts} facts: {score.right:.3f} of {score.questions}")
    print(f"{trained.folder} is ready: DeltaMem.open({str(trained.folder)!r})")


if __name__ == "__main__":
    main()
