"""Runs cases in processes of their own: several that check at once, then those that take times, one by one.

The processes are forked from one that has imported torch and transformers and nothing else, so that none waits for that
again; the device is not touched before the fork.
"""

from __future__ import annotations

import contextlib
import dataclasses
import faulthandler
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Iterable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, ForkServerProcess, SpawnContext, SpawnProcess

from device_cases.case import Case, Setting
from device_cases.interpreter import patch_once
from device_cases.report import TIMES, Report, Result

PRELOADED = ["device_cases.order"]  # and with it torch, transformers and triton


@dataclass
class _Run:
    """A process that runs a case."""

    case: Case
    process: ForkServerProcess | SpawnProcess
    rows: Connection
    started: float
    limit: float
    error: str = ""
    ended: bool = False  # whether the case said that it has ended

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started


def run_all(setting: Setting, report: Report, *, only: str, workers: int, until: float) -> None:
    """Run the cases whose name contains ``only``, within the limit ``until`` of the monotonic clock."""
    context = _context(setting)
    cases = [each for each in _cases() if only in each.name]
    together = [each for each in cases if not each.alone]
    for group, most in ((together, workers), ([each for each in cases if each.alone], 1)):
        waiting, running = list(group), []
        while waiting or running:
            while waiting and len(running) < most:
                case = waiting.pop(0)
                left = until - time.monotonic()
                if left < 2:
                    report.ended(case.name, Result("not run", 0.0, "no time was left"))
                    continue
                running.append(_start(context, case, setting, report, min(case.seconds, left)))
            _receive(running, report)
            for each in [each for each in running if _over(each)]:
                running.remove(each)
                _end(each, report)


def _context(setting: Setting) -> ForkServerContext | SpawnContext:
    """How processes begin: forked from one that has imported everything, or from nothing where that would not work."""
    forking = multiprocessing.get_context("forkserver")
    forking.set_forkserver_preload(PRELOADED)
    # A device that an import has touched before the fork cannot be used after it.
    probe = forking.Process(target=_probe, args=(setting.device,))
    probe.start()
    probe.join(120)
    if probe.exitcode == 0:
        return forking
    with contextlib.suppress(ProcessLookupError):
        probe.kill()
    print("the device cannot be used in a forked process; every case imports for itself", flush=True)
    return multiprocessing.get_context("spawn")


def _probe(device: str) -> None:
    import torch

    torch.zeros(1, device=device).add_(1).item()


def _cases() -> Iterable[Case]:
    from device_cases.order import CASES

    return CASES


def _start(
    context: ForkServerContext | SpawnContext, case: Case, setting: Setting, report: Report, limit: float
) -> _Run:
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(case.name, setting, theirs, str(report.log), limit), daemon=False)
    process.start()
    theirs.close()
    return _Run(case, process, ours, time.monotonic(), limit)


def _work(name: str, setting: Setting, rows: Connection, log: str, limit: float) -> None:
    """In the case's process: run it, and send its rows."""
    os.setpgrp()
    file = os.open(log, os.O_WRONLY | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(file, stream)
    faulthandler.enable()
    faulthandler.dump_traceback_later(max(1.0, limit - 2.0), exit=False)  # where a case hangs is in the log
    try:
        import torch

        case = next(each for each in _cases() if each.name == name)
        torch.manual_seed(0)
        if setting.on_gpu:
            torch.cuda.set_device(setting.device)
        else:
            torch.set_num_threads(1)
            patch_once()
        for row in case.rows(setting):
            # Times of a quick run mean nothing, and have no target.
            rows.send(dataclasses.replace(row, reach="") if setting.quick and row.unit in TIMES else row)
        if setting.on_gpu:
            torch.cuda.synchronize()  # an error of the device shows here at the latest
        rows.send(None)
    except BaseException:
        text = traceback.format_exc()
        print(f"\n== {name} failed\n{text}", file=sys.stderr, flush=True)
        rows.send(text)
        raise SystemExit(1) from None
    finally:
        faulthandler.cancel_dump_traceback_later()
        rows.close()


def _receive(running: list[_Run], report: Report) -> None:
    """Take what has come, waiting up to a quarter of a second."""
    by_connection = {each.rows: each for each in running if not each.rows.closed}
    if not by_connection:
        time.sleep(0.05)
    for connection in wait(list(by_connection), timeout=0.25):
        each = by_connection[connection]  # type: ignore[index]
        try:
            received = each.rows.recv()
        except (EOFError, OSError):
            each.rows.close()
            continue
        if received is None:
            each.ended = True
        elif isinstance(received, str):
            each.error = received
        else:
            report.add(each.case.name, received)


def _over(each: _Run) -> bool:
    return each.rows.closed or each.seconds > each.limit


def _end(each: _Run, report: Report) -> None:
    """Wait for a process that has closed its end, or kill one that is over its limit, with what it started."""
    if each.rows.closed:
        each.process.join(5)
    late = each.process.is_alive()
    if late:
        pid = each.process.pid or 0
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL) if os.getpgid(pid) == pid else os.kill(pid, signal.SIGKILL)
    each.process.join()
    each.rows.close()
    if each.ended and not each.error:
        result = Result("ran", each.seconds, "")
    elif each.error:
        result = Result("failed", each.seconds, each.error)
    elif late:
        result = Result("stopped", each.seconds, f"it was over its limit of {each.limit:.0f} s; see the log")
    else:
        result = Result("died", each.seconds, f"its process ended with {each.process.exitcode}; see the log")
    report.ended(each.case.name, result)
