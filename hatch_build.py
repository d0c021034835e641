"""Compiles the CPU scan into the package, so that a wheel is a platform wheel; without a compiler it stays pure.

``cc`` (or the compiler named by ``CC``) builds ``kernels/deltamem_kernels/cpu/scan.c`` into ``_scan.so`` beside it. The
library is loaded with ctypes and needs neither torch nor Python's headers, hence the tag ``py3-none-<platform>``.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SOURCE = Path("kernels/deltamem_kernels/cpu/scan.c")
LIBRARY = Path("kernels/deltamem_kernels/cpu/_scan.so")
FLAGS = ["-O3", "-std=gnu11", "-ffp-contract=fast", "-fPIC", "-shared", "-pthread", "-fvisibility=hidden"]


class CompiledScanHook(BuildHookInterface):  # type: ignore[type-arg]
    """Builds the compiled scan before a wheel or an editable install is assembled."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and mark the wheel as bound to this platform if that worked.

        Args:
            version: "standard" or "editable"; both need the library.
            build_data: Hatch's record of the wheel, changed in place.
        """
        root = Path(self.root)
        library = root / LIBRARY
        if compile_scan(root / SOURCE, library, warn=self.app.display_warning):
            platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
            build_data["pure_python"] = False
            build_data["tag"] = f"py3-none-{platform}"
        else:
            library.unlink(missing_ok=True)  # one built before, or elsewhere, must not slip into a pure wheel


def compile_scan(source: Path, library: Path, *, warn: Any = print) -> bool:
    """Compile ``source`` into ``library``; False, with the reason given to ``warn``, where that cannot be done."""
    compiler = shlex.split(os.environ.get("CC") or "cc")
    if not source.is_file() or shutil.which(compiler[0]) is None:
        warn(f"no C compiler {compiler[0]!r}: the compiled CPU scan is left out, the slower PyTorch form is used")
        return False
    # Written under another name and renamed: a process that has the old library mapped keeps a whole one.
    partial = library.with_name(f"{library.name}.{os.getpid()}.tmp")
    command = [*compiler, *FLAGS, "-o", str(partial), str(source), "-lm"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        partial.unlink(missing_ok=True)
        warn(f"{shlex.join(command)} failed, the compiled CPU scan is left out:\n{done.stderr}")
        return False
    partial.replace(library)
    return True


__all__ = ["CompiledScanHook", "compile_scan"]
