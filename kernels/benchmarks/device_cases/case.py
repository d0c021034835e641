"""A case, the setting it runs in, and what cases share: timers, graphs, random numbers of their own."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from measure import Row, Timer, on_cpu, on_gpu


@dataclass(frozen=True, slots=True)
class Setting:
    """Where and how a case runs.

    Args:
        device: "cuda:0", … or "cpu", where Triton is interpreted.
        quick: Whether sizes are cut down to seconds; figures then mean nothing.
        out: Folder for more than rows, such as a profile.
    """

    device: str
    quick: bool
    out: Path

    @property
    def on_gpu(self) -> bool:
        """Whether the device is a GPU."""
        return self.device.startswith("cuda")

    @property
    def timer(self) -> Timer:
        """Events on a GPU, a clock on a CPU."""
        return on_gpu if self.on_gpu else on_cpu


@dataclass(frozen=True, slots=True)
class Case:
    """One process.

    Args:
        name: Short, unique.
        rows: Makes the rows; a failure ends the case only.
        seconds: Time limit.
        alone: Whether nothing else may run meanwhile, as times are taken.
    """

    name: str
    rows: Callable[[Setting], Iterator[Row]]
    seconds: float
    alone: bool = False


def captured(setting: Setting, call: Callable[[], object]) -> Callable[[], object]:
    """A call as a CUDA graph, so that only the device's work is timed; on a CPU the call itself."""
    if not setting.on_gpu:
        return call
    device = torch.device(setting.device)
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    torch.cuda.current_stream(device).wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def captured_if_possible(setting: Setting, call: Callable[[], object]) -> tuple[Callable[[], object], str]:
    """As `captured`, and "CUDA graph"; if the capture fails, the call itself, and "eager"."""
    try:
        return captured(setting, call), "CUDA graph" if setting.on_gpu else "eager"
    except RuntimeError:
        logging.exception("the call could not be captured; it is timed without a graph")
        torch.cuda.synchronize()
        return call, "eager"
