"""Which files of a repository hold rules, what these apply to, and which take precedence."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

OVERRIDE, INSTRUCTIONS, FACTS, CONTRIBUTING, README = range(5)  # ranks: of rules equally near, the smaller wins
Form = Literal["markdown", "rules", "skill", "readme", "config"]


@dataclass(frozen=True, slots=True)
class Source:
    """A file that holds rules.

    Args:
        file: Relative to the repository's root.
        form: How it is read: "markdown" as a whole, "rules" with front matter that says what it is about, "skill" by
            its name and description, "readme" by some of its sections, "config" for facts.
        rank: Precedence.
        directory: Its rules are about the files below this folder.
        globs: The front matter field that narrows this.
    """

    file: str
    form: Form
    rank: int
    directory: str = ""
    globs: str = ""


_INSTRUCTIONS = {
    "agents.md": INSTRUCTIONS,
    "agent.md": INSTRUCTIONS,
    "agents.override.md": OVERRIDE,
    "claude.md": INSTRUCTIONS,
    "claude.local.md": OVERRIDE,
    "gemini.md": INSTRUCTIONS,
    "conventions.md": INSTRUCTIONS,
    ".cursorrules": INSTRUCTIONS,
    ".windsurfrules": INSTRUCTIONS,
    ".clinerules": INSTRUCTIONS,
    "warp.md": INSTRUCTIONS,
}
# Below the root only as written: docs/agents.md is likely a page about a product's agents.
_AS_WRITTEN = {
    each.casefold(): each for each in "AGENTS.md AGENT.md AGENTS.override.md CLAUDE.md GEMINI.md WARP.md".split()
}
_FOLDERS: tuple[tuple[re.Pattern[str], Form, str], ...] = (
    (re.compile(r"(?:^|(?P<dir>.*)/)\.claude/rules/.+\.md$"), "rules", "paths"),
    (re.compile(r"(?:^|(?P<dir>.*)/)\.cursor/rules/.+\.mdc?$"), "rules", "globs"),
    (re.compile(r"(?:^|(?P<dir>.*)/)\.github/instructions/.+\.instructions\.md$"), "rules", "applyTo"),
    (re.compile(r"(?:^|(?P<dir>.*)/)\.github/copilot-instructions\.md$"), "rules", "applyTo"),
    (re.compile(r"(?:^|(?P<dir>.*)/)\.windsurf/rules/.+\.md$"), "rules", "globs"),
    (re.compile(r"(?:^|(?P<dir>.*)/)\.clinerules/.+\.md$"), "rules", "paths"),
    (re.compile(r"(?:^|(?P<dir>.*)/)\.junie/(?:guidelines|AGENTS)\.md$"), "rules", "globs"),
    (re.compile(r"(?:^|(?P<dir>.*)/)\.claude/CLAUDE\.md$"), "rules", "paths"),
)
_SKILL = re.compile(
    r"(?:^|(?P<dir>.*)/)(?:\.claude/skills|\.agents/skills|\.codex/skills|\.github/skills|skills)/[^/]+/SKILL\.md$",
    re.IGNORECASE,
)
_CONTRIBUTING = re.compile(
    r"(?:^|(?P<dir>.*)/)(?:\.github/|docs/)?contributing(?:\.(?:md|markdown|txt))?$", re.IGNORECASE
)
_README = re.compile(r"(?:^|(?P<dir>.*)/)readme(?:\.(?:md|markdown))?$", re.IGNORECASE)
CONFIGURATION = frozenset(
    "pyproject.toml setup.cfg tox.ini noxfile.py package.json makefile gnumakefile justfile .justfile taskfile.yml "
    "taskfile.yaml cargo.toml clippy.toml .clippy.toml rustfmt.toml .rustfmt.toml go.mod .golangci.yml .golangci.yaml "
    ".editorconfig biome.json biome.jsonc .prettierrc .prettierrc.json .prettierrc.json5 .prettierrc.yaml "
    ".prettierrc.yml .prettierrc.toml ruff.toml .ruff.toml .pre-commit-config.yaml .pre-commit-config.yml "
    ".python-version .nvmrc "
    ".node-version .tool-versions rust-toolchain rust-toolchain.toml tsconfig.json pytest.ini .flake8 mypy.ini "
    "pnpm-lock.yaml yarn.lock package-lock.json bun.lockb bun.lock uv.lock poetry.lock pdm.lock pom.xml build.gradle "
    "build.gradle.kts checkstyle.xml .eslintrc.json .eslintrc .eslintrc.yml .eslintrc.yaml".split()
)
_ESLINT = re.compile(r"^(?:eslint|prettier|vitest|jest)\.config\.(?:[cm]?[jt]s)$")
_WORKFLOW = re.compile(r"^\.github/workflows/[^/]+\.ya?ml$")
_LOCAL = "CLAUDE.local.md"  # usually ignored by git, and meant to be read


def source_of(file: str) -> Source | None:
    """How a file is read for rules; None if it holds none."""
    directory, _, name = file.rpartition("/")
    lower = name.casefold()
    if lower in _INSTRUCTIONS and (name == _AS_WRITTEN.get(lower, name) or not directory):
        return Source(file, "rules", _INSTRUCTIONS[lower], _governed(directory, lower), "globs")
    for pattern, form, globs in _FOLDERS:
        if found := pattern.match(file):
            return Source(file, form, INSTRUCTIONS, found["dir"] or "", globs)
    if found := _SKILL.match(file):
        return Source(file, "skill", INSTRUCTIONS, found["dir"] or "")
    if found := _CONTRIBUTING.match(file):
        return Source(file, "markdown", CONTRIBUTING, found["dir"] or "")
    if found := _README.match(file):
        return Source(file, "readme", README, found["dir"] or "")
    if lower in CONFIGURATION or _ESLINT.match(lower) or _WORKFLOW.match(file):
        return Source(file, "config", FACTS, "" if _WORKFLOW.match(file) else directory)
    return None


def sources_among(files: Iterable[str]) -> dict[str, Source]:
    """The sources of a listing, by file."""
    return {file: source for file in files if (source := source_of(file)) is not None}


def local_files(files: Iterable[str]) -> set[str]:
    """Where files that git ignores may hold rules: beside the sources, and at the root."""
    folders = {""} | {file.rpartition("/")[0] for file in files}
    return {f"{folder}/{_LOCAL}" if folder else _LOCAL for folder in folders}


def _governed(directory: str, name: str) -> str:
    """The folder that instructions are about: the one above ``.github`` and the like, and above documentation."""
    folder, _, last = directory.rpartition("/")
    about_all = name == "conventions.md" and last.casefold() in ("docs", "doc", "documentation")
    return (
        folder if about_all or last in (".github", ".gitlab", ".agents", ".codex", ".claude", ".gemini") else directory
    )
