"""Imports have no circle and go down the layers, those for type checking alone included."""

import tomllib
from graphlib import TopologicalSorter
from pathlib import Path

import grimp
import pytest

SETTINGS = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["tool"]["importlinter"]


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    return grimp.build_graph(*SETTINGS["root_packages"], exclude_type_checking_imports=False, cache_dir=None)


def test_no_module_imports_itself_by_way_of_others(graph: grimp.ImportGraph) -> None:
    imported = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    TopologicalSorter(imported).prepare()  # raises CycleError, which names the circle


def test_types_are_imported_down_the_layers_too(graph: grimp.ImportGraph) -> None:
    (layers,) = (each["layers"] for each in SETTINGS["contracts"] if each["type"] == "layers")
    below: set[str] = set()
    for layer in reversed(layers):
        names = {name.strip(" ()") for part in layer.split(":") for name in part.split("|")}
        above = {module for module in graph.modules if any(f"{module}.".startswith(f"{name}.") for name in names)}
        for module in below:
            assert not graph.find_modules_directly_imported_by(module) & above, module
        below |= above
