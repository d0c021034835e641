"""Where a benchmark writes its figures: never over a file that is there, unless that is asked for."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable
from pathlib import Path

from deltamem_agents.errors import ConfigError


def refuse_existing(paths: Iterable[Path], *, force: bool) -> None:
    """Look at all files that are to be written, before minutes are spent.

    Raises:
        ConfigError: One is there, and is not to be replaced.
    """
    for path in paths:
        if not force and os.path.lexists(path):
            raise ConfigError(f"{str(path)!r} exists; name another place, or let it be replaced with --force")


def add_output(parser: argparse.ArgumentParser) -> None:
    """The options ``--out`` and ``--force`` of a benchmark that writes a CSV file."""
    parser.add_argument("--out", type=Path, default=None, help="a CSV file")
    parser.add_argument("--force", action="store_true", help="replace the file if it is there")


def parsed(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The command's arguments; it ends with an error where ``--out`` is there and not to be replaced."""
    chosen = parser.parse_args()
    try:
        refuse_existing([chosen.out] if chosen.out is not None else [], force=chosen.force)
    except ConfigError as error:
        parser.error(str(error))
    return chosen
