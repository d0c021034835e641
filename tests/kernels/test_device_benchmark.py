"""`kernels/benchmarks/device.py` on a CPU, in an environment that holds torch, triton, transformers and numpy alone."""

from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="Triton is not installed")

PROGRAM = Path(__file__).resolve().parents[2] / "kernels" / "benchmarks" / "device.py"
BARE = ("torch", "triton", "transformers", "numpy")
MISSING = ("sqlalchemy", "alembic", "snowballstemmer", "pytest", "deltamem_agents", "accelerate", "scipy")


def needed(names: tuple[str, ...]) -> set[str]:
    """Packages and all that they need; extras are left out."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name in found:
            continue
        try:
            requirements = metadata.requires(name) or []
        except metadata.PackageNotFoundError:  # for another platform
            continue
        found.add(name)
        for each in requirements:
            if "extra ==" not in each:
                waiting.append(re.match(r"[\w.-]+", each).group())  # type: ignore[union-attr]
    return found


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that links to what the bare machine has; `python -S` with it on the path sees nothing else."""
    folder = tmp_path_factory.mktemp("bare")
    for name in needed(BARE) - {"setuptools"}:
        for file in metadata.files(name) or []:
            top = file.parts[0]
            if top not in ("..", "__pycache__", "bin") and not (folder / top).exists():
                (folder / top).symlink_to(Path(*Path(str(file.locate())).parts[: -len(file.parts)], top))
    return folder


def run(bare: Path, out: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-S", str(PROGRAM), *arguments]
    kept = {name: os.environ[name] for name in ("HOME", "LANG", "PATH") if name in os.environ}
    kept |= {"PYTHONPATH": str(bare), "OMP_NUM_THREADS": "1", "PATH": "", **environment}
    return subprocess.run(command, env=kept, cwd=out, capture_output=True, text=True, timeout=580, check=False)


def rows(out: Path) -> list[dict[str, str]]:
    with (out / "2-rows.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_environment_is_bare(bare: Path, tmp_path: Path) -> None:
    code = f"import importlib.util as u; print([n for n in {(*BARE, *MISSING)!r} if u.find_spec(n)])"
    environment = {"PYTHONPATH": str(bare)}
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.stdout.strip() == str(list(BARE)), done.stderr


@pytest.mark.slow  # imports torch and transformers, on a busy machine for a minute
def test_a_case_runs_without_git_and_installed_packages(bare: Path, tmp_path: Path) -> None:
    out = tmp_path / "results"

    done = run(bare, tmp_path, "--device", "cpu", "--quick", "--only", "decode, graph", OUT=str(out))

    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (row,) = rows(out)
    assert (row["case"], row["reached"], row["commit"]) == ("decode, graph", "yes", "unknown")
    assert row["triton"] == metadata.version("triton") and re.fullmatch(r"[0-9a-f]{12}", row["sources"])
    assert "1 of 1 cases ran; 1 of 1 checks of results" in (out / "1-summary.md").read_text()


@pytest.mark.slow
def test_a_case_that_hangs_is_stopped_and_told(bare: Path, tmp_path: Path) -> None:
    out = tmp_path / "results"

    done = run(
        bare,
        tmp_path,
        "--device",
        "cpu",
        "--quick",
        "--only",
        "golden traces, more",
        "--minutes",
        "0.02",
        "--out",
        str(out),
    )

    assert done.returncode == 1
    summary = (out / "1-summary.md").read_text()
    assert "0 of 1 cases ran" in summary and re.search(r"golden traces, more: (stopped|not run) after", summary)


def test_refuses_what_it_cannot_do(bare: Path, tmp_path: Path) -> None:
    (tmp_path / "2-rows.csv").write_text("kept")

    for arguments, message in (
        (["--device", "cpu", "--quick"], "name one with --out"),
        (["--device", "cpu", "--out", "new"], "add --quick"),
        (["--device", "cpu", "--quick", "--out", str(tmp_path)], "holds the files of an earlier run"),
    ):
        done = run(bare, tmp_path, *arguments)
        assert done.returncode == 2 and message in done.stderr
    assert (tmp_path / "2-rows.csv").read_text() == "kept"


@pytest.mark.slow  # the interpreter takes minutes
def test_every_case_runs(bare: Path, tmp_path: Path) -> None:
    out = tmp_path / "results"

    done = run(bare, tmp_path, "--device", "cpu", "--quick", "--workers", "1", "--out", str(out))

    assert done.returncode == 0, done.stdout[-8000:] + (out / "3-log.txt").read_text()[-3000:]
    assert len(list(out.iterdir())) <= 8 and not [each for each in out.iterdir() if each.is_dir()]
    found = rows(out)
    assert all(row["reached"] == "yes" for row in found if row["unit"] in ("relative", "absolute"))
    assert {row["case"] for row in found} >= {
        "larger than 2^31",
        "golden traces",
        "64 agents, 512 tokens",
        "scan sweep",
    }
    assert "prefill that writes" in (out / "4-profile.txt").read_text()
