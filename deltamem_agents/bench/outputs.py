"""Output files of a benchmark: they must be writable, and an existing file is replaced only on request."""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from deltamem_agents.errors import ConfigError


def check_outputs(paths: Iterable[Path], *, force: bool) -> None:
    """Check all output files before minutes are spent measuring. Leaves nothing behind.

    Raises:
        ConfigError: A file exists and must not be replaced, or cannot be written.
    """
    for path in paths:
        if not force and os.path.lexists(path):
            raise ConfigError(f"{str(path)!r} exists; name another file, or replace it with --force")
        if os.path.isdir(path):
            raise ConfigError(f"{str(path)!r} is a folder; name a file")
        if os.path.exists(path) and not os.access(path, os.W_OK):
            raise ConfigError(f"{str(path)!r} cannot be written; name another place, or give write permission")
        check_folder(path.parent)


def check_folder(folder: Path) -> None:
    """Check that a file can be made in a folder, which may not exist yet; leaves nothing behind.

    Raises:
        ConfigError: It cannot.
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
            with suppress(OSError):  # it may not have been made
                each.rmdir()


def add_output(parser: argparse.ArgumentParser) -> None:
    """Add the options ``--out`` and ``--force`` of a benchmark that writes a CSV file."""
    parser.add_argument("--out", type=Path, default=None, help="a CSV file")
    parser.add_argument("--force", action="store_true", help="replace the file if it exists")


def parsed(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Parse the arguments; exit with an error if ``--out`` must not be replaced or cannot be written."""
    chosen = parser.parse_args()
    try:
        check_outputs([chosen.out] if chosen.out is not None else [], force=chosen.force)
    except ConfigError as error:
        parser.error(str(error))
    return chosen
