"""Benchmarks replace no file that is there, unless they are told to, and say so before anything is measured."""

from __future__ import annotations

import importlib
import runpy
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from deltamem_agents.bench.outputs import refuse_existing
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
    assert ended.value.code == 2 and "exists; name another place" in capsys.readouterr().err
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
        refuse_existing([tmp_path / "new.csv", link], force=False)
    refuse_existing([link], force=True)
