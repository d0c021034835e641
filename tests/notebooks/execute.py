"""Executes the example notebooks: each percent script becomes a notebook with its outputs, next to it.

python tests/notebooks/execute.py [NAME …]     (`make notebooks`)
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import jupytext
import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parents[2] / "examples" / "notebooks"
SECONDS = 300  # limit for a cell


def scripts() -> list[Path]:
    """The percent scripts, each the source of a notebook."""
    return sorted(FOLDER.glob("*.py"))


def executed(script: Path) -> Any:
    """The notebook of a script, with the outputs of a new execution; ids and metadata do not change from run to run."""
    notebook = jupytext.read(script, fmt="py:percent")
    NotebookClient(notebook, timeout=SECONDS, kernel_name="python3", resources={"metadata": {"path": FOLDER}}).execute()
    notebook.metadata = {"kernelspec": notebook.metadata["kernelspec"], "language_info": {"name": "python"}}
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"{script.stem}-{number}"
        cell["metadata"] = {}
        # Warnings and progress bars are about the machine at hand.
        if cell.cell_type == "code":
            cell["outputs"] = [each for each in cell["outputs"] if each.get("name") != "stderr"]
    return notebook


def main(names: list[str]) -> None:
    """Execute the named notebooks, or all."""
    for script in scripts():
        if not names or script.stem in names:
            nbformat.write(executed(script), script.with_suffix(".ipynb"))
            print(script.with_suffix(".ipynb"))


if __name__ == "__main__":
    main(sys.argv[1:])
