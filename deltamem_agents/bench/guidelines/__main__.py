"""``python -m deltamem_agents.bench.guidelines``: make the repositories, ask the questions, print the figures."""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

from deltamem_agents.bench.guidelines.measures import measure, speeds
from deltamem_agents.bench.guidelines.repositories import FOLDER, UNTUNED, examples
from deltamem_agents.memory import DeltaMem


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(prog="python -m deltamem_agents.bench.guidelines", description=__doc__)
    parser.add_argument("--embedder", action="store_true", help="measure with the local embedder too")
    parser.add_argument("--misses", action="store_true", help="print what went wrong")
    parser.add_argument("--speed", action="store_true", help="measure the speed of sync with 5,000 files too")
    parser.add_argument("--untuned", action="store_true", help="ask of the repositories that nothing was tuned with")
    asked = parser.parse_args()
    figures: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as folder:
        made = [(each, each.make(Path(folder) / each.name)) for each in examples(UNTUNED if asked.untuned else FOLDER)]
        for name in ("words", "embedder") if asked.embedder else ("words",):
            embedder = "sentence-transformers/all-MiniLM-L6-v2" if name == "embedder" else None
            with DeltaMem.open(None, url=f"sqlite:///{folder}/{name}.db", embedder=embedder) as mem:
                began = time.perf_counter()
                ours, bm25 = measure(mem, made)
                figures[name] = ours.as_dict() | {"seconds": round(time.perf_counter() - began, 1)}
                figures["bm25 over paragraphs"] = bm25.as_dict()
                if asked.misses:
                    print("\n".join(ours.misses))
        if asked.speed:
            figures["speed"] = speeds(Path(folder) / "large")
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
