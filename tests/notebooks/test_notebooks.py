"""The example notebooks: script and notebook say the same, and what is committed can be read as it is.

That they run is tested by nbmake, which pytest calls for each .ipynb in `examples/notebooks`.
"""

import re
from pathlib import Path

import jupytext
import nbformat
import pytest

from tests.notebooks.execute import FOLDER, scripts

NAMES = [script.stem for script in scripts()]
PATHS = re.compile(r"/(home|Users|tmp|root|work)/")
KIBIBYTES = 200  # limit on a notebook with its figures


def notebook(name):
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def test_each_script_has_its_notebook_and_the_other_way_round():
    assert NAMES
    assert sorted(path.stem for path in FOLDER.glob("*.ipynb")) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_script_and_notebook_say_the_same(name):
    script = jupytext.read(FOLDER / f"{name}.py", fmt="py:percent")
    told = [(cell.cell_type, cell.source) for cell in script.cells]
    assert [(cell.cell_type, cell.source) for cell in notebook(name).cells] == told, "run 'make notebooks'"


@pytest.mark.parametrize("name", NAMES)
def test_committed_outputs_can_be_read_elsewhere(name):
    path = FOLDER / f"{name}.ipynb"
    assert path.stat().st_size < KIBIBYTES * 1024
    cells = [cell for cell in notebook(name).cells if cell.cell_type == "code"]
    outputs = [output for cell in cells for output in cell.outputs]
    assert outputs
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]
    texts = [output.get("text", "") + output.get("data", {}).get("text/plain", "") for output in outputs]
    assert not [text for text in texts if PATHS.search(text)]


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name):
    text = "\n".join(cell.source for cell in notebook(name).cells if cell.cell_type == "markdown")
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
        assert target.startswith("https://") or (FOLDER / Path(target)).resolve().exists(), target
