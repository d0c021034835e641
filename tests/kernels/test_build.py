"""The build hook: what it compiles, what it leaves out, and what ends up in the wheel."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "kernels/deltamem_kernels/cpu/scan.c"

need_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler 'cc' here")


@pytest.fixture(scope="module")
def hook():
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_no_compiler_is_no_error(hook, tmp_path, monkeypatch):
    monkeypatch.setenv("CC", "no-such-compiler")
    warnings = []

    assert not hook.compile_scan(SOURCE, tmp_path / "_scan.so", warn=warnings.append)

    assert "no-such-compiler" in warnings[0]
    assert list(tmp_path.iterdir()) == []


@need_compiler
def test_broken_source_is_no_error(hook, tmp_path, monkeypatch):
    monkeypatch.delenv("CC", raising=False)
    (tmp_path / "scan.c").write_text("int main(")
    warnings = []

    assert not hook.compile_scan(tmp_path / "scan.c", tmp_path / "_scan.so", warn=warnings.append)

    assert "failed" in warnings[0]
    assert not (tmp_path / "_scan.so").exists()


@need_compiler
@pytest.mark.slow
def test_wheel_carries_the_library_and_its_platform(tmp_path):
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)

    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "py3-none-" in wheel.name and not wheel.name.endswith("-any.whl")
    assert "deltamem_kernels/cpu/_scan.so" in names
    assert "deltamem_agents/py.typed" in names
    assert not any(name.startswith(("kernels/", "integrations/")) for name in names)
