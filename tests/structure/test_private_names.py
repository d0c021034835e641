"""What begins with an underscore is used in its own package alone; the integrations use what is public."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDERS = [ROOT / "deltamem_agents", ROOT / "integrations"]
MODULES = {path: ast.parse(path.read_text()) for folder in FOLDERS for path in sorted(folder.rglob("*.py"))}

# Where a private attribute of another package is used, and why.
EXEMPT = {
    ("deltamem_agents/bench/store.py", "_database"): "fills a database with rows faster than `append` can",
    ("deltamem_agents/core/inference.py", "_version"): "torch's `Tensor._version`; a class of the store has one too",
}
PACKAGES = ("deltamem_agents", "deltamem_kernels", "langchain_deltamem", "llama_index_deltamem")


def named(path: Path) -> str:
    """The module's path from the repository's root."""
    return path.relative_to(ROOT).as_posix()


def package(path: Path) -> str:
    """The folder below ``deltamem_agents`` or ``integrations``; an integration's inner folders are its own."""
    inner = path.relative_to(ROOT).parts[1:]
    return f"{path.relative_to(ROOT).parts[0]}/{inner[0] if len(inner) > 1 else ''}"


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__")


def defined(tree: ast.Module) -> Iterator[str]:
    """Private names that the module's classes define: methods, fields, slots, and attributes of ``self``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            for each in node.body:
                if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef):
                    yield each.name
                elif isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name):
                    yield each.target.id
                elif isinstance(each, ast.Assign):
                    yield from (target.id for target in each.targets if isinstance(target, ast.Name))
                    yield from (
                        node.value
                        for node in ast.walk(each.value)
                        if isinstance(node, ast.Constant) and isinstance(node.value, str)
                    )
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and is_own(node):
            yield node.attr


def is_own(node: ast.Attribute) -> bool:
    """Whether an attribute is of ``self``, ``cls`` or ``super()``."""
    if isinstance(node.value, ast.Call):
        return isinstance(node.value.func, ast.Name) and node.value.func.id == "super"
    return isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")


def used(tree: ast.Module) -> Iterator[ast.Attribute]:
    """Uses of private attributes of other objects."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr) and not is_own(node):
            yield node


OURS: dict[str, set[str]] = {}
for path, tree in MODULES.items():
    for name in filter(is_private, defined(tree)):
        OURS.setdefault(name, set()).add(package(path))


def test_private_attributes_stay_in_their_package() -> None:
    reached = [
        f"{named(path)}:{node.lineno} {ast.unparse(node)}, defined in {', '.join(sorted(OURS[node.attr]))}"
        for path, tree in MODULES.items()
        for node in used(tree)
        if node.attr in OURS and package(path) not in OURS[node.attr] and (named(path), node.attr) not in EXEMPT
    ]
    assert not reached


def test_private_names_are_not_imported() -> None:
    imported = [
        f"{named(path)}:{node.lineno} {node.module}.{each.name}"
        for path, tree in MODULES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(PACKAGES)
        for each in node.names
        if is_private(each.name)
    ]
    assert not imported


def test_integrations_do_not_reach_into_the_runtime() -> None:
    """`DeltaMem.runtime` holds the parts; ``request.runtime`` and the like are the frameworks' own."""
    reached = [
        f"{named(path)}:{node.lineno} {ast.unparse(node)}"
        for path, tree in MODULES.items()
        if named(path).startswith(("integrations/", "deltamem_agents/frameworks/"))
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr == "runtime" and ast.unparse(node.value).endswith("mem")
    ]
    assert not reached


def test_each_exemption_is_needed() -> None:
    assert set(EXEMPT) <= {(named(path), node.attr) for path, tree in MODULES.items() for node in used(tree)}
