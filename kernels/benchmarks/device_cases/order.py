"""The cases in the order in which they run: what is wrong first, what is slow next, and what fills the time last."""

from __future__ import annotations

from device_cases import decode_checks, engine_cases, golden, kernel_times, large, model_times, scan_checks
from device_cases.case import Case

CASES = [
    Case("larger than 2^31", large.rows, 190),
    Case("out of memory", engine_cases.out_of_memory, 120),
    Case("scan, long", scan_checks.long, 190),
    Case("scan, rank 8", scan_checks.checked(scan_checks.RANK_8), 190),
    Case("scan, ranks 1 to 3", scan_checks.checked(scan_checks.LOW[:3]), 190),
    Case("scan, ranks 5 and 7", scan_checks.checked(scan_checks.LOW[3:]), 190),
    Case("scan, ranks 13 to 20", scan_checks.checked(scan_checks.MIDDLE), 190),
    Case("scan, rank 32", scan_checks.checked(scan_checks.RANK_32), 190),
    Case("scan, ranks 40 to 64", scan_checks.checked(scan_checks.RANK_64), 190),
    Case("scan, half precision", scan_checks.half, 190),
    Case("scan, limits", scan_checks.limits, 190),
    Case("decode, reads", decode_checks.reads, 150),
    Case("decode, writes", decode_checks.writes, 150),
    Case("decode, graph", decode_checks.graph, 120),
    Case("golden traces", golden.traces(golden.CASES), 150),
    Case("golden traces, more", golden.traces(golden.MORE_CASES), 150),
    Case("ceilings", kernel_times.ceilings, 40, alone=True),
    Case("scan times", kernel_times.forward, 60, alone=True),
    Case("decode times", model_times.decode, 90, alone=True),
    Case("prefill times", model_times.prefill, 75, alone=True),
    Case("64 agents, 512 tokens", engine_cases.agents(512), 75, alone=True),
    Case("64 agents, 2,048 tokens", engine_cases.agents(2048), 90, alone=True),
    Case("scan times, backward", kernel_times.backward, 40, alone=True),
    Case("scan sweep", kernel_times.sweep, 120, alone=True),
]
