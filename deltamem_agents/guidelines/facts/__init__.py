"""Facts of a project's configuration, as rules: what its tests, formatter, linter and versions are set to.

Nothing is run or imported: Python is read through `ast`, JavaScript as text. May import: the parsers of the formats.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from deltamem_agents.guidelines.facts import javascript, native, python, tasks
from deltamem_agents.guidelines.facts.editorconfig import editorconfig
from deltamem_agents.guidelines.facts.statement import Fact
from deltamem_agents.guidelines.rule import Rule, lines_hash
from deltamem_agents.guidelines.scope import Scope
from deltamem_agents.guidelines.sources import Source

MOST_FACTS = 200  # of one file
LONGEST_LINES = 12  # lines that a fact cites

_READERS: dict[str, Callable[[str], Iterable[Fact]]] = {
    "pyproject.toml": python.pyproject,
    "setup.cfg": python.ini,
    "tox.ini": python.ini,
    "pytest.ini": python.ini,
    ".flake8": python.ini,
    "mypy.ini": python.ini,
    "ruff.toml": python.ruff,
    ".ruff.toml": python.ruff,
    "noxfile.py": python.noxfile,
    ".python-version": python.python_version,
    "package.json": javascript.package,
    "tsconfig.json": javascript.tsconfig,
    "biome.json": javascript.biome,
    "biome.jsonc": javascript.biome,
    ".nvmrc": javascript.node_version,
    ".node-version": javascript.node_version,
    "cargo.toml": native.cargo,
    "rustfmt.toml": native.rustfmt,
    ".rustfmt.toml": native.rustfmt,
    "clippy.toml": native.clippy,
    ".clippy.toml": native.clippy,
    "rust-toolchain": native.rust_toolchain,
    "rust-toolchain.toml": native.rust_toolchain,
    "go.mod": native.go_mod,
    ".golangci.yml": native.golangci,
    ".golangci.yaml": native.golangci,
    "pom.xml": native.maven,
    "build.gradle": native.gradle,
    "build.gradle.kts": native.gradle,
    "checkstyle.xml": native.checkstyle,
    "makefile": tasks.makefile,
    "gnumakefile": tasks.makefile,
    "justfile": tasks.justfile,
    ".justfile": tasks.justfile,
    "taskfile.yml": tasks.taskfile,
    "taskfile.yaml": tasks.taskfile,
    ".pre-commit-config.yaml": tasks.pre_commit,
    ".pre-commit-config.yml": tasks.pre_commit,
    ".editorconfig": editorconfig,
}


def facts_of(source: Source, text: str) -> list[Rule]:
    """The facts that a configuration file states.

    Raises:
        UnreadableError: It cannot be parsed; the message names the line.
    """
    lines = text.split("\n")
    rules = []
    for fact in _facts(source.file, text):
        first = min(max(fact.line, 1), len(lines))
        last = min(max(fact.last, first), len(lines), first + LONGEST_LINES)
        rules.append(
            Rule(
                text=fact.text,
                file=source.file,
                lines=(first, last),
                sha256=lines_hash(lines, first, last),
                scope=Scope(source.directory, fact.globs),
                kind=fact.kind,
                rank=source.rank,
            )
        )
        if len(rules) == MOST_FACTS:
            break
    return rules


def _facts(file: str, text: str) -> Iterable[Fact]:
    name = file.rpartition("/")[2].casefold()
    if name in _READERS:
        return _READERS[name](text)
    if name.startswith(".prettierrc"):
        return javascript.prettier(text) if not name.endswith(".toml") else ()
    if re.match(r"(?:eslint|prettier|vitest|jest)\.config\.", name):
        return javascript.script_config(name, text)
    if "workflows/" in file:
        return tasks.workflow(text)
    if name in javascript.LOCKS:
        return [Fact(f"Package manager: {javascript.LOCKS[name]} (its lock file {name})", 1)]
    return ()
