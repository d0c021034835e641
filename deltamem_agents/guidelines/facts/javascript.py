"""Facts of JavaScript and TypeScript projects: package.json, tsconfig.json, Biome, Prettier, ESLint, lock files."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import json5

from deltamem_agents.bounded_json import TooMuchError, check, loads
from deltamem_agents.guidelines.facts.statement import Fact, check_depth, line_of, table
from deltamem_agents.guidelines.files import UnreadableError
from deltamem_agents.guidelines.front_matter import parse_yaml

MOST_JSON5 = 64 << 10  # characters; its parser takes seconds for more
LOCKS = {
    "pnpm-lock.yaml": "pnpm",
    "yarn.lock": "Yarn",
    "package-lock.json": "npm",
    "bun.lock": "Bun",
    "bun.lockb": "Bun",
    "uv.lock": "uv",
    "poetry.lock": "Poetry",
    "pdm.lock": "PDM",
}
_TESTS = {"vitest": "Vitest", "jest": "Jest", "mocha": "Mocha", "@playwright/test": "Playwright", "cypress": "Cypress"}
_LINTS = {"eslint": "ESLint", "@biomejs/biome": "Biome", "stylelint": "Stylelint", "oxlint": "oxlint"}


def parse_json(text: str) -> Any:
    """Parse JSON, with comments if it has them.

    Raises:
        UnreadableError: It is not valid, too large, or nested too deeply; the message names the line.
    """
    try:
        value = loads(text.encode())
        check_depth(value)
        return value
    except TooMuchError as error:
        raise UnreadableError(f"line 1: {error}") from error
    except ValueError:
        pass
    if len(text) > MOST_JSON5:
        raise UnreadableError(f"line 1: it is JSON with comments of more than {MOST_JSON5} characters, or not valid")
    try:
        check(re.sub(r"//[^\n]*", "", text).encode(), depth=64)
        value = json5.loads(text)
    except (ValueError, RecursionError) as error:
        line = re.search(r":(\d+) ", str(error))
        raise UnreadableError(f"line {line[1] if line else 1}: JSON is not valid: {str(error)[:120]}") from error
    check_depth(value)
    return value


def package(text: str) -> Iterator[Fact]:
    """Facts of a package.json."""
    whole = table(parse_json(text))

    def at(key: str, value: str = "") -> int:
        return line_of(text, rf'"{re.escape(key)}"\s*:{re.escape(value)}')

    manager = whole.get("packageManager")
    name = "npm"
    if isinstance(manager, str) and re.fullmatch(r"[\w.@+-]{1,120}", manager):
        name = manager.partition("@")[0]
        yield Fact(f"Package manager: {name} ({manager.split('+')[0]}) installs dependencies", at("packageManager"))
    for engine, version in table(whole, "engines").items():
        said = {"node": "Node version: requires Node", "npm": "npm version:"}.get(engine, f"{engine} version:")
        yield Fact(f"{said} {version}", at(engine))
    for script, does in table(whole, "scripts").items():
        if isinstance(does, str):
            run = (
                f"{name} run {script}"
                if name in ("npm", "bun") and script not in ("test", "start")
                else f"{name} {script}"
            )
            yield Fact(f"`{run}`: runs `{does[:200]}`", at(script), kind="command")
    if whole.get("workspaces"):
        yield Fact("Monorepo: packages are workspaces", at("workspaces"))
    if whole.get("type") == "module":
        yield Fact("Modules: ES modules (import and export)", at("type"))
    needed = table(whole, "devDependencies") | table(whole, "dependencies")
    for package_name, told in _TESTS.items():
        if package_name in needed:
            yield Fact(f"Test runner: {told}", at(package_name))
    for package_name, told in _LINTS.items():
        if package_name in needed:
            yield Fact(f"Linter: {told}", at(package_name))
    if "prettier" in needed:
        yield Fact("Formatter: Prettier", at("prettier"))
    if "prettier" in whole:
        yield from _prettier(table(whole, "prettier"), text)


def tsconfig(text: str) -> Iterator[Fact]:
    """Facts of a tsconfig.json."""
    options = table(parse_json(text), "compilerOptions")
    if options.get("strict") is True:
        yield Fact("Type checker: TypeScript (tsc) in strict mode", line_of(text, r'"strict"\s*:'))
    if options.get("noUncheckedIndexedAccess") is True:
        yield Fact("TypeScript: indexed access may be undefined", line_of(text, r'"noUncheckedIndexedAccess"'))
    if isinstance(target := options.get("target"), str):
        yield Fact(f"TypeScript compiles to language version {target}", line_of(text, r'"target"\s*:'))


def biome(text: str) -> Iterator[Fact]:
    """Facts of a biome.json, with those of its overrides."""
    whole = table(parse_json(text))
    yield Fact("Linter and formatter: Biome", 1)
    yield from _biome(whole, text, ())
    overrides = whole.get("overrides")
    for each in overrides if isinstance(overrides, list) else ():
        globs = each.get("includes", each.get("include")) if isinstance(each, dict) else None
        if isinstance(globs, list) and globs:
            start = text.find(f'"{globs[0]}"')
            yield from _biome(each, text, tuple(map(str, globs)), max(start, 0))


def _biome(settings: dict[str, Any], text: str, globs: tuple[str, ...], start: int = 0) -> Iterator[Fact]:
    before = text.count("\n", 0, start)

    def at(key: str) -> int:
        return before + line_of(text[start:], rf'"{key}"\s*:')

    formatter = table(settings, "formatter")
    script = table(settings, "javascript", "formatter")
    width = formatter.get("lineWidth", script.get("lineWidth"))
    if width is not None:
        yield Fact(f"Line length: at most {width} characters (Biome)", at("lineWidth"), globs=globs)
    style, size = formatter.get("indentStyle"), formatter.get("indentWidth")
    if style or size:
        yield Fact(
            f"Indentation: {_indent(style, size)} (Biome)", at("indentStyle" if style else "indentWidth"), globs=globs
        )
    if quotes := script.get("quoteStyle"):
        yield Fact(f"Quotes: strings take {quotes} quotes (Biome)", at("quoteStyle"), globs=globs)
    if semicolons := script.get("semicolons"):
        said = "always" if semicolons == "always" else "only where they are needed"
        yield Fact(f"Semicolons: {said} (Biome)", at("semicolons"), globs=globs)
    if commas := script.get("trailingCommas"):
        yield Fact(f"Trailing commas: {commas} (Biome)", at("trailingCommas"), globs=globs)


def _indent(style: object, size: object) -> str:
    if style == "tab":
        return "tabs"
    return f"{size} spaces" if size is not None else f"{style}s"


def prettier(text: str) -> Iterator[Fact]:
    """Facts of a .prettierrc, which is JSON or YAML."""
    yield Fact("Formatter: Prettier", 1)
    settings = table(parse_json(text) if text.lstrip().startswith("{") else parse_yaml(text))
    yield from _prettier(settings, text)
    overrides = settings.get("overrides")
    for each in overrides if isinstance(overrides, list) else ():
        files = each.get("files") if isinstance(each, dict) else None
        globs = tuple(files) if isinstance(files, list) else (files,) if isinstance(files, str) else ()
        if globs and all(isinstance(glob, str) for glob in globs):
            yield from _prettier(table(each, "options"), text, globs, max(text.find(globs[0]), 0))


def _prettier(settings: dict[str, Any], text: str, globs: tuple[str, ...] = (), start: int = 0) -> Iterator[Fact]:
    said: dict[str, Callable[[Any], str]] = {
        "printWidth": lambda value: f"Line length: at most {value} characters (Prettier)",
        "tabWidth": lambda value: f"Indentation: {value} spaces (Prettier)",
        "useTabs": lambda value: "Indentation: tabs (Prettier)" if value else "",
        "singleQuote": lambda value: f"Quotes: strings take {'single' if value else 'double'} quotes (Prettier)",
        "semi": lambda value: f"Semicolons: {'always' if value else 'none'} (Prettier)",
        "trailingComma": lambda value: f"Trailing commas: {value} (Prettier)",
        "endOfLine": lambda value: f"Line endings: {value} (Prettier)",
        "arrowParens": lambda value: f"Parentheses around a sole arrow function parameter: {value} (Prettier)",
    }
    for key, told in said.items():
        if key in settings and (words := told(settings[key])):
            line = text.count("\n", 0, start) + line_of(text[start:], rf'"?{key}"?\s*:')
            yield Fact(words, line, globs=globs)


def script_config(name: str, text: str) -> Iterator[Fact]:
    """Facts of a configuration file in JavaScript, which is read as text and not run."""
    tool = name.partition(".")[0]
    said = {"eslint": "Linter: ESLint", "prettier": "Formatter: Prettier"}.get(tool, f"Test runner: {tool.title()}")
    yield Fact(said, 1)
    for key, told in (
        ("max-len", "Line length: at most {} characters (ESLint)"),
        ("printWidth", "Line length: at most {} characters (Prettier)"),
    ):
        if found := re.search(rf"[\"']?{key}[\"']?\s*:\s*(?:\[[^\]\d]*)?(\d+)", text):
            yield Fact(told.format(found[1]), text.count("\n", 0, found.start()) + 1)
    if found := re.search(r"[\"']?singleQuote[\"']?\s*:\s*(true|false)", text):
        kind = "single" if found[1] == "true" else "double"
        yield Fact(f"Quotes: strings take {kind} quotes (Prettier)", text.count("\n", 0, found.start()) + 1)
    if found := re.search(r"[\"']no-console[\"']\s*:\s*[\"'\[]*\s*[\"']?(error|warn)", text):
        yield Fact("ESLint forbids console.log (no-console)", text.count("\n", 0, found.start()) + 1)


def node_version(text: str) -> Iterator[Fact]:
    """The version in a .nvmrc or .node-version."""
    version = next((line.strip() for line in text.split("\n") if line.strip()), "")
    if re.fullmatch(r"[\w./*+-]{1,40}", version):
        yield Fact(f"Node version: {version}", line_of(text, re.escape(version)))
