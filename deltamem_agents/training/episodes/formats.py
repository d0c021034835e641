"""Checkers of form: dates, numbers, times, lists, and Python code, which is parsed.

Each has a ``style`` from a few; a reply that holds nothing of the kind satisfies none.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from deltamem_agents.training.episodes.checkers import Checker, one_of

CODE_LIMIT = 5000  # characters; a longer reply is not searched for code
MONTHS = "January February March April May June July August September October November December".split()
_MONTH = f"(?:{'|'.join(MONTHS)})"
DATES = {
    "iso": re.compile(r"\b\d{4}-\d{2}-\d{2}\b"),
    "day first": re.compile(rf"\b\d{{1,2}} {_MONTH} \d{{4}}\b"),
    "month first": re.compile(rf"\b{_MONTH} \d{{1,2}}, \d{{4}}\b"),
    "dots": re.compile(r"\b\d{2}\.\d{2}\.\d{4}\b"),
    "slashes": re.compile(r"\b\d{2}/\d{2}/\d{4}\b"),
}
NUMBERS = {
    "plain": re.compile(r"(?<![\d,.' ])\d{4,}(?![\d,.'])"),
    "comma": re.compile(r"(?<![\d,])\d{1,3}(?:,\d{3})+(?!\d)"),
    "dot": re.compile(r"(?<![\d.])\d{1,3}(?:\.\d{3})+(?!\d)"),
    "apostrophe": re.compile(r"(?<![\d'])\d{1,3}(?:'\d{3})+(?!\d)"),
    "space": re.compile(r"(?<!\d)(?<!\d )\d{1,3}(?: \d{3})+(?!\d)"),
}
TIMES = {
    "24 hours": re.compile(r"\b(?:[01]\d|2[0-3]):[0-5]\d\b(?! ?[ap]m)"),
    "12 hours": re.compile(r"\b(?:1[0-2]|[1-9])(?::[0-5]\d)? ?[ap]m\b"),
}
UNITS = {
    "metric": re.compile(r"\d ?(?:km|m|cm|kg|g|litres|°C)(?!\w)"),
    "imperial": re.compile(r"\d ?(?:miles|ft|in|lb|oz|gallons|°F)(?!\w)"),
}
_BULLETS = {"dashes": r"- \S.*", "stars": r"\* \S.*", "numbers": r"\d+\. \S.*"}

_NAMING = {
    "snake": (re.compile(r"[a-z0-9]+(?:_[a-z0-9]+)*"), re.compile("_")),
    "camel": (re.compile(r"[a-z][a-zA-Z0-9]*"), re.compile("[a-z][A-Z]")),
    "pascal": (re.compile(r"(?:[A-Z][a-z0-9]*)+"), re.compile("[a-z][A-Z]")),
}


class Styled(Checker):
    """The reply holds something in this style, and nothing in another style of the same table."""

    style: str
    styles: ClassVar[dict[str, re.Pattern[str]]]

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of(self.name, "style", self.style, tuple(self.styles))

    def holds(self, reply: str) -> bool:
        """Whether only this style is found."""
        return {style for style, form in self.styles.items() if form.search(reply)} == {self.style}


@dataclass(frozen=True)
class DateStyle(Styled):
    """Dates stand in one style of `DATES`."""

    name: ClassVar[str] = "dates"
    styles: ClassVar[dict[str, re.Pattern[str]]] = DATES
    style: str


@dataclass(frozen=True)
class NumberStyle(Styled):
    """Numbers from 1000 are grouped in one style of `NUMBERS`."""

    name: ClassVar[str] = "numbers"
    styles: ClassVar[dict[str, re.Pattern[str]]] = NUMBERS
    style: str


@dataclass(frozen=True)
class TimeStyle(Styled):
    """Times of day stand in one style of `TIMES`."""

    name: ClassVar[str] = "times"
    styles: ClassVar[dict[str, re.Pattern[str]]] = TIMES
    style: str


@dataclass(frozen=True)
class UnitStyle(Styled):
    """Quantities have units of one system of `UNITS`."""

    name: ClassVar[str] = "units"
    styles: ClassVar[dict[str, re.Pattern[str]]] = UNITS
    style: str


@dataclass(frozen=True)
class ListStyle(Checker):
    """At least two lines, each an item with a dash, a star or its number; "inline": one line, with commas."""

    name: ClassVar[str] = "list"
    style: str

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of(self.name, "style", self.style, (*_BULLETS, "inline"))

    def holds(self, reply: str) -> bool:
        """Whether the reply's lines have this form."""
        lines = reply.splitlines()
        if self.style == "inline":
            return len(lines) == 1 and "," in reply and not re.match("|".join(_BULLETS.values()), reply)
        return len(lines) >= 2 and all(re.fullmatch(_BULLETS[self.style], line) for line in lines)


class CodeChecker(Checker):
    """A condition on the reply's Python code."""

    def holds(self, reply: str) -> bool:
        """Whether there is code that parses and satisfies the condition."""
        source = code_of(reply)
        return source is not None and self.holds_for(source, ast.parse(source))

    def holds_for(self, source: str, tree: ast.Module) -> bool:
        """Whether the code satisfies the condition."""
        raise NotImplementedError


@dataclass(frozen=True)
class Indentation(CodeChecker):
    """Each block is indented by ``unit`` more than the one around it: "tab", or a number of spaces."""

    name: ClassVar[str] = "indentation"
    unit: str

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of(self.name, "unit", self.unit, ("tab", "2", "3", "4", "8"))

    def holds_for(self, source: str, tree: ast.Module) -> bool:
        """Whether every indented block has this indentation, and there is one."""
        unit = "\t" if self.unit == "tab" else " " * int(self.unit)
        deeper = [token.string for token in _tokens(source) if token.type == tokenize.INDENT]
        return (
            bool(deeper)
            and all(set(each) == set(unit) and len(each) % len(unit) == 0 for each in deeper)
            and (min(map(len, deeper)) == len(unit))
        )


@dataclass(frozen=True)
class Naming(CodeChecker):
    """Every function and argument is named in "snake", "camel" or "pascal" case; one of them has several words."""

    name: ClassVar[str] = "naming"
    style: str

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of(self.name, "style", self.style, tuple(_NAMING))

    def holds_for(self, source: str, tree: ast.Module) -> bool:
        """Whether all names have this form, and one shows it."""
        functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
        whole, shows = _NAMING[self.style]
        names = [function.name for function in functions]
        others = [argument.arg for function in functions for argument in function.args.args]
        form = _NAMING["camel" if self.style == "pascal" else self.style][0]  # arguments do not begin with a capital
        return (
            any(shows.search(each) for each in names)
            and all(whole.fullmatch(each) for each in names)
            and all(form.fullmatch(each) for each in others)
        )


@dataclass(frozen=True)
class Quotes(CodeChecker):
    """Strings that are not docstrings stand in "single" or "double" quotes, and there is one."""

    name: ClassVar[str] = "quotes"
    style: str

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of(self.name, "style", self.style, ("single", "double"))

    def holds_for(self, source: str, tree: ast.Module) -> bool:
        """Whether every string has these quotes."""
        quote = "'" if self.style == "single" else '"'
        strings = [token.string for token in _tokens(source) if token.type == tokenize.STRING]
        short = [each for each in strings if not each.endswith(('"""', "'''"))]
        return bool(short) and all(each.endswith(quote) for each in short)


@dataclass(frozen=True)
class Documented(CodeChecker):
    """Every function has a docstring, and there is a function."""

    name: ClassVar[str] = "documented"

    def holds_for(self, source: str, tree: ast.Module) -> bool:
        """Whether no function lacks one."""
        functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
        return bool(functions) and all(ast.get_docstring(function) for function in functions)


@dataclass(frozen=True)
class Annotated(CodeChecker):
    """Every function's arguments and result are annotated, and there is a function."""

    name: ClassVar[str] = "annotated"

    def holds_for(self, source: str, tree: ast.Module) -> bool:
        """Whether no annotation is missing."""
        functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
        return bool(functions) and all(
            function.returns is not None and all(argument.annotation for argument in function.args.args)
            for function in functions
        )


def code_of(reply: str) -> str | None:
    """The Python code of a reply: a fenced block, or else the longest run of lines from a ``def`` on that parses."""
    if len(reply) > CODE_LIMIT:
        return None
    fenced = re.search(r"^```[a-z]*\n(.*?)^```", reply, re.MULTILINE | re.DOTALL)
    lines = (fenced.group(1) if fenced else reply).splitlines()
    start = next((i for i, line in enumerate(lines) if line.startswith(("def ", "@", "import ", "from "))), None)
    if start is None:
        return None
    for end in range(len(lines), start, -1):
        source = "\n".join(lines[start:end]) + "\n"
        try:
            ast.parse(source)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue
        return source
    return None


def _tokens(source: str) -> Iterator[tokenize.TokenInfo]:
    return tokenize.generate_tokens(io.StringIO(source).readline)
