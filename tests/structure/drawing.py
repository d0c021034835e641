"""Draws which package imports which, in Mermaid. ``python tests/structure/drawing.py`` renews it in the docs."""

import re
import tomllib
from pathlib import Path

import grimp

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "architecture.md"
PACKAGES = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["root_packages"]
BLOCK = re.compile(r"(?<=<!-- drawn by tests/structure/drawing.py -->\n).*?(?=<!-- end -->)", re.DOTALL)


def import_graph() -> grimp.ImportGraph:
    """All imports of our packages, those for type checking included."""
    return grimp.build_graph(*PACKAGES, exclude_type_checking_imports=False, cache_dir=None)


def package_of(graph: grimp.ImportGraph, module: str) -> str | None:
    """The package that a module is drawn as; None for the modules that lie beside the packages."""
    root, *rest = module.split(".")
    if root != "deltamem_agents":
        return root
    return rest[0] if rest and graph.find_children(f"{root}.{rest[0]}") else None


def package_imports(graph: grimp.ImportGraph) -> dict[str, set[str]]:
    """For each package, the others that it imports."""
    found: dict[str, set[str]] = {}
    for module in graph.modules:
        package = package_of(graph, module)
        if package is not None:
            others = {package_of(graph, each) for each in graph.find_modules_directly_imported_by(module)}
            found.setdefault(package, set()).update(each for each in others if each not in (None, package))
    return found


def diagram(imports: dict[str, set[str]]) -> str:
    """The diagram, without arrows that follow from others. The packages must not import one another in a circle."""

    def reached(package: str) -> set[str]:
        return imports[package].union(*map(reached, imports[package]))

    arrows = [
        f"    {package} --> {other}"
        for package in sorted(imports)
        for other in sorted(imports[package] - set().union(*map(reached, imports[package])))
    ]
    return "\n".join(["```mermaid", "flowchart TD", *arrows, "```", ""])


if __name__ == "__main__":
    drawn = diagram(package_imports(import_graph()))
    PAGE.write_text(BLOCK.sub(lambda _: drawn, PAGE.read_text()))
