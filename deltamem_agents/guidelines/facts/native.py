"""Facts of Rust, Go and Java projects. XML and Gradle files are read as text."""

from __future__ import annotations

import re
from collections.abc import Iterator

from deltamem_agents.guidelines.facts.python import parse_toml
from deltamem_agents.guidelines.facts.statement import Fact, TomlLines, line_of, table
from deltamem_agents.guidelines.front_matter import parse_yaml


def cargo(text: str) -> Iterator[Fact]:
    """Facts of a Cargo.toml."""
    whole, lines = parse_toml(text), TomlLines(text)
    for section in ("package", "workspace.package"):
        found = table(whole, *section.split("."))
        if isinstance(version := found.get("rust-version"), str):
            yield Fact(f"Rust version: minimum supported is {version} (MSRV)", lines.of(section, "rust-version"))
        if isinstance(edition := found.get("edition"), str):
            yield Fact(f"Rust edition: {edition}", lines.of(section, "edition"))
    if isinstance(members := table(whole, "workspace").get("members"), list):
        yield Fact(f"Monorepo: a Cargo workspace of {', '.join(map(str, members))}", lines.of("workspace", "members"))
    for section in ("lints", "workspace.lints"):
        for tool, settings in table(whole, *section.split(".")).items():
            for lint, level in settings.items() if isinstance(settings, dict) else ():
                said = level.get("level") if isinstance(level, dict) else level
                if said in ("deny", "forbid", "warn"):
                    verb = {"deny": "denies", "forbid": "forbids", "warn": "warns about"}[said]
                    yield Fact(f"Lint: {tool} {verb} `{lint}`", lines.of(f"{section}.{tool}", lint))


def rustfmt(text: str) -> Iterator[Fact]:
    """Facts of a rustfmt.toml."""
    whole, lines = parse_toml(text), TomlLines(text)
    yield Fact("Formatter: rustfmt", 1)
    if "max_width" in whole:
        yield Fact(f"Line length: at most {whole['max_width']} characters (rustfmt)", lines.of("", "max_width"))
    if "tab_spaces" in whole:
        yield Fact(f"Indentation: {whole['tab_spaces']} spaces (rustfmt)", lines.of("", "tab_spaces"))
    if whole.get("hard_tabs") is True:
        yield Fact("Indentation: tabs (rustfmt)", lines.of("", "hard_tabs"))
    if "imports_granularity" in whole:
        yield Fact(f"Imports: grouped by {whole['imports_granularity']} (rustfmt)", lines.of("", "imports_granularity"))


def clippy(text: str) -> Iterator[Fact]:
    """Facts of a clippy.toml."""
    whole, lines = parse_toml(text), TomlLines(text)
    yield Fact("Linter: Clippy", 1)
    for key, value in whole.items():
        if isinstance(value, str | int | bool):
            yield Fact(f"Clippy: {key.replace('-', ' ')} is {str(value).lower()}", lines.of("", key))
        elif key.startswith("disallowed") and isinstance(value, list):
            for each in value:
                path = each.get("path") if isinstance(each, dict) else each
                reason = f": {each['reason']}" if isinstance(each, dict) and each.get("reason") else ""
                if isinstance(path, str):
                    line = line_of(text, re.escape(path))
                    yield Fact(
                        f"Never use `{path}`, a {key.replace('-', ' ').removesuffix('s')} (Clippy){reason}", line
                    )


def rust_toolchain(text: str) -> Iterator[Fact]:
    """The channel of a rust-toolchain file, which is TOML or one line."""
    found = re.search(r'channel\s*=\s*"([\w.-]+)"', text) or re.match(r"\s*([\w.-]+)\s*$", text)
    if found:
        yield Fact(f"Rust version: toolchain {found[1]}", text.count("\n", 0, found.start(1)) + 1)


def go_mod(text: str) -> Iterator[Fact]:
    """Facts of a go.mod."""
    if found := re.search(r"^go\s+([\d.]+)", text, re.MULTILINE):
        yield Fact(f"Go version: {found[1]}", line_of(text, r"^go\s+[\d.]+"))
    if found := re.search(r"^toolchain\s+(\S+)", text, re.MULTILINE):
        yield Fact(f"Go toolchain version: {found[1]}", line_of(text, r"^toolchain\s"))


def golangci(text: str) -> Iterator[Fact]:
    """Facts of a .golangci.yml."""
    whole = parse_yaml(text)
    yield Fact("Linter: golangci-lint", 1)
    enabled = table(whole, "linters").get("enable")
    if isinstance(enabled, list) and enabled:
        line = line_of(text, r"^\s*enable\s*:")
        yield Fact(f"Linters that golangci-lint enables: {', '.join(map(str, enabled))}", line)
    if found := re.search(r"^\s*line-length\s*:\s*(\d+)", text, re.MULTILINE):
        yield Fact(
            f"Line length: at most {found[1]} characters (golangci-lint lll)", line_of(text, r"^\s*line-length\s*:")
        )


def maven(text: str) -> Iterator[Fact]:
    """Facts of a pom.xml."""
    yield Fact("Build tool and package manager: Maven (mvn)", 1)
    if found := re.search(r"<(?:maven\.compiler\.(?:release|source)|java\.version|release)>\s*([\d.]+)\s*<", text):
        yield Fact(f"Java version: {found[1]}", text.count("\n", 0, found.start()) + 1)
    for plugin, said in (
        ("spotless-maven-plugin", "Formatter: Spotless"),
        ("maven-checkstyle-plugin", "Linter: Checkstyle"),
        ("maven-pmd-plugin", "Linter: PMD"),
        ("jacoco-maven-plugin", "Test coverage: measured with JaCoCo"),
    ):
        if plugin in text:
            yield Fact(said, line_of(text, re.escape(plugin)))


def gradle(text: str) -> Iterator[Fact]:
    """Facts of a build.gradle or build.gradle.kts."""
    yield Fact("Build tool: Gradle", 1)
    pattern = r"(?:JavaLanguageVersion\.of\(|jvmToolchain\(|(?:source|target)Compatibility\s*=\s*\D*?)(\d+)"
    if found := re.search(pattern, text):
        yield Fact(f"Java version: {found[1]}", text.count("\n", 0, found.start()) + 1)
    for word, said in (
        ("spotless", "Formatter: Spotless"),
        ("ktlint", "Linter: ktlint"),
        ("checkstyle", "Linter: Checkstyle"),
    ):
        if found := re.search(rf"\b{word}\b", text):
            yield Fact(said, text.count("\n", 0, found.start()) + 1)


def checkstyle(text: str) -> Iterator[Fact]:
    """Facts of a checkstyle.xml."""
    yield Fact("Linter: Checkstyle", 1)
    if found := re.search(r'name="LineLength".*?name="max"\s+value="(\d+)"', text, re.DOTALL):
        first, last = (text.count("\n", 0, place) + 1 for place in (found.start(), found.end()))
        yield Fact(f"Line length: at most {found[1]} characters (Checkstyle)", first, last)
    if 'name="AvoidStarImport"' in text:
        yield Fact("Imports: never with a star (Checkstyle)", line_of(text, 'name="AvoidStarImport"'))
