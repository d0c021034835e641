"""Everything that a GPU can tell about the kernels, and about a model with memory, in one command of ten minutes.

    python kernels/benchmarks/device.py --out DIR                     on a CUDA device
    python kernels/benchmarks/device.py --out DIR --device cpu --quick    on a CPU, Triton interpreted: does it run

Needs torch, triton, transformers and numpy, and this folder's repository, which need not be installed. Correctness
comes first, a dozen processes at once; then times, each case alone. A case is a process of its own with a time limit,
so that a hang, a crash or a device error costs no other case. Rows are written as they come. Files, at most five:

    1-summary.md    verdict, failures, times; renewed after every case
    2-rows.csv      every row with versions, driver and commit
    3-log.txt       what the processes printed
    4-profile.txt   the profiler's tables
    5-machine.txt   nvidia-smi, and the installed packages
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
FOLDERS = [str(HERE), str(HERE.parent), str(HERE.parents[1])]
FILES = ("1-summary.md", "2-rows.csv", "3-log.txt", "4-profile.txt", "5-machine.txt")


def main() -> int:
    """Parse arguments, run the cases and report; return the exit code."""
    started = time.monotonic()
    chosen = _arguments()
    for folder in reversed(FOLDERS):
        if folder not in sys.path:
            sys.path.insert(0, folder)
    # Read by the process that cases are forked from, and by Triton as it defines a kernel.
    os.environ["PYTHONPATH"] = os.pathsep.join([*FOLDERS, *filter(None, [os.environ.get("PYTHONPATH")])])
    if chosen.device == "cpu":
        os.environ["TRITON_INTERPRET"] = "1"
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"  # so that a question about the device does not touch it
    chosen.out.mkdir(parents=True, exist_ok=True)
    import torch

    if chosen.device != "cpu" and not torch.cuda.is_available():
        print("torch finds no CUDA device here; nothing was measured", file=sys.stderr)
        return 2
    from device_cases.case import Setting
    from device_cases.report import Report
    from device_cases.runs import run_all

    report = Report(chosen.out, chosen.device, started)
    setting = Setting(chosen.device, chosen.quick, chosen.out)
    run_all(setting, report, only=chosen.only, workers=chosen.workers, until=started + 60 * chosen.minutes)
    print(report.text())
    return int(not report.fine)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    out = os.environ.get("OUT")
    parser.add_argument("--out", type=Path, default=Path(out) if out else None, help="folder; $OUT if that is set")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1, … or cpu")
    parser.add_argument("--quick", action="store_true", help="sizes cut down to seconds; figures then mean nothing")
    parser.add_argument("--only", default="", help="cases whose name contains this text")
    parser.add_argument("--workers", type=int, default=12, help="processes that check at once")
    parser.add_argument("--minutes", type=float, default=9.5, help="time limit of everything")
    parser.add_argument("--force", action="store_true", help="replace the files of an earlier run")
    chosen = parser.parse_args()
    chosen.device = "cuda:0" if chosen.device == "cuda" else chosen.device
    if chosen.out is None:
        parser.error("no folder to write into; name one with --out")
    if not chosen.force and any(os.path.lexists(chosen.out / name) for name in FILES):
        parser.error(f"{str(chosen.out)!r} holds the files of an earlier run; name another folder, or use --force")
    if chosen.device == "cpu" and not chosen.quick:
        parser.error("on a CPU Triton is interpreted, which takes hours at full size; add --quick")
    if chosen.workers < 1 or chosen.minutes <= 0:
        parser.error("--workers and --minutes must be above zero")
    return chosen


if __name__ == "__main__":
    sys.exit(main())
