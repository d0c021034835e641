"""Benchmarks look at where they will write before anything is measured: no file that is there is replaced untold."""

from __future__ import annotations

import importlib
import runpy
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from deltamem_agents.bench.outputs import check_outputs
from deltamem_agents.cli import app
from deltamem_agents.errors import ConfigError

ROOT = Path(__file__).parents[2]
MODULES = {
    "deltamem_agents.bench.store": [],
    "deltamem_agents.bench.engine": [],
    "deltamem_agents.bench.recall.search": [],
    "deltamem_agents.bench.recall.locomo": ["locomo.json"],
}


@pytest.mark.parametrize("name", MODULES)
def test_a_table_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    table = tmp_path / "figures.csv"
    table.write_text("measured for days")
    monkeypatch.setattr(sys, "argv", [name, *MODULES[name], "--out", str(table)])
    with pytest.raises(SystemExit) as ended:
        importlib.import_module(name).main()
    assert ended.value.code == 2 and "exists; name another file" in capsys.readouterr().err
    assert table.read_text() == "measured for days"


def test_nor_is_that_of_the_kernels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "figures.csv"
    table.write_text("measured for days")
    monkeypatch.setattr(sys, "argv", ["run.py", "--out", str(table)])
    monkeypatch.syspath_prepend(str(ROOT / "kernels" / "benchmarks"))
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / "kernels" / "benchmarks" / "run.py"), run_name="__main__")
    assert ended.value.code == 2 and "--force" in capsys.readouterr().err
    assert table.read_text() == "measured for days"


@pytest.mark.parametrize("name", ["recall.json", "recall.md", "recall.png"])
def test_the_report_of_recall_is_not_replaced(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("measured for days")
    done = CliRunner().invoke(app, ["bench", "recall", "--out", str(tmp_path)])
    assert done.exit_code == 1 and name in str(done.output) + str(done.stderr)
    assert [each.read_text() for each in tmp_path.iterdir()] == ["measured for days"]


def test_a_link_that_leads_nowhere_is_there_too(tmp_path: Path) -> None:
    link = tmp_path / "figures.csv"
    link.symlink_to(tmp_path / "elsewhere.csv")
    with pytest.raises(ConfigError, match="exists"):
        check_outputs([tmp_path / "new.csv", link], force=False)
    check_outputs([link], force=True)


def test_a_place_that_cannot_be_written_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("a file, and no folder")
    for out in (tmp_path / "file" / "f.csv", tmp_path / "file" / "deep" / "f.csv", Path("/proc/f.csv"), tmp_path):
        for name in MODULES:
            monkeypatch.setattr(sys, "argv", [name, *MODULES[name], "--out", str(out), "--force"])
            with pytest.raises(SystemExit) as ended:
                importlib.import_module(name).main()
            assert ended.value.code == 2 and str(out.parent) in capsys.readouterr().err
    for out in (tmp_path / "file", tmp_path / "file" / "deep"):
        for command in (["bench", "recall", "--force"], ["train", "tiny"]):
            done = CliRunner().invoke(app, [*command, "--out", str(out)])
            assert done.exit_code == 1 and str(out) in done.stderr and done.stderr.count("\n") == 1
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_looking_leaves_nothing_behind(tmp_path: Path) -> None:
    check_outputs([tmp_path / "new" / "deep" / "f.csv", tmp_path / "new" / "g.csv"], force=False)
    assert list(tmp_path.iterdir()) == []
