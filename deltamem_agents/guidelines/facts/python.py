"""Facts of Python projects: pyproject.toml, setup.cfg, tox.ini, noxfile.py, ruff.toml and their kin."""

from __future__ import annotations

import ast
import configparser
import re
import tomllib
from collections.abc import Iterator, Mapping
from typing import Any

from deltamem_agents.guidelines.facts.statement import Fact, TomlLines, check_depth, line_of, table
from deltamem_agents.guidelines.files import UnreadableError

_BACKENDS = {
    "uv": "uv", "poetry": "Poetry", "pdm": "PDM", "hatch": "Hatch", "pixi": "pixi",
}  # fmt: skip
_FORMATTERS = {"black": "Black", "isort": "isort (sorts imports)", "yapf": "YAPF"}
_LINTERS = {"pylint": "Pylint", "flake8": "Flake8", "bandit": "Bandit (security)", "codespell": "codespell (spelling)"}
_TYPES = {"mypy": "mypy", "pyright": "Pyright", "basedpyright": "basedpyright", "ty": "ty"}


def parse_toml(text: str) -> dict[str, Any]:
    """Parse TOML.

    Raises:
        UnreadableError: It is not valid; the message names the line.
    """
    try:
        value = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        told = str(error)
        line = re.search(r"line (\d+)", told)
        raise UnreadableError(
            f"line {line[1] if line else text.count(chr(10)) + 1}: TOML is not valid: {told}"
        ) from error
    except (RecursionError, ValueError) as error:
        raise UnreadableError("line 1: TOML is nested too deeply or has a value that is too large") from error
    check_depth(value)
    return value


def parse_ini(text: str) -> configparser.RawConfigParser:
    """Parse an INI file.

    Raises:
        UnreadableError: It is not valid; the message names the line.
    """
    parser = configparser.RawConfigParser(strict=False, allow_no_value=True)
    try:
        parser.read_string(text)
    except configparser.MissingSectionHeaderError as error:
        raise UnreadableError(f"line {error.lineno}: a key stands before the first section") from error
    except configparser.ParsingError as error:
        raise UnreadableError(f"line {error.errors[0][0]}: it cannot be parsed") from error
    except configparser.Error as error:
        raise UnreadableError(f"line {getattr(error, 'lineno', 1)}: {error}") from error
    return parser


def pyproject(text: str) -> Iterator[Fact]:
    """Facts of a pyproject.toml."""
    whole, lines = parse_toml(text), TomlLines(text)
    project, tools = table(whole, "project"), table(whole, "tool")
    if isinstance(required := project.get("requires-python"), str):
        yield Fact(f"Python version: requires Python {required}", lines.of("project", "requires-python"))
    for key, name in _BACKENDS.items():
        if key in tools:
            yield Fact(f"Package manager: {name} manages dependencies", lines.of(f"tool.{key}"))
    poetry = table(tools, "poetry", "dependencies")
    if isinstance(python := poetry.get("python"), str):
        yield Fact(f"Python version: requires Python {python}", lines.of("tool.poetry.dependencies", "python"))
    for key, name in _FORMATTERS.items():
        if key in tools:
            yield Fact(f"Formatter: {name}", lines.of(f"tool.{key}"))
    for key, name in _LINTERS.items():
        if key in tools:
            yield Fact(f"Linter: {name}", lines.of(f"tool.{key}"))
    for key, name in _TYPES.items():
        if key in tools:
            strict = ", in strict mode" if table(tools, key).get("strict") is True else ""
            yield Fact(f"Type checker: {name}{strict}", lines.of(f"tool.{key}"))
    for tool in ("black", "isort"):
        for key in ("line-length", "line_length"):
            if key in table(tools, tool):
                yield Fact(
                    f"Line length: at most {table(tools, tool)[key]} characters ({tool})", lines.of(f"tool.{tool}", key)
                )
    yield from _ruff(table(tools, "ruff"), "tool.ruff", lines)
    yield from _pytest(table(tools, "pytest", "ini_options"), "tool.pytest.ini_options", lines)
    coverage = table(tools, "coverage", "report")
    if "fail_under" in coverage:
        yield Fact(
            f"Test coverage: at least {coverage['fail_under']} percent", lines.of("tool.coverage.report", "fail_under")
        )
    for section in ("tool.poe.tasks", "tool.taskipy.tasks", "tool.pdm.scripts", "tool.hatch.envs.default.scripts"):
        runner = {"poe": "poe", "taskipy": "task", "pdm": "pdm run", "hatch": "hatch run"}[section.split(".")[1]]
        for name, said in table(whole, *section.split(".")).items():
            if isinstance(said, str | list):
                does = said if isinstance(said, str) else " && ".join(map(str, said))
                yield Fact(f"`{runner} {name}`: runs `{does[:200]}`", lines.of(section, name), kind="command")


def ruff(text: str) -> Iterator[Fact]:
    """Facts of a ruff.toml."""
    yield from _ruff(parse_toml(text) or {"": None}, "", TomlLines(text))


def _ruff(settings: Mapping[str, Any], section: str, lines: TomlLines) -> Iterator[Fact]:
    if not settings:
        return

    def within(name: str) -> str:
        return f"{section}.{name}".strip(".")

    yield Fact("Linter: Ruff", lines.of(section))
    if "line-length" in settings:
        yield Fact(
            f"Line length: at most {settings['line-length']} characters (ruff)", lines.of(section, "line-length")
        )
    if "target-version" in settings:
        yield Fact(
            f"Python version that ruff targets: {settings['target-version']}", lines.of(section, "target-version")
        )
    if "indent-width" in settings:
        yield Fact(f"Indentation: {settings['indent-width']} spaces (ruff)", lines.of(section, "indent-width"))
    formatting = table(settings, "format")
    if formatting:
        yield Fact("Formatter: `ruff format`", lines.of(within("format")))
    if "quote-style" in formatting:
        yield Fact(
            f"Quotes: strings take {formatting['quote-style']} quotes (ruff format)",
            lines.of(within("format"), "quote-style"),
        )
    if "indent-style" in formatting:
        yield Fact(
            f"Indentation: with {formatting['indent-style']}s (ruff format)", lines.of(within("format"), "indent-style")
        )
    linting = table(settings, "lint")
    convention = table(linting, "pydocstyle").get("convention")
    if isinstance(convention, str):
        yield Fact(f"Docstrings: {convention} convention", lines.of(within("lint.pydocstyle"), "convention"))


def _pytest(settings: Mapping[str, Any], section: str, lines: TomlLines) -> Iterator[Fact]:
    if not settings:
        return
    yield Fact("Test runner: tests run with `pytest`", lines.of(section))
    if "testpaths" in settings:
        paths = settings["testpaths"]
        named = ", ".join(map(str, paths)) if isinstance(paths, list) else str(paths)
        yield Fact(f"Tests live in the directory {named}", lines.of(section, "testpaths"))


def ini(text: str) -> Iterator[Fact]:
    """Facts of setup.cfg, tox.ini, pytest.ini, .flake8 or mypy.ini."""
    parser, lines = parse_ini(text), TomlLines(text)
    for section in parser.sections():
        values = dict(parser.items(section))
        bare = section.removeprefix("tool:")
        if bare in ("flake8", "pycodestyle", "pylint", "isort"):
            yield Fact(f"{'Formatter' if bare == 'isort' else 'Linter'}: {bare}", lines.of(section))
        for key in ("max-line-length", "max_line_length", "line_length"):
            if values.get(key):
                yield Fact(f"Line length: at most {values[key]} characters ({bare})", lines.of(section, key))
        if bare == "mypy":
            strict = ", in strict mode" if str(values.get("strict")).casefold() == "true" else ""
            yield Fact(f"Type checker: mypy{strict}", lines.of(section))
        if bare == "pytest":
            yield from _pytest(values, section, lines)
        if bare == "coverage:report" and values.get("fail_under"):
            yield Fact(f"Test coverage: at least {values['fail_under']} percent", lines.of(section, "fail_under"))
        if section == "options" and values.get("python_requires"):
            yield Fact(
                f"Python version: requires Python {values['python_requires']}", lines.of(section, "python_requires")
            )
        if section == "tox" and (environments := values.get("envlist") or values.get("env_list")):
            yield Fact(
                f"`tox` runs the tests in {' '.join(environments.split())}",
                lines.of(section, "envlist"),
                kind="command",
            )
        if section.startswith("testenv") and values.get("commands"):
            name = section.partition(":")[2]
            command = f"tox -e {name}" if name else "tox"
            does = "; ".join(each.strip() for each in str(values["commands"]).strip().split("\n"))
            yield Fact(f"`{command}`: runs `{does[:200]}`", lines.of(section, "commands"), kind="command")


def noxfile(text: str) -> Iterator[Fact]:
    """Sessions of a noxfile.py, which is parsed and not run."""
    try:
        tree = ast.parse(text)
    except SyntaxError as error:
        raise UnreadableError(f"line {error.lineno}: Python is not valid") from error
    except (RecursionError, MemoryError, ValueError) as error:
        raise UnreadableError("line 1: Python is nested too deeply") from error
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and any("session" in ast.unparse(each) for each in node.decorator_list):
            runs = [
                " ".join(str(each.value) for each in call.args if isinstance(each, ast.Constant))
                for call in ast.walk(node)
                if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr == "run"
            ]
            said = (ast.get_docstring(node) or "").split("\n")[0]
            does = f": runs `{'; '.join(filter(None, runs))[:200]}`" if any(runs) else ""
            text = f"`nox -s {node.name.replace('_', '-') if False else node.name}`{does}{f' ({said})' if said else ''}"
            yield Fact(text, node.lineno, kind="command")


def python_version(text: str) -> Iterator[Fact]:
    """The version in a .python-version."""
    version = next((line.strip() for line in text.split("\n") if line.strip() and not line.startswith("#")), "")
    if re.fullmatch(r"[\w.+-]{1,40}", version):
        yield Fact(f"Python version: {version}", line_of(text, re.escape(version)))
