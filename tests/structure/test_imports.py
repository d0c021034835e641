"""Imports have no circle, those for type checking alone included, and the drawing of them in the docs is true.

`make layers` checks that they go down the layers.
"""

from graphlib import TopologicalSorter

import grimp
import pytest

from tests.structure.drawing import BLOCK, PAGE, diagram, import_graph, package_imports


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    return import_graph()


def test_no_module_imports_itself_by_way_of_others(graph: grimp.ImportGraph) -> None:
    imported = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    TopologicalSorter(imported).prepare()  # raises CycleError, which names the circle


def test_no_package_imports_itself_by_way_of_others(graph: grimp.ImportGraph) -> None:
    TopologicalSorter(package_imports(graph)).prepare()


def test_the_drawing_is_what_the_code_imports(graph: grimp.ImportGraph) -> None:
    drawn = diagram(package_imports(graph))
    assert BLOCK.findall(PAGE.read_text()) == [drawn], "run python tests/structure/drawing.py"
