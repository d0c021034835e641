"""What a commit added, raised, lowered or removed among a project's dependencies, by its manifests and lock files."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath

from deltamem_agents.guidelines.facts.statement import table
from deltamem_agents.guidelines.files import LARGEST
from deltamem_agents.guidelines.git import GitError, git
from deltamem_agents.guidelines.repository import Repository

MOST_CHANGES = 30  # of one file
Versions = dict[str, str]
_REQUIREMENT = re.compile(r"\s*([A-Za-z0-9][\w.-]*)\s*(?:\[[^\]]*\])?\s*([^;#\n]*)")


def changed_dependencies(repository: Repository, commit: str, files: tuple[str, ...]) -> list[str]:
    """How a commit changed what the project depends on, in words such as "added httpx >=0.27 (pyproject.toml)"."""
    told: list[str] = []
    for file in files:
        read = _reader(file)
        if read is None:
            continue
        before, after = (_versions(repository, f"{each}:{file}", read) for each in (f"{commit}^", commit))
        changes = [*_compared(before, after)]
        told += [f"{each} ({file})" for each in changes[:MOST_CHANGES]]
    return told


def _compared(before: Versions, after: Versions) -> Iterator[str]:
    for name in sorted(before.keys() | after.keys()):
        old, new = before.get(name), after.get(name)
        if old is None:
            yield f"added {name} {new}".rstrip()
        elif new is None:
            yield f"removed {name} {old}".rstrip()
        elif old != new:
            verb = (
                "raised" if _numbers(new) > _numbers(old) else "lowered" if _numbers(new) < _numbers(old) else "changed"
            )
            yield f"{verb} {name} from {old or 'any version'} to {new or 'any version'}"


def _numbers(version: str) -> list[int]:
    found = re.search(r"\d+(?:\.\d+)*", version)
    return [int(each[:9]) for each in found[0].split(".")] if found else []


def _versions(repository: Repository, revision: str, read: Callable[[str], Versions]) -> Versions:
    try:
        if int(git(repository.root, "cat-file", "-s", revision)) > LARGEST:
            return {}
        return read(git(repository.root, "cat-file", "blob", revision))
    except (GitError, ValueError, KeyError, TypeError, AttributeError, RecursionError):  # broken, or not there yet
        return {}


def _reader(file: str) -> Callable[[str], Versions] | None:
    name = PurePosixPath(file).name.casefold()
    if re.fullmatch(r"(?:dev-|test-)?requirements[\w.-]*\.txt|constraints\.txt", name):
        return _requirements
    return {
        "pyproject.toml": _pyproject,
        "package.json": _package,
        "cargo.toml": _cargo,
        "go.mod": _go,
        "uv.lock": _toml_lock,
        "poetry.lock": _toml_lock,
        "pdm.lock": _toml_lock,
        "cargo.lock": _toml_lock,
        "package-lock.json": _npm_lock,
    }.get(name)


def _requirements(text: str) -> Versions:
    return _named(line for line in text.split("\n") if line.strip() and not line.lstrip().startswith(("#", "-")))


def _named(lines: Iterator[str] | list[str]) -> Versions:
    found = (_REQUIREMENT.match(each) for each in lines if isinstance(each, str))
    return {each[1].casefold(): each[2].strip() for each in found if each}


def _pyproject(text: str) -> Versions:
    whole = tomllib.loads(text)
    project = table(whole, "project")
    listed = [each for each in _list(project.get("dependencies"))]
    for group in (*table(project, "optional-dependencies").values(), *table(whole, "dependency-groups").values()):
        listed += _list(group)
    found = _named([each for each in listed if isinstance(each, str)])
    poetry = table(whole, "tool", "poetry")
    for part in (
        table(poetry, "dependencies"),
        *(table(each, "dependencies") for each in table(poetry, "group").values()),
    ):
        found |= _specified(part)
    return found


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _specified(part: dict[str, object]) -> Versions:
    return {
        name.casefold(): str(each.get("version", "")) if isinstance(each, dict) else str(each)
        for name, each in part.items()
    }


def _package(text: str) -> Versions:
    whole = json.loads(text)
    parts = ("dependencies", "devDependencies", "peerDependencies", "optionalDependencies")
    return {name: version for part in parts for name, version in _specified(table(whole, part)).items()}


def _cargo(text: str) -> Versions:
    whole = tomllib.loads(text)
    found: Versions = {}
    for part in ("dependencies", "dev-dependencies", "build-dependencies"):
        found |= _specified(table(whole, part))
    return found | _specified(table(whole, "workspace", "dependencies"))


def _go(text: str) -> Versions:
    return dict(re.findall(r"^(?:require\s+|\s+)([\w.-]+\.[\w./-]+)\s+(v[\w.+-]+)", text, re.MULTILINE))


def _toml_lock(text: str) -> Versions:
    packages = tomllib.loads(text).get("package", [])
    return {str(each["name"]): str(each.get("version", "")) for each in packages}


def _npm_lock(text: str) -> Versions:
    packages = table(json.loads(text), "packages")
    return {
        name.rpartition("node_modules/")[2]: str(table(each).get("version", ""))
        for name, each in packages.items()
        if name
    }
