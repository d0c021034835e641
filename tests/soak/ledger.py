"""A writer's ledger, outside the database: what it was about to do, and what was acknowledged. Outlives the writer.

A line is JSON: ``{"begin": operation}``, then ``{"done": ids}``; or, found out by the writer after a kill, an interrupt
or an error, ``{"settled": whether it was done, "ids": …}``. ``{"fault": text}`` is what must not be, and
``{"count": what}`` is counted.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from journals import World


class Ledger:
    """One writer's file, appended to; what stands in it is on the disk when a call returns."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND)

    def tell(self, **line: Any) -> None:
        os.write(self._file, b"\n" + json.dumps(line).encode() + b"\n")
        os.fsync(self._file)


def lines(path: Path) -> Iterator[dict[str, Any]]:
    """What a ledger says; a line that was cut short by a kill was never told to anybody."""
    if path.exists():
        with open(path, "rb") as file:  # line by line: a ledger read whole would be taken for memory that leaks
            for line in file:
                try:
                    yield json.loads(line)
                except ValueError:
                    continue


def replay(path: Path) -> tuple[World, dict[str, Any] | None]:
    """What a writer's agents must hold by its ledger, and an operation that may have been done or not."""
    world, pending = World(), None
    for line in lines(path):
        if "begin" in line:
            pending = line["begin"]
        elif pending is not None and ("done" in line or "settled" in line):
            if line.get("settled", True):
                world.apply(pending, line.get("done") or line.get("ids"))
            pending = None
    return world, pending
