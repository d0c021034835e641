"""Split Markdown into pieces that can be rules: paragraphs, list items, table rows, commands, code, comments, quotes.

Each piece has its lines, the headings above it and the sentence that introduces it. Nothing is rendered.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from markdown_it import MarkdownIt
from markdown_it.tree import SyntaxTreeNode

from deltamem_agents.guidelines.commands import commands, looks_like_shell
from deltamem_agents.guidelines.files import UnreadableError

DEEPEST = 64  # nested blocks
FEW_COMMANDS = 2  # commands of one block that stay together
SHELL = frozenset("bash sh shell zsh fish console shell-session shellsession terminal cmd powershell ps1 pwsh".split())
Form = Literal["paragraph", "item", "row", "command", "code", "comment", "quote"]

_LINK = re.compile(r"!?\[([^\]]*)\]\(<?([^)\s>]*)>?(?:\s+[\"'][^)]*)?\)")
_COMMENT = re.compile(r"<!--(.*?)-->", re.DOTALL)
_TAG = re.compile(r"</?[a-zA-Z][^<>]*>")
_MARKUP = re.compile(r"(?<![\w*])(?:\*\*\*|\*\*|\*|__)(?=\S)|(?<=\S)(?:\*\*\*|\*\*|\*|__)(?![\w*])")
_LABEL = re.compile(r"^\([\w-]+\)=$")  # MyST's, which other pages link to
_ALERT = re.compile(r"^\[!\w+\]\s*")
_TASK = re.compile(r"^\[[ xX]\]\s+")
_NO_COMMENT = re.compile(
    r"^\s*(?:/?(?:prettier|eslint|markdownlint|textlint|vale|cspell|spell|toc|doctoc|begin|end|start|stop|omit|"
    r"automatically|generated|badges?|all-contributors|template|please leave|todo|fixme|region)\b|[-=#*_ ]*$)",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a Markdown text.

    Args:
        text: On one line; code on several.
        first, last: Its lines, from 1.
        form: What it is.
        headings: The headings above it, outermost first.
        context: What introduces it, and the list items that it is nested in; may be empty.
    """

    text: str
    first: int
    last: int
    form: Form
    headings: tuple[str, ...] = ()
    context: str = ""


def pieces(text: str, *, offset: int = 0) -> list[Piece]:
    """Split a text.

    Args:
        offset: How many lines precede it in its file.

    Raises:
        UnreadableError: Its blocks are nested too deeply.
    """
    parser = MarkdownIt("commonmark", {"maxNesting": 4 * DEEPEST}).enable("table")
    tokens = parser.parse(text)
    if tokens and max(each.level for each in tokens) > DEEPEST:
        raise UnreadableError(f"its blocks are nested more than {DEEPEST} deep")
    return list(_Splitter(text.split("\n"), offset).blocks(SyntaxTreeNode(tokens).children, (), "paragraph"))


def plain(text: str) -> str:
    """Inline Markdown as text, without emphasis, images, tags and addresses; code stays in backticks.

    >>> plain("**Never** use [the old API](docs/old.md) with `a*b*c`.")
    'Never use the old API (docs/old.md) with `a*b*c`.'
    """
    parts = re.split(r"(`+[^`]*`+)", text)
    parts[::2] = [_MARKUP.sub("", _TAG.sub("", each)) for each in parts[::2]]
    return " ".join(_LINK.sub(_linked, "".join(parts)).split())


def _linked(found: re.Match[str]) -> str:
    words, target = found[1], found[2].split("#")[0]
    if found[0].startswith("!") or not target or re.match(r"[a-z]+:", target) or target in words:
        return words
    return f"{words} ({target})"


@dataclass(slots=True)
class _Splitter:
    lines: list[str]
    offset: int

    def blocks(
        self, nodes: Sequence[SyntaxTreeNode], headings: tuple[str, ...], form: Form, context: str = ""
    ) -> Iterator[Piece]:
        above: list[tuple[int, str]] = []
        intro: Piece | None = None  # a paragraph that ends with a colon, while what it introduces follows
        for node, following in zip(nodes, [*nodes[1:], None], strict=False):
            here = (*headings, *(title for _, title in above))
            if node.type == "heading":
                level = int(node.tag[1:])
                above = [each for each in above if each[0] < level]
                above.append((level, plain(_inline(node))))
                intro = None
            elif node.type == "paragraph":
                if _is_title(node):
                    above = [*(each for each in above if each[0] < 7), (7, plain(_inline(node)).rstrip(":"))]
                    intro = None
                    continue
                made = list(self._paragraph(node, here, form, context))
                ends = made and made[-1].text.endswith((":", "："))
                intro = made[-1] if ends else None
                yield from made[:-1] if intro is not None and self._joins(following) else made
            elif node.type in ("bullet_list", "ordered_list"):
                for item in node.children:
                    yield from self._item(item, here, _also(context, intro))
                intro = None
            elif node.type in ("fence", "code_block"):
                yield from self._code(node, here, context, intro)
                intro = None
            elif node.type == "table":
                yield from self._table(node, here, _also(context, intro))
                intro = None
            elif node.type == "blockquote":
                yield from self.blocks(node.children, here, "quote", _also(context, intro))
                intro = None
            elif node.type == "html_block":
                yield from self._html(node, here, context)

    def _place(self, node: SyntaxTreeNode) -> tuple[int, int]:
        first, last = node.map or (0, 1)
        while last - 1 > first and not self.lines[last - 1].strip():
            last -= 1
        return first + 1 + self.offset, last + self.offset

    def _paragraph(self, node: SyntaxTreeNode, headings: tuple[str, ...], form: Form, context: str) -> Iterator[Piece]:
        source = _inline(node)
        first, last = self._place(node)
        for comment in _COMMENT.finditer(source):
            yield from _comment(comment[1], first + source.count("\n", 0, comment.start()), headings, context)
        text = _TASK.sub("", _ALERT.sub("", plain(_COMMENT.sub(" ", source))))
        if text and not _LABEL.match(text):
            yield Piece(text, first, last, form, headings, context)

    def _item(self, node: SyntaxTreeNode, headings: tuple[str, ...], context: str) -> Iterator[Piece]:
        children = node.children
        made: list[Piece] = []
        if children and children[0].type == "paragraph":
            made = list(self._paragraph(children[0], headings, "item", context))
            children = children[1:]
            shown = made
            if made and children and children[0].type in ("fence", "code_block"):
                yield from self._code(children[0], headings, context, made[-1])
                shown = made[:-1] if self._joins(children[0]) else made
                children = children[1:]
            yield from shown
        within = _also(context, made[-1] if made else None)
        yield from self.blocks(children, headings, "item", within)

    def _joins(self, node: SyntaxTreeNode | None) -> bool:
        """Whether a node is a block of code, whose pieces have the sentence before it in their text or context."""
        return node is not None and node.type in ("fence", "code_block") and bool(node.content.strip())

    def _commands_in(self, node: SyntaxTreeNode) -> tuple[list[tuple[str, str, int, int]], bool]:
        """The commands of a block of code, and whether each is a piece of its own."""
        first, _ = self._place(node)
        content = node.content.rstrip("\n")
        language = (node.info or "").split()[0].casefold().strip("{}.") if node.info and node.info.split() else ""
        shell = language in SHELL or (not language and looks_like_shell(content))
        start = first + (1 if node.type == "fence" else 0)
        found = list(commands(content.split("\n"), start)) if shell else []
        return found, bool(found) and (len(found) > FEW_COMMANDS or any(said for said, *_ in found))

    def _code(
        self, node: SyntaxTreeNode, headings: tuple[str, ...], context: str, intro: Piece | None
    ) -> Iterator[Piece]:
        first, last = self._place(node)
        content = node.content.rstrip("\n")
        within = _also(context, intro)
        found, apart = self._commands_in(node)
        if apart:
            for said, command, begins, ends in found:
                text = f"{said}: `{command}`" if said else f"`{command}`"
                yield Piece(text, begins, ends, "command", headings, within)
        elif content.strip():
            begins = intro.first if intro is not None else first
            joined = "; ".join(f"`{command}`" for _, command, *_ in found) if found else content
            text = f"{intro.text} {joined}" if intro is not None else joined
            yield Piece(text, begins, last, "command" if found else "code", headings, context)

    def _table(self, node: SyntaxTreeNode, headings: tuple[str, ...], context: str) -> Iterator[Piece]:
        rows = [row for part in node.children for row in part.children]
        cells = [[plain(_inline(cell)) for cell in row.children] for row in rows]
        titles = cells[0] if cells else []
        for row, row_cells in zip(rows[1:], cells[1:], strict=True):
            said = [
                f"{title}: {cell}" if title else cell for title, cell in zip(titles, row_cells, strict=False) if cell
            ]
            if said:
                first, last = self._place(row)
                yield Piece("; ".join(said), first, last, "row", headings, context)

    def _html(self, node: SyntaxTreeNode, headings: tuple[str, ...], context: str) -> Iterator[Piece]:
        first, last = self._place(node)
        content = node.content
        for comment in _COMMENT.finditer(content):
            yield from _comment(comment[1], first + content.count("\n", 0, comment.start()), headings, context)
        text = plain(_COMMENT.sub(" ", content))
        if len(text.split()) > 2:
            yield Piece(text, first, last, "paragraph", headings, context)


def _comment(content: str, first: int, headings: tuple[str, ...], context: str) -> Iterator[Piece]:
    """The pieces of an HTML comment that says something; each of its list items is a piece."""
    if _NO_COMMENT.match(content.strip()):
        return
    block: list[str] = []
    begins = first
    for number, line in enumerate([*content.split("\n"), ""], first):
        item = re.match(r"\s*(?:[-*+]|\d+[.)])\s+", line)
        if block and (item or not line.strip()):
            yield Piece(plain(" ".join(block)), begins, number - 1, "comment", headings, context)
            block = []
        if line.strip():
            begins = begins if block else number
            block.append(line[item.end() :] if item else line.strip())


def _also(context: str, intro: Piece | None) -> str:
    return " ".join(each for each in (context, intro.text if intro else "") if each)


def _inline(node: SyntaxTreeNode) -> str:
    return "\n".join(each.content for each in node.children if each.type == "inline")


def _is_title(node: SyntaxTreeNode) -> bool:
    """Whether a paragraph is bold as a whole: a heading in all but name."""
    said = _inline(node).strip()
    return bool(re.fullmatch(r"(\*\*|__)(?!\s)[^*_\n]{1,60}\1:?", said)) and not said.rstrip("*_").endswith((".", "!"))
