"""Measure the kernels and a model with memory on a CPU, print the table, write it as CSV.

    python kernels/benchmarks/run.py --out docs/benchmarks/kernels-cpu.csv

Every result is checked before it is timed; a figure that misses its target is marked, and the exit code is then 1. On a
GPU: ``device.py``.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import measure
import models
import scans
import torch

from deltamem_agents.bench.figures import write_csv


def main() -> int:
    """Parse arguments, measure and report; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2, help="of PyTorch and the compiled scan")
    parser.add_argument("--out", type=Path, default=None, help="CSV file")
    parser.add_argument("--force", action="store_true", help="replace the file if it exists")
    parser.add_argument("--only", choices=("scans", "models"), default=None)
    chosen = parser.parse_args()
    if chosen.out is not None and not chosen.force and os.path.lexists(chosen.out):
        parser.error(f"{str(chosen.out)!r} exists; name another file, or replace it with --force")
    if chosen.out is not None and not os.access(chosen.out.absolute().parent, os.W_OK | os.X_OK):
        parser.error(f"no file can be written into {str(chosen.out.parent)!r}; name a folder that is there")
    torch.set_num_threads(chosen.threads)
    facts = measure.machine("cpu")
    rows: list[measure.Row] = []
    for row in _rows(chosen.only):
        rows.append(row)
        print(
            f"{row.what}: {row.value:.4g} {row.unit} {'' if row.reached is not False else '(not reached)'}", flush=True
        )
        if chosen.out is not None:
            write_csv(chosen.out, rows, facts)  # after each row, as a long run may be interrupted
    print("\n" + measure.table(rows, facts))
    return int(any(row.reached is False for row in rows))


def _rows(only: str | None) -> Iterator[measure.Row]:
    if only != "models":
        yield from scans.cpu_rows()
    if only != "scans":
        yield from models.cpu_rows()


if __name__ == "__main__":
    sys.exit(main())
