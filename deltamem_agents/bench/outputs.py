"""Where a benchmark writes its figures: a place that can be written, and no file that is there unless that is asked."""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from deltamem_agents.errors import ConfigError


def check_outputs(paths: Iterable[Path], *, force: bool) -> None:
    """Look at all files that are to be written, before minutes are spent. Leaves nothing behind.

    Raises:
        ConfigError: One is there, and is not to be replaced; or one cannot be written.
    """
    for path in paths:
        if not force and os.path.lexists(path):
            raise ConfigError(f"{str(path)!r} exists; name another place, or let it be replaced with --force")
        if os.path.isdir(path):
            raise ConfigError(f"{str(path)!r} is a folder; name a file")
        if os.path.exists(path) and not os.access(path, os.W_OK):
            raise ConfigError(f"{str(path)!r} cannot be written; name another place, or give write permission")
        check_folder(path.parent)


def check_folder(folder: Path) -> None:
    """Make a file in a folder, and the folder where it is not there, and remove them again.

    Raises:
        ConfigError: That cannot be done.
    """
    missing = [each for each in (folder, *folder.parents) if not os.path.exists(each)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ConfigError(
            f"no file can be written into {str(folder)!r}: {error.strerror or error}; name another place"
        ) from error
    finally:
        for each in missing:
            with suppress(OSError):  # it was not made
                each.rmdir()


def add_output(parser: argparse.ArgumentParser) -> None:
    """The options ``--out`` and ``--force`` of a benchmark that writes a CSV file."""
    parser.add_argument("--out", type=Path, default=None, help="a CSV file")
    parser.add_argument("--force", action="store_true", help="replace the file if it is there")


def parsed(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The command's arguments; it ends with an error where ``--out`` is not to be replaced or cannot be written."""
    chosen = parser.parse_args()
    try:
        check_outputs([chosen.out] if chosen.out is not None else [], force=chosen.force)
    except ConfigError as error:
        parser.error(str(error))
    return chosen
